"""How far Sinkhorn's algorithm comes in a number of iterations.

    python benchmarks/sinkhorn.py

A set of training digits of each class stands for the generated samples, and a set of held-out ones
for the data, in raw pixels. For each cost there is a Markdown table, means over the classes, with
two figures in each cell:

    rows      the error of the marginal of x, sum_i |sum_j Pi_ij - 1/N|, between 0 and 2
    distance  what the field has left to change: |T - T*| / |T* - x|, where T are the barycentres
              and T* those after --converged iterations

Columns are scaled last, so their marginal is met to rounding; its largest error stands below.
"""

import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.digit_sets import draw_sets, images_by_class
from configs.default import Key
from drifting.distances import distance, log_kernel
from drifting.fields.sinkhorn import log_plan
from utils import config as config_lib

FLAGS = (
    Key("temperatures", (0.005, 0.02, 0.05, 0.2), "tau", "(0, inf)"),
    Key("iterations", (1.0, 5.0, 20.0, 100.0, 500.0), "columns of the table", "[0, inf)"),
    Key("converged", 5000, "iterations of T*", "[1, inf)"),
    Key("set_size", 32, "samples in a set", "[2, inf)"),
    Key("seed", 0, "of the sets", "[0, 4294967295]"),
)


def main(flag_values):
    flags: Any = config_lib.all_flags(flag_values)
    random = np.random.default_rng(flags.seed)
    x = draw_sets(random, images_by_class("train"), flags.set_size)
    y = draw_sets(random, images_by_class("test"), flags.set_size)
    for kernel in ("laplace", "gaussian"):
        print_table(x, y, kernel, flags)


def print_table(x: np.ndarray, y: np.ndarray, kernel: str, flags: Any) -> None:
    """Prints the table of one cost."""
    heads = ["tau", *(f"{n:g}" for n in flags.iterations)]
    print(f"\n{kernel}\n")
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    largest = 0.0  # error of any column
    for tau in flags.temperatures:
        *_, converged = transport(x, y, kernel, tau, flags.converged)
        cells = [f"{tau:g}"]
        for iterations in flags.iterations:
            rows, columns, barycentres = transport(x, y, kernel, tau, iterations)
            left = jnp.linalg.norm(barycentres - converged) / jnp.linalg.norm(converged - x)
            cells.append(f"{float(rows):.1e}, {100 * float(left):.2g}%")
            largest = max(largest, float(columns))
        print("| " + " | ".join(cells) + " |")
    print(f"\ncolumns: {largest:.1e}")


@jax.jit(static_argnames=("kernel", "iterations"))
def transport(
    x: jax.Array, y: jax.Array, kernel: str, tau: float, iterations: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the error of the rows, that of the columns, and the barycentres T [C, N, D].

    x, y: sets [C, N, D] and [C, M, D] of C classes.
    """
    n, m = x.shape[1], y.shape[1]
    units = jnp.mean(distance(x, y), (1, 2))  # S sqrt(D) of each class

    def plan_of_class(x, y, unit):
        log_k = log_kernel(x, y, kernel, tau, unit, 0)
        return log_plan(log_k, jnp.full(n, -jnp.log(n)), jnp.full(m, -jnp.log(m)), iterations)

    log_plans = jax.vmap(plan_of_class)(x, y, units)  # [C, N, M]
    rows = error_of_marginal(log_plans, 2)
    columns = error_of_marginal(log_plans, 1)
    return jnp.mean(rows), jnp.max(columns), jax.nn.softmax(log_plans, 2) @ y


def error_of_marginal(log_plans: jax.Array, axis: int) -> jax.Array:
    """Returns for each class how far the sums over an axis are from equal shares, [C]."""
    marginal = jnp.exp(jax.nn.logsumexp(log_plans, axis))
    return jnp.sum(jnp.abs(marginal - 1 / marginal.shape[1]), 1)


if __name__ == "__main__":
    config_lib.define_flags((), FLAGS)
    config_lib.run_main(main)
