"""What the number of positives does to the field, on real digits.

    python benchmarks/positives.py --drift.temperatures 0.02,0.05,0.2

Held-out digits, blurred towards the mean of their class by half, stand for generated samples x.
Positives are random training digits of the class, n at a time, or all. V is what the loss makes of
them, with its sum over temperatures. A line of JSON for each n, over many draws, means over the
classes:

    variance  E||V_n - E V_n||^2 / ||V_all||^2
    bias      ||E V_n - V_all||^2 / ||V_all||^2
    cosine    between V_n and V_all

    python benchmarks/positives.py --memory 1 --drift.field F

Temporary memory of the compiled loss and its gradient, for 640 generated samples of 384 features
against up to 50,000 positives. The kernel field takes them in tiles, and here at once too; other
fields always take them at once.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.digit_sets import CLASSES, images_by_class
from benchmarks.frame import print_line
from configs.default import Key
from drifting.fields import kernel_tiled
from drifting.loss import drift_loss
from utils import config as config_lib
from utils.logging import setup_logging

FLAGS = (
    Key("draws", 64, "draws of positives", "[2, inf)"),
    Key("seed", 0, "of the draws", "[0, inf)"),
    Key("memory", False, "temporary memory of many positives instead"),
)
COUNTS = (8, 16, 32, 64)  # of positives
SAMPLES = 48  # x of each class


def main(flag_values):
    setup_logging()
    flags: Any = config_lib.all_flags(flag_values)
    temperatures = tuple(flags.drift.temperatures)
    if flags.memory:
        print_memory(temperatures, flags.drift.field)
    else:
        print_spread(temperatures, flags.draws, np.random.default_rng(flags.seed))


# ---------------------------------------------------------------- the spread of the field


def print_spread(temperatures: tuple[float, ...], draws: int, random: np.random.Generator) -> None:
    """Prints a line for each number of positives."""

    @jax.jit
    def field(x, pos):
        # The gradient of the loss is -2 V~ / (S N D): V~ but for its unit.
        def loss(x):
            return drift_loss(x[None], pos[None], temperatures=temperatures)[0].sum()

        return -jax.grad(loss)(x)

    @jax.jit
    def field_of_draws(x, sets):
        return jax.lax.map(lambda pos: field(x, pos), sets)

    train, test = images_by_class("train"), images_by_class("test")
    size = min(map(len, train))  # one shape for all classes
    rows = {count: [] for count in COUNTS}
    for label in range(CLASSES):
        pos = train[label]
        x = 0.5 * test[label][:SAMPLES] + 0.5 * pos.mean(0)
        pos = pos[:size]
        v_all = field(x, pos)
        for count in COUNTS:
            chosen = [random.permutation(size)[:count] for _ in range(draws)]
            v = field_of_draws(x, jnp.stack([pos[indices] for indices in chosen]))
            rows[count].append(spread(v, v_all))

    for count, values in rows.items():
        variance, bias, cosine = np.mean(values, 0)
        print_line(
            {
                "n_pos": count,
                "of": size,
                "temperatures": temperatures,
                "variance": float(variance),
                "bias": float(bias),
                "cosine": float(cosine),
            }
        )


def spread(v: jax.Array, v_all: jax.Array) -> list[jax.Array]:
    """Returns variance, bias and cosine of fields.

    Args:
        v: of several draws, [draws, N, D].
        v_all: with all positives, [N, D].
    """
    mean, power = jnp.mean(v, 0), jnp.sum(v_all**2)
    variance = jnp.mean(jnp.sum((v - mean) ** 2, (1, 2))) / power
    bias = jnp.sum((mean - v_all) ** 2) / power
    norms = jnp.sqrt(jnp.sum(v**2, (1, 2)) * power)
    cosine = jnp.mean(jnp.sum(v * v_all, (1, 2)) / norms)
    return [variance, bias, cosine]


# ---------------------------------------------------------------- memory

GENERATED, DIMENSION = 640, 384
MANY = (640, 10_000, 50_000)  # positives


def print_memory(temperatures: Sequence[float], field: str) -> None:
    """Prints a line for each number of positives, and for the kernel of those at once."""
    usual_tile = kernel_tiled.TILE
    cases = [(count, usual_tile) for count in MANY]
    if field == "kernel":
        cases += [(count, MANY[-1]) for count in MANY if count > usual_tile]
    for count, tile in cases:
        kernel_tiled.TILE = tile  # ty: ignore[invalid-assignment]
        print_line(
            {
                "field": field,
                "n_pos": count,
                "in_tiles": field == "kernel" and count > tile,
                "temporary_mb": temporary_bytes(count, temperatures, field) / 1e6,
                "positives_mb": count * DIMENSION * 4 / 1e6,
            }
        )
    kernel_tiled.TILE = usual_tile


def temporary_bytes(positives: int, temperatures: Sequence[float], field: str) -> int:
    """Returns the temporary memory of the loss and its gradient, compiled and not run."""

    def loss(gen, pos):
        return drift_loss(gen, pos, temperatures=temperatures, field=field)[0].sum()

    shapes = [
        jax.ShapeDtypeStruct((1, count, DIMENSION), jnp.float32) for count in (GENERATED, positives)
    ]
    compiled: Any = jax.jit(jax.value_and_grad(loss)).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


if __name__ == "__main__":
    config_lib.define_flags(groups=("drift",), extra=FLAGS)
    config_lib.run_main(main)
