"""How far Sinkhorn's algorithm comes: python benchmarks/sinkhorn.py

A set of training digits of each class stands for the generated samples, a set of held-out ones for the
data, in raw pixels. Columns are scaled last, so their marginal is met to rounding; the error of the rows'
is sum_i |sum_j Pi_ij - 1/N|, between 0 and 2. `barycentre` is what the field has left to change: |T - T*| /
|T* - x|, T* after --converged iterations. A markdown table for each cost, means over the classes; the error
of the columns is the largest anywhere.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.fields import numbers
from benchmarks.learned_field import class_images, draw_sets
from configs.default import Key
from drifting.distances import distance, log_kernel
from drifting.fields.sinkhorn import log_plan
from utils import config as config_lib

FLAGS = (
    Key("temperatures", "0.005,0.02,0.05,0.2", "tau"),
    Key("iterations", "1,5,20,100,500", "iterations of the columns of the table"),
    Key("converged", 5000, "iterations of T*", "[1, inf)"),
    Key("set_size", 32, "samples in a set", "[2, inf)"),
    Key("seed", 0, "of the sets", "[0, 4294967295]"),
)


def errors(x, y, kernel, tau, iterations):
    """(error of the rows, error of the columns, T [C, N, D]) of sets x [C, N, D] and y [C, M, D]."""
    n, m, d = x.shape[1], y.shape[1], x.shape[2]
    unit = jnp.mean(distance(x, y), (1, 2))  # S sqrt(D)
    plan = jax.vmap(
        lambda x, y, unit: log_plan(
            log_kernel(x, y, kernel, tau, unit, 0),
            jnp.full(n, -jnp.log(n)),
            jnp.full(m, -jnp.log(m)),
            iterations,
        )
    )(x, y, unit)
    off = lambda axis, count: jnp.sum(
        jnp.abs(jnp.exp(jax.nn.logsumexp(plan, axis)) - 1 / count), 1
    )  # [C]
    return jnp.mean(off(2, n)), jnp.max(off(1, m)), jax.nn.softmax(plan, 2) @ y


def main(flag_values):
    flags, options = config_lib.all_flags(flag_values), config_lib.resolve({}).data
    rng = np.random.default_rng(flags.seed)
    x, y = (
        draw_sets(rng, class_images(split, options), flags.set_size) for split in ("train", "test")
    )
    of = jax.jit(errors, static_argnums=(2, 4))
    for kernel in ("laplace", "gaussian"):
        iterations, columns = numbers(flags.iterations, int), 0.0
        print(
            f"\n{kernel}\n\n| tau | "
            + " | ".join(f"{n}" for n in iterations)
            + " |\n|"
            + "---|" * (len(iterations) + 1)
        )
        for tau in numbers(flags.temperatures):
            best, cells = of(x, y, kernel, tau, flags.converged)[2], []
            for n in iterations:
                rows, off, t = of(x, y, kernel, tau, n)
                columns = max(columns, float(off))
                left = jnp.linalg.norm(t - best) / jnp.linalg.norm(best - x)
                cells.append(f"{float(rows):.1e}, {100 * float(left):.2g}%")
            print(f"| {tau:g} | " + " | ".join(cells) + " |")
        print(f"\ncolumns: {columns:.1e}")


if __name__ == "__main__":
    config_lib.define_flags((), FLAGS)
    config_lib.run_main(main)
