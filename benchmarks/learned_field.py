"""Does the learned field learn? Its denoising loss on held-out sets against a fixed kernel's.

    python benchmarks/learned_field.py

Sets are images of one digit class in raw pixels, in units of S. Training sets are drawn from the
1,257 training digits, held-out ones from the 540 others, the same for all fields.

The fixed kernel smoother is

    S(x, Y) = sum_y softmax_y(log k(x, y)) (y - x)

For each level of noise it takes the temperature that does best on the held-out sets themselves, so
what the learned field is held against is never in its favour.

A line of JSON for each field: by level of noise the loss, mean |S - (y_i - x)|^2 / D. `nothing` is
that of S = 0, the noise itself.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.digit_sets import CLASSES, draw_sets, images_by_class
from benchmarks.frame import print_line
from configs.default import Key
from drifting.distances import distance, log_kernel
from drifting.fields.learned import denoising_loss, field_loss, init_field_state, update_field
from utils import config as config_lib

FLAGS = (
    Key("steps", 2000, "steps of training", "[1, inf)"),
    Key("set_size", 64, "samples in a set", "[2, inf)"),
    Key("levels", (0.1, 0.2, 0.5, 1.0), "levels of noise", "(0, inf)"),
    Key("held_out_sets", 40, "held-out sets of each class", "[1, inf)"),
    Key("width", 64, "hidden units of the field", "[1, inf)"),
    Key("learning_rate", 1e-3, "of Adam", "(0, inf)"),
    Key("ema", 0.99, "decay of the average that is scored", "(0, 1)"),
    Key("seed", 0, "of everything", "[0, 4294967295]"),
)
KERNELS = ("laplace", "gaussian")
TEMPERATURES = np.geomspace(0.005, 2, 27)  # of the kernel smoothers


def main(flag_values):
    flags: Any = config_lib.all_flags(flag_values)
    for field, loss in compare(flags).items():
        print_line({"field": field} | {str(level): value for level, value in loss.items()})


def compare(flags: Any) -> dict[str, dict[float, float]]:
    """Returns {field: {level: loss on the held-out sets}}; flags: the values of `FLAGS`."""
    random = np.random.default_rng(flags.seed)
    train, test = images_by_class("train"), images_by_class("test")
    set_size = min(flags.set_size, *map(len, test))
    held_out = draw_held_out(random, test, set_size, flags.held_out_sets)
    noise = random.standard_normal(held_out.shape, np.float32)

    losses = {"nothing": {level: float(level**2 * np.mean(noise**2)) for level in flags.levels}}
    for kernel in KERNELS:
        losses[kernel] = {
            level: best_smoother_loss(noise, held_out, level, kernel) for level in flags.levels
        }
    for name, projection in (("learned", True), ("learned, without projection", False)):
        params = train_field(random, train, set_size, projection, flags)
        losses[name] = learned_losses(
            params, jnp.asarray(noise), jnp.asarray(held_out), flags.levels
        )
    return losses


def draw_held_out(
    random: np.random.Generator, images: list[np.ndarray], size: int, sets: int
) -> np.ndarray:
    """Returns sets of each class [sets C, size, D], in units of the mean distance S."""
    held_out = np.concatenate([draw_sets(random, images, size) for _ in range(sets)])
    off_diagonal = 1 - np.eye(size)

    def mean_distance(y):
        return jnp.sum(distance(y, y, size) * off_diagonal) / off_diagonal.sum()

    dimension = held_out.shape[2]
    return held_out / (np.mean(jax.vmap(mean_distance)(held_out)) / np.sqrt(dimension))


# ---------------------------------------------------------------- kernel smoothers


def best_smoother_loss(noise: np.ndarray, y: np.ndarray, level: float, kernel: str) -> float:
    """Returns the least loss of a kernel smoother over all temperatures."""
    return min(float(smoother_loss(noise, y, level, kernel, tau)) for tau in TEMPERATURES)


@jax.jit(static_argnames="kernel")
def smoother_loss(noise, y, level, kernel: str, tau) -> jax.Array:
    """Returns what `denoising_loss` is for a kernel smoother; y: sets [B, P, D] in units of S."""

    def smooth(x, y):
        size, dimension = y.shape
        # Each x leaves out the sample that it was made of.
        logits = log_kernel(x, y, kernel, tau, jnp.sqrt(dimension), size)
        return jax.nn.softmax(logits, axis=1) @ y - x

    x = y + level * noise
    return jnp.mean((jax.vmap(smooth)(x, y) - (y - x)) ** 2)


# ---------------------------------------------------------------- the learned field


def train_field(
    random: np.random.Generator,
    images: list[np.ndarray],
    set_size: int,
    projection: bool,
    flags: Any,
) -> dict[str, Any]:
    """Returns the average of the parameters of a field after its training."""
    dimension = images[0].shape[1]
    weight = jnp.ones((CLASSES, set_size))
    key = jax.random.key(flags.seed)
    state = init_field_state(key, [dimension], flags.width, projection, flags.ema)

    @jax.jit
    def step(state, key, sets):
        samples = {"global": sets.reshape(-1, 1, dimension)}
        grads = jax.grad(field_loss)(state["params"], key, samples, weight, flags.levels)
        return update_field(state, grads, flags.learning_rate)

    for i in range(flags.steps):
        sets = draw_sets(random, images, set_size)
        state = step(state, jax.random.fold_in(key, i), sets)
    (average,) = state["ema"].values()
    return average[str(dimension)]


def learned_losses(
    params: dict[str, Any], noise: jax.Array, y: jax.Array, levels: Sequence[float]
) -> dict[float, float]:
    """Returns the loss of a learned field by level of noise."""
    weight = jnp.ones(y.shape[:2])

    @jax.jit
    def score(level):
        return denoising_loss(params, noise, y, weight, level)

    return {level: float(score(level)) for level in levels}


if __name__ == "__main__":
    config_lib.define_flags(groups=(), extra=FLAGS)
    config_lib.run_main(main)
