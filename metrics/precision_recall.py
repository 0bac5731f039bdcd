"""Fidelity and diversity from nearest neighbours.

Precision and recall are those of Kynkäänniemi et al. 2019 (arXiv 1904.06991), density and coverage
those of Naeem et al. 2020 (arXiv 2002.09797). All ask whether a sample is inside a ball around a
sample of the other set. The radius of a ball is the distance of its centre to the k-th nearest
other sample of its own set.

Distances are float32 on the device, in tiles of rows: two sets of 50,000 x 2048 features peak at
2.9 GiB (on a CPU, inputs included).
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy import ndarray

from metrics.evidence import Comparison, needed
from utils.errors import UserError

K_PRECISION, K_DENSITY = 3, 5  # neighbours, of published figures
TILE_ENTRIES = 2**26  # distances that are held at once: 256 MiB in float32


class Points(NamedTuple):
    """A set of features x, and |x|² of each.

    The norms are not computed where distances are: XLA would compute them anew for each distance.
    """

    x: Float[Array, "N D"]
    norms: Float[Array, " N"]


# ---------------------------------------------------------------- the metrics


def precision_recall(
    real: Float[ndarray, "N D"], fake: Float[ndarray, "M D"], k: int = K_PRECISION
) -> tuple[float, float]:
    """Returns (precision, recall), both in [0, 1].

    Precision is the fraction of fake samples in some ball of a real one, recall that of real
    samples in some ball of a fake one. Published figures use k = 3 and 50,000 samples each.

    Raises:
        UserError: k is less than 1, or not less than N and M; D differs; or values are not finite.
    """
    fake_is_inside, real_is_inside = inside_balls(real, fake, k)
    return float(fake_is_inside.mean()), float(real_is_inside.mean())


def inside_balls(
    real: Float[ndarray, "N D"], fake: Float[ndarray, "M D"], k: int
) -> tuple[Bool[ndarray, " M"], Bool[ndarray, " N"]]:
    """Returns which fake samples are in some real ball, and which real ones in some fake ball."""
    real_points, fake_points = prepare(real, fake, k)
    real_radii, fake_radii = squared_radii(real_points, k), squared_radii(fake_points, k)
    fake_is_inside = np.zeros(len(fake), bool)
    real_is_inside = np.zeros(len(real), bool)
    for rows, tile in row_tiles(real_points, len(fake)):
        in_real_ball, in_fake_ball = _are_inside(tile, fake_points, real_radii[rows], fake_radii)
        fake_is_inside |= np.asarray(in_real_ball)
        real_is_inside[rows] = np.asarray(in_fake_ball)
    return fake_is_inside, real_is_inside


def density_coverage(
    real: Float[ndarray, "N D"], fake: Float[ndarray, "M D"], k: int = K_DENSITY
) -> tuple[float, float]:
    """Returns (density, coverage).

    Density is the mean number of real balls around a fake sample, divided by k; it may exceed 1.
    Coverage is the fraction, in [0, 1], of real balls with a fake sample inside. Balls are open, as
    in the authors' program.

    Raises:
        UserError: As in `precision_recall`.
    """
    hits, per_ball = count_inside(real, fake, k)
    # In the authors' order of operations, so that it is equal to the last bit.
    density = 1 / k * (int(hits.sum()) / len(fake))
    return density, int((per_ball > 0).sum()) / len(real)


def count_inside(
    real: Float[ndarray, "N D"], fake: Float[ndarray, "M D"], k: int
) -> tuple[Int[ndarray, " M"], Int[ndarray, " N"]]:
    """Returns in how many open real balls each fake sample is, and how many are in each ball."""
    real_points, fake_points = prepare(real, fake, k)
    real_radii = squared_radii(real_points, k)
    hits = np.zeros(len(fake), np.int64)
    per_ball = []
    for rows, tile in row_tiles(real_points, len(fake)):
        of_fake, of_balls = _count_inside(tile, fake_points, real_radii[rows])
        hits += np.asarray(of_fake)
        per_ball.append(np.asarray(of_balls))
    return hits, np.concatenate(per_ball)


def precision_recall_scores(comparison: Comparison) -> tuple[float, float]:
    """For `metrics.table`."""
    real, fake = needed(comparison.real.features), needed(comparison.fake.features)
    return precision_recall(real, fake, K_PRECISION)


def density_coverage_scores(comparison: Comparison) -> tuple[float, float]:
    """For `metrics.table`."""
    real, fake = needed(comparison.real.features), needed(comparison.fake.features)
    return density_coverage(real, fake, K_DENSITY)


# ---------------------------------------------------------------- balls


@jax.jit
def _are_inside(
    real: Points, fake: Points, real_radii: Float[Array, " n"], fake_radii: Float[Array, " M"]
) -> tuple[Bool[Array, " M"], Bool[Array, " n"]]:
    """Returns which fake samples are in a real ball, and which real ones in a fake ball.

    Radii are squared, as the distances are.
    """
    squared = squared_distances(real, fake)  # [n, M]
    fake_is_inside = (squared <= real_radii[:, None]).any(0)
    real_is_inside = (squared <= fake_radii[None, :]).any(1)
    return fake_is_inside, real_is_inside


@jax.jit
def _count_inside(
    real: Points, fake: Points, real_radii: Float[Array, " n"]
) -> tuple[Int[Array, " M"], Int[Array, " n"]]:
    """Returns the number of balls around each fake sample, and of samples in each ball.

    Balls are open. Radii are squared.
    """
    is_inside = squared_distances(real, fake) < real_radii[:, None]  # [n, M]
    return is_inside.sum(0), is_inside.sum(1)


def squared_radii(points: Points, k: int) -> Float[ndarray, " N"]:
    """Returns the squared distance of each sample to its k-th nearest other one."""
    radii = []
    for rows, tile in row_tiles(points, len(points.x)):
        radii.append(np.asarray(_kth_nearest(tile, points, rows.start, k)))
    return np.concatenate(radii)


@partial(jax.jit, static_argnames="k")
def _kth_nearest(rows: Points, points: Points, start: int, k: int) -> Float[Array, " n"]:
    """Returns the squared distance of rows start, start + 1, ... to their k-th nearest other point.

    It takes k minima one after the other: on a CPU, `top_k` sorts the whole row, and takes 25
    times as long.
    """
    squared = squared_distances(rows, points)  # [n, N]
    column = jnp.arange(squared.shape[1])[None, :]
    nearest = start + jnp.arange(squared.shape[0])  # The nearest of all is the sample itself.
    for _ in range(k):
        squared = jnp.where(column == nearest[:, None], jnp.inf, squared)
        nearest = jnp.argmin(squared, 1)
    return jnp.min(squared, 1)


def squared_distances(a: Points, b: Points) -> Float[Array, "n m"]:
    """Returns |x|² + |y|² - 2 x·y.

    What lies below its rounding error is called 0, so that copies are at distance 0.
    """
    norms = a.norms[:, None] + b.norms[None, :]
    squared = norms - 2 * jnp.matmul(a.x, b.x.T, precision=jax.lax.Precision.HIGHEST)
    rounding = 16 * jnp.finfo(jnp.float32).eps * norms
    return jnp.where(squared > rounding, squared, 0)


def row_tiles(points: Points, columns: int) -> Iterator[tuple[slice, Points]]:
    """Yields parts of the points, so large that TILE_ENTRIES distances to `columns` others fit."""
    size = max(TILE_ENTRIES // columns, 1)
    for start in range(0, len(points.x), size):
        rows = slice(start, start + size)
        yield rows, Points(points.x[rows], points.norms[rows])


def prepare(real: ndarray, fake: ndarray, k: int) -> tuple[Points, Points]:
    """Returns both sets on the device. Raises UserError for what cannot be compared."""
    real, fake = np.asarray(real), np.asarray(fake)
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise UserError(
            f"features of shapes {real.shape} and {fake.shape} given; expected [N, D] and [M, D]"
        )
    if not 1 <= k < min(len(real), len(fake)):
        raise UserError(
            f"k = {k} neighbours asked from {len(real)} real and {len(fake)} fake samples; "
            "give 1 <= k < both counts"
        )
    if not (np.isfinite(real).all() and np.isfinite(fake).all()):
        raise UserError(
            "features hold values that are not finite; look at the samples before scoring them"
        )
    # About their mean, distances are the same, and their rounding error is smaller.
    centre = real.mean(0, dtype=np.float64)
    return _points(real - centre), _points(fake - centre)


def _points(features: Float[ndarray, "N D"]) -> Points:
    x = jnp.asarray(features.astype(np.float32))
    return Points(x, jnp.sum(x * x, 1))
