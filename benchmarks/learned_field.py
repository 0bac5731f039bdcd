"""Does the learned field learn? Its denoising loss on held-out sets against that of the best fixed kernel smoother: python benchmarks/learned_field.py

Sets are images of one digit class in raw pixels, in units of S; training sets are drawn from the 1,257 training digits, held-out ones from the 540 others, the same for all.
For each level of noise, the kernel smoother S(x, Y) = sum_y softmax_y(log k(x, y)) (y - x) takes the temperature that does best on the held-out sets themselves, so what it
is held against is never in its favour. One JSON line per field: the loss by level of noise, mean |S - (y_i - x)|^2 / D; `nothing` is that of S = 0, the noise itself.
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
TEMPERATURES = np.geomspace(0.005, 2, 27)  # of the kernel smoothers


def class_images(split, options):
    """{class: images [n, D] in [-1, 1]}."""
    images, labels = pipeline.everything(data.load("digits", split, options))
    return [
        images[labels == k].reshape(np.sum(labels == k), -1) / np.float32(127.5) - 1
        for k in range(10)
    ]


def draw_sets(rng, images, size):
    """One set of each class, [C, size, D], without repetition."""
    return np.stack([a[rng.choice(len(a), size, replace=False)] for a in images])


def smoother_loss(noise, y, level, kernel, temperature):
    """What `denoising_loss` is for a kernel smoother; y [B, P, D] in units of S."""

    def s(x, y):
        w = jax.nn.softmax(
            log_kernel(x, y, kernel, temperature, jnp.sqrt(y.shape[1]), y.shape[0]), axis=1
        )  # each leaves out the sample that it was made of
        return w @ y - x

    x = y + level * noise
    return jnp.mean((jax.vmap(s)(x, y) - (y - x)) ** 2)


def compare(steps, set_size, levels, held_out_sets, width, learning_rate, ema, seed, options=None):
    """{field: {level: loss on the held-out sets}}, for `nothing`, both kernels and the learned field with and without projection."""
    options = config_lib.resolve({}).data if options is None else options
    rng, train, test = (
        np.random.default_rng(seed),
        class_images("train", options),
        class_images("test", options),
    )
    set_size = min(set_size, *map(len, test))
    d, ones = train[0].shape[1], jnp.ones((10, set_size))
    held_out = np.concatenate([draw_sets(rng, test, set_size) for _ in range(held_out_sets)])
    off_diagonal = 1 - np.eye(set_size)
    mean_distance = jax.vmap(
        lambda y: jnp.sum(distance(y, y, set_size) * off_diagonal) / off_diagonal.sum()
    )
    held_out /= np.mean(mean_distance(held_out)) / np.sqrt(d)
    noise = rng.standard_normal(held_out.shape, np.float32)

    losses = {"nothing": {v: float(v**2 * np.mean(noise**2)) for v in levels}}
    score = jax.jit(smoother_loss, static_argnames="kernel")
    for kernel in ("laplace", "gaussian"):
        losses[kernel] = {
            v: min(float(score(noise, held_out, v, kernel, t)) for t in TEMPERATURES)
            for v in levels
        }
    for projection in (True, False):
        state = init_field_state(jax.random.key(seed), [d], width, projection, ema)

        @jax.jit
        def step(state, key, y):
            grads = jax.grad(field_loss)(
                state["params"], key, {"global": y.reshape(-1, 1, d)}, ones, levels
            )
            return update_field(state, grads, learning_rate)

        for i in range(steps):
            state = step(
                state, jax.random.fold_in(jax.random.key(seed), i), draw_sets(rng, train, set_size)
            )
        params = next(iter(state["ema"].values()))[str(d)]
        score = jax.jit(
            lambda level: denoising_loss(
                params, noise, held_out, jnp.ones(held_out.shape[:2]), level
            )
        )
        losses["learned" if projection else "learned, without projection"] = {
            v: float(score(v)) for v in levels
        }
    return losses


def main(flag_values):
    flags = config_lib.all_flags(flag_values)
    for field, loss in compare(**{key.name: flags[key.name] for key in FLAGS}).items():
        print(json.dumps({"field": field} | {str(v): round(x, 4) for v, x in loss.items()}))


if __name__ == "__main__":
    config_lib.define_flags(groups=(), extra=FLAGS)
    config_lib.run_main(main)
