"""How far the attraction of m landmarks is from that of all reals, in the mmd field.

    python benchmarks/landmarks.py --dataset_name mnist_5k

All training images are one class, in raw pixels. The samples that are attracted are held-out images
with noise, whose length is --noise of the mean distance of two reals. For each kernel and
temperature there is a row, and for each number of landmarks a column with two figures, relative
errors |V - V*| / |V*| of the attraction V over all samples, where V* is that of all reals:

    the landmarks with their weights / the same reals with equal weights

The last row has the seconds of one core that the computation of all weights took.
"""

import pathlib
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

import data
from configs.default import Key
from data import pipeline
from drifting.fields.mmd import Embedding, mmd_field
from utils import config as config_lib

FLAGS = (
    Key("dataset_name", "mnist_5k", "data with the splits train and test"),
    Key("landmarks", (64, 128, 256, 512, 1024, 2048), "columns of the table", "[1, inf)"),
    Key("temperatures", (0.1, 0.3, 1.0), "tau", "(0, inf)"),
    Key("samples", 256, "samples that are attracted", "[1, inf)"),
    Key("noise", 0.3, "of the samples, in mean distances", "[0, inf)"),
)


def main(flag_values):
    flags: Any = config_lib.all_flags(flag_values)
    reals, held_out = (vectors(flags.dataset_name, split) for split in ("train", "test"))
    random = np.random.default_rng(0)
    x = held_out[random.permutation(len(held_out))[: flags.samples]]
    unit = np.linalg.norm(reals[:500, None] - reals[None, 500:1000], axis=-1).mean()
    x = x + flags.noise * unit / np.sqrt(x.shape[1]) * random.normal(size=x.shape)

    print(f"{len(reals)} reals of {reals.shape[1]} pixels\n")
    counts = [int(m) for m in flags.landmarks]
    print("| kernel, tau | " + " | ".join(map(str, counts)) + " |")
    print("|---" * (len(counts) + 1) + "|")
    seconds = dict.fromkeys(counts, 0.0)
    for kernel in ("laplace", "gaussian", "energy"):
        taus = (1.0,) if kernel == "energy" else flags.temperatures
        cells = {tau: [] for tau in taus}
        for m in counts:
            begin = time.perf_counter()
            z, weight, unit = embed(reals, kernel, taus, m)
            seconds[m] += time.perf_counter() - begin
            for tau, of_tau in zip(taus, weight, strict=True):
                exact, frozen, alike = (
                    np.asarray(attraction(jnp.float32(x), y, w, tau, unit, kernel))
                    for y, w in (
                        (reals, np.full(len(reals), 1 / len(reals), np.float32)),
                        (z, of_tau),
                        (z, np.full(len(z), 1 / len(z), np.float32)),
                    )
                )
                errors = [np.linalg.norm(v - exact) for v in (frozen, alike)]
                both = [f"{error / np.linalg.norm(exact):.2g}" for error in errors]
                cells[tau].append(" / ".join(both))
        for tau, row in cells.items():
            name = kernel if kernel == "energy" else f"{kernel}, {tau:g}"
            print(f"| {name} | " + " | ".join(row) + " |", flush=True)
    print("| seconds | " + " | ".join(f"{s:.1f}" for s in seconds.values()) + " |")


def vectors(dataset_name: str, split: str) -> np.ndarray:
    """Returns the images of a split as float32 vectors [N, D] in [-1, 1]."""
    options: Any = config_lib.resolve({"dataset_name": dataset_name}).data
    images, _ = pipeline.everything(data.load(dataset_name, split, options))
    return images.reshape(len(images), -1) / np.float32(127.5) - 1


def embed(
    reals: np.ndarray, kernel: str, taus: tuple[float, ...], m: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns at most m landmarks [m, D], their weights [tau, m], and the unit."""
    n, width = reals.shape
    memory = Embedding(landmarks=min(m, n), kernel=kernel, temperatures=taus)
    sets = {"pixels": jax.ShapeDtypeStruct((1, 1, width), np.float32)}
    empty = jax.device_get(memory.init(jax.random.key(0), sets, 1))
    assert empty is not None

    def all_reals():
        yield {"pixels": reals[:, None]}, np.zeros(n, int)

    state = memory.fill(empty, all_reals)
    of_width = [state[name][str(width)] for name in ("z", "weight", "unit")]
    return of_width[0][0, :, 0], of_width[1][0, 0], of_width[2][0]


def attraction(x: jax.Array, z: Any, weight: Any, tau: float, unit: Any, kernel: str) -> jax.Array:
    """Returns V+ [N, D] of landmarks."""
    one = jnp.ones(len(x))
    given = {"z": jnp.asarray(z), "weight_z": jnp.asarray(weight), "unit_z": unit}
    own: Any = (x, x, x, one, one, tau, len(x))
    return mmd_field(*own, kernel=kernel, repulsion=0.0, **given)[0]


if __name__ == "__main__":
    config_lib.define_flags(groups=(), extra=FLAGS)
    config_lib.run_main(main)
