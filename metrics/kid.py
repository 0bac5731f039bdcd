"""Kernel Inception distance (Bińkowski et al. 2018, arXiv 1801.01401).

It is the squared maximum mean discrepancy (MMD) with the kernel k(x, y) = (x·y / D + 1)³.

The kernel is computed in float32 on the device, in tiles; the tiles are summed in float64. A sum
over N² pairs averages the rounding of its terms, so the result agrees with one in float64
throughout to about 1e-7 of the kernel's mean (tests/test_metrics.py).
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float
from numpy import ndarray

from metrics.errors import Estimate, without_second_order
from metrics.evidence import Comparison, needed
from utils.errors import UserError

SUBSETS, SUBSET_SIZE = 100, 1000  # of published figures
TILE = 4096  # rows and columns of the kernel matrix that are held at once: 64 MiB


def mmd2(x: Float[ndarray, "N D"], y: Float[ndarray, "M D"]) -> float:
    """Returns the unbiased squared MMD on all samples (Gretton et al. 2012, eq. 3).

    It may be slightly negative.

    Raises:
        UserError: There are fewer than two samples, D differs, or values are not finite.
    """
    x, y = _check(x, y)
    return _mmd2(jnp.asarray(x), jnp.asarray(y))


def kid(
    x: Float[ndarray, "N D"], y: Float[ndarray, "M D"], subsets: int, subset_size: int, seed: int
) -> tuple[float, float]:
    """Returns mean and standard deviation of `mmd2` over random subsets.

    Within a subset, samples are drawn without replacement. Published figures use 100 subsets of
    1000. The error of the mean is about std / sqrt(subsets).

    Raises:
        UserError: A set has fewer than `subset_size` samples, or as in `mmd2`.
    """
    values = subset_values(x, y, subsets, subset_size, seed)
    return float(np.mean(values)), float(np.std(values))


def subset_values(
    x: Float[ndarray, "N D"], y: Float[ndarray, "M D"], subsets: int, subset_size: int, seed: int
) -> list[float]:
    """Returns `mmd2` of each of the random subsets; see `kid`."""
    x, y = _check(x, y)
    most = min(len(x), len(y))
    if not 2 <= subset_size <= most:
        raise UserError(
            f"KID subsets of {subset_size} asked from {len(x)} and {len(y)} samples; "
            f"give a size from 2 to {most}"
        )
    device_x, device_y = jnp.asarray(x), jnp.asarray(y)
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        of_x = generator.choice(len(x), subset_size, replace=False)
        of_y = generator.choice(len(y), subset_size, replace=False)
        values.append(_mmd2(device_x[of_x], device_y[of_y]))
    return values


def kid_scores(comparison: Comparison) -> tuple[float, float]:
    """For `metrics.table`: subsets of the published size, or of the smaller set if it is less."""
    fake, real = needed(comparison.fake.features), needed(comparison.real.features)
    subset_size = min(SUBSET_SIZE, len(fake), len(real))
    return kid(fake, real, SUBSETS, subset_size, seed=0)


def kid_estimates(comparison: Comparison) -> dict[str, Estimate]:
    """For `metrics.table`: `kd`, whose subsets are a source of noise beside the samples."""
    fake, real = needed(comparison.fake.features), needed(comparison.real.features)
    subset_size = min(SUBSET_SIZE, len(fake), len(real))
    values = subset_values(fake, real, SUBSETS, subset_size, seed=0)
    contributions = kernel_contributions(fake, real, subset_size)
    return {
        "kd": Estimate(float(np.mean(values)), (contributions, np.array(values))),
        "kd_std": Estimate(float(np.std(values))),
    }


def kernel_contributions(
    x: Float[ndarray, "N D"], y: Float[ndarray, "M D"], subset_size: int
) -> Float[ndarray, " N"]:
    """Returns what each of x contributes to `mmd2`: its mean kernel with x less that with y, twice.

    The means are over `subset_size` of each, drawn at random.
    """
    x, y = _check(x, y)
    generator = np.random.default_rng(0)
    halves = np.array_split(generator.choice(len(x), subset_size, replace=False), 2)
    with_y = _row_sums(x, y[generator.choice(len(y), subset_size, replace=False)]) / subset_size
    sums = np.stack([_row_sums(x, x[half]) for half in halves])  # [2, N]
    counts = np.stack([np.full(len(x), len(half)) for half in halves])
    for which, half in enumerate(halves):  # A sample is no partner of itself.
        sums[which, half] -= ((x[half].astype(np.float64) ** 2).mean(1) + 1) ** 3
        counts[which, half] -= 1
    contributions = 2 * (sums.sum(0) / counts.sum(0) - with_y)
    of_half = 2 * (sums[0] / np.maximum(counts[0], 1) - with_y)
    return without_second_order(contributions, of_half, surplus=1 - subset_size / (2 * len(x)))


def _row_sums(a: Float[ndarray, "n D"], b: Float[ndarray, "m D"]) -> Float[ndarray, " n"]:
    """Returns the sum of the kernel of each row of a with all rows of b."""
    device_b = jnp.asarray(b)
    parts = [np.asarray(_partial_sums(tile, device_b, False)) for tile in _tiles(jnp.asarray(a))]
    return np.concatenate(parts).sum(1, dtype=np.float64)


# ---------------------------------------------------------------- sums of the kernel


def _mmd2(x: Float[Array, "N D"], y: Float[Array, "M D"]) -> float:
    n, m = len(x), len(y)
    within = _sum_of_pairs(x) / (n * (n - 1)) + _sum_of_pairs(y) / (m * (m - 1))
    between = sum(_sum(a, b) for a in _tiles(x) for b in _tiles(y)) / (n * m)
    return float(within - 2 * between)


def _sum_of_pairs(x: Float[Array, "N D"]) -> float:
    """Returns the sum of the kernel over ordered pairs of different samples.

    The kernel is symmetric, so half of the tiles do.
    """
    tiles = list(_tiles(x))
    total = 0.0
    for i, tile in enumerate(tiles):
        total += _sum(tile, tile, without_diagonal=True)
        total += 2 * sum(_sum(tile, other) for other in tiles[i + 1 :])
    return total


def _sum(a: Float[Array, "n D"], b: Float[Array, "m D"], without_diagonal: bool = False):
    return np.asarray(_partial_sums(a, b, without_diagonal)).sum(dtype=np.float64)


@functools.partial(jax.jit, static_argnames="without_diagonal")
def _partial_sums(
    a: Float[Array, "n D"], b: Float[Array, "m D"], without_diagonal: bool
) -> Float[Array, "n parts"]:
    """Returns sums of 64 values of the kernel, so short that their rounding is that of a term."""
    products = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)  # [n, m]
    kernel = (products / a.shape[1] + 1) ** 3
    if without_diagonal:
        kernel = jnp.where(jnp.eye(len(a), dtype=bool), 0, kernel)
    kernel = jnp.pad(kernel, ((0, 0), (0, -kernel.shape[1] % 64)))
    return rearrange(kernel, "n (parts width) -> n parts width", width=64).sum(-1)


def _tiles(x: Float[Array, "N D"]) -> Iterator[Float[Array, "n D"]]:
    return (x[start : start + TILE] for start in range(0, len(x), TILE))


def _check(x: ndarray, y: ndarray) -> tuple[Float[ndarray, "N D"], Float[ndarray, "M D"]]:
    """Returns both as float32. Raises UserError for what cannot be compared."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise UserError(
            f"features of shapes {x.shape} and {y.shape} given; expected [N, D] and [M, D], "
            "N and M at least 2"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UserError(
            "features hold values that are not finite; look at the samples before scoring them"
        )
    return x.astype(np.float32), y.astype(np.float32)
