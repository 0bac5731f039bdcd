"""What the number of positives does to the field, on real digits: python benchmarks/positives.py --drift.temperatures 0.02,0.05,0.2

x: held-out digits, blurred towards the mean of their class by half, in the place of generated ones; positives: random training digits of the class, n at a time, or all.
For each n, over many draws: the variance of the field, E||V_n - E V_n||^2 / ||V_all||^2, its bias, ||E V_n - V_all||^2 / ||V_all||^2, and the cosine between V_n and V_all,
of the loss's own sum over temperatures. Means over the classes. One JSON line each.

With --memory 1 instead: temporary memory of the compiled loss and its gradient for 640 generated samples of 384 features against up to 50,000 positives, in tiles and at once
(--drift.field names another field, which takes them at once).
"""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import data
from configs.default import Key
from data import pipeline
from drifting.fields import kernel_tiled as tiled
from drifting.images import to_float
from drifting.loss import drift_loss
from utils import config as config_lib
from utils.logging import setup_logging

FLAGS = (
    Key("draws", 64, "draws of positives", "[2, inf)"),
    Key("seed", 0, "of the draws", "[0, inf)"),
    Key("memory", False, "temporary memory of many positives instead"),
)
COUNTS = (8, 16, 32, 64)


def memory(temperatures, field):
    shape = lambda n: jax.ShapeDtypeStruct((1, n, 384), jnp.float32)
    usual = tiled.TILE
    sizes = ((640, usual), (10_000, usual), (50_000, usual))
    for n_pos, tile in (*sizes, (10_000, 50_000), (50_000, 50_000)) if field == "kernel" else sizes:
        tiled.TILE = tile
        step = jax.jit(
            jax.value_and_grad(
                lambda gen, pos: drift_loss(gen, pos, temperatures=temperatures, field=field)[
                    0
                ].sum()
            )
        )
        size = step.lower(shape(640), shape(n_pos)).compile().memory_analysis().temp_size_in_bytes
        print(
            json.dumps(
                {
                    "field": field,
                    "n_pos": n_pos,
                    "in_tiles": field == "kernel" and n_pos > tile,
                    "temporary_mb": round(size / 1e6, 1),
                    "positives_mb": round(n_pos * 384 * 4 / 1e6, 1),
                }
            ),
            flush=True,
        )


def main(flag_values):
    setup_logging()
    flags = config_lib.all_flags(flag_values)
    temperatures = tuple(flags.drift.temperatures)
    if flags.memory:
        return memory(temperatures, flags.drift.field)
    (train, labels), (test, test_labels) = (
        pipeline.everything(data.load("digits", split)) for split in ("train", "test")
    )
    vectors = lambda images: np.asarray(to_float(images)).reshape(len(images), -1)

    def field(x, pos):  # V~ S of the loss: the gradient of the loss is -2 V~ / (S N D)
        loss = lambda x: drift_loss(x[None], pos[None], temperatures=temperatures)[0].sum()
        return -jax.grad(loss)(x)

    rng = np.random.default_rng(flags.seed)
    field_of_all, field_of_draws = (
        jax.jit(field),
        jax.jit(lambda x, pos: jax.lax.map(lambda p: field(x, p), pos)),
    )
    rows = {n: [] for n in COUNTS}
    for k in range(10):
        pos = vectors(train[labels == k])
        x = vectors(test[test_labels == k])[:48]
        x = 0.5 * x + 0.5 * pos.mean(0)
        size = min((labels == c).sum() for c in range(10))  # one shape for all classes
        pos = pos[:size]
        v_all = field_of_all(x, pos)
        for n in COUNTS:
            v = field_of_draws(
                x, jnp.stack([pos[rng.permutation(size)[:n]] for _ in range(flags.draws)])
            )
            mean, power = jnp.mean(v, 0), jnp.sum(v_all**2)
            cosine = jnp.sum(v * v_all, (1, 2)) / jnp.sqrt(jnp.sum(v**2, (1, 2)) * power)
            rows[n].append(
                [
                    jnp.mean(jnp.sum((v - mean) ** 2, (1, 2))) / power,
                    jnp.sum((mean - v_all) ** 2) / power,
                    jnp.mean(cosine),
                ]
            )
    for n, values in rows.items():
        variance, bias, cosine = np.mean(values, 0)
        print(
            json.dumps(
                {
                    "n_pos": n,
                    "of": int(size),
                    "temperatures": temperatures,
                    "variance": round(float(variance), 4),
                    "bias": round(float(bias), 4),
                    "cosine": round(float(cosine), 3),
                }
            )
        )


if __name__ == "__main__":
    config_lib.define_flags(groups=("drift",), extra=FLAGS)
    config_lib.run_main(main)
