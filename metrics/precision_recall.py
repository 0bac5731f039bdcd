"""Fidelity and diversity from nearest neighbours: is a sample inside a ball around a sample of the other set?

Precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991). Density and coverage: Naeem et al. 2020
(arXiv 2002.09797). The radius of a ball is the distance of its centre to the k-th nearest other sample of its
set.

Distances are float32 on the device, in tiles of rows: two sets of 50,000 x 2048 features peak at 2.9 GiB
(a CPU, inputs included).
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy import ndarray

from utils.errors import UserError

TILE_ENTRIES = 2**26  # distances held at once: 256 MiB in float32


class Points(NamedTuple):
    x: Float[Array, "N D"]
    norms: Float[
        Array, " N"
    ]  # |x|². Not computed beside the distances: XLA would do it anew for each of them


def precision_recall(
    real: Float[ndarray, "N D"], fake: Float[ndarray, "M D"], k: int = 3
) -> tuple[float, float]:
    """(precision, recall) in [0, 1]: the share of fake samples in some real ball, of real in some fake ball.

    Published figures: k = 3, 50,000 samples each. Raises UserError for k < 1, k >= N or M, unequal D, or
    values that are not finite.
    """
    real, fake = _prepare(real, fake, k)
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)  # [N], [M]
    fake_inside = np.zeros(len(fake.x), bool)
    real_inside = 0
    for rows, tile in _row_tiles(real, len(fake.x)):
        in_real, in_fake = _inside(tile, fake, real_radii[rows], fake_radii)
        fake_inside |= np.asarray(in_real)
        real_inside += int(in_fake.sum())
    return float(fake_inside.mean()), real_inside / len(real.x)


def density_coverage(
    real: Float[ndarray, "N D"], fake: Float[ndarray, "M D"], k: int = 5
) -> tuple[float, float]:
    """(density, coverage): the mean number of real balls around a fake sample / k, which may exceed 1; and
    the share of real balls with a fake sample inside, in [0, 1]. Balls are open, as in the authors' program.

    Raises UserError as `precision_recall`.
    """
    real, fake = _prepare(real, fake, k)
    radii = _radii(real, k)
    hits = covered = 0
    for rows, tile in _row_tiles(real, len(fake.x)):
        per_ball = np.asarray(_count_inside(tile, fake, radii[rows]))  # [rows]
        hits += int(per_ball.sum(dtype=np.int64))
        covered += int((per_ball > 0).sum())
    density = (
        1 / k * (hits / len(fake.x))
    )  # in the authors' order of operations, so equal to the last bit
    return density, covered / len(real.x)


@jax.jit
def _inside(real, fake, real_radii, fake_radii):  # radii squared, as the distances are
    d2 = _squared_distances(real, fake)  # [n, M]
    return (d2 <= real_radii[:, None]).any(0), (d2 <= fake_radii[None, :]).any(1)


@jax.jit
def _count_inside(real, fake, real_radii):
    return (_squared_distances(real, fake) < real_radii[:, None]).sum(1)


def _radii(points: Points, k: int) -> Float[ndarray, " N"]:
    """Squared distance of each sample to its k-th nearest other one."""
    return np.concatenate(
        [
            np.asarray(_kth_nearest(tile, points, rows.start, k))
            for rows, tile in _row_tiles(points, len(points.x))
        ]
    )


@partial(jax.jit, static_argnames="k")
def _kth_nearest(rows, points, start, k):
    d2 = _squared_distances(rows, points)  # [n, N]
    column = jnp.arange(d2.shape[1])[None, :]
    nearest = start + jnp.arange(d2.shape[0])  # the nearest of all is the sample itself
    for _ in range(k):  # k minima: on a CPU, top_k sorts the whole row and takes 25 times as long
        d2 = jnp.where(column == nearest[:, None], jnp.inf, d2)
        nearest = jnp.argmin(d2, 1)
    return jnp.min(d2, 1)


def _squared_distances(a: Points, b: Points) -> Float[Array, "N M"]:
    """|x|² + |y|² - 2 x·y. What lies below its rounding error is called 0, so copies are at distance 0."""
    norms = a.norms[:, None] + b.norms[None, :]
    d2 = norms - 2 * jnp.matmul(a.x, b.x.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.where(d2 > 16 * jnp.finfo(jnp.float32).eps * norms, d2, 0)


def _row_tiles(points: Points, columns: int) -> Iterator[tuple[slice, Points]]:
    rows = max(TILE_ENTRIES // columns, 1)
    for start in range(0, len(points.x), rows):
        part = slice(start, start + rows)
        yield part, Points(points.x[part], points.norms[part])


def _prepare(real, fake, k):
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
    centre = real.mean(0, dtype=np.float64)  # distances do not change, their rounding error shrinks
    real, fake = (jnp.asarray((x - centre).astype(np.float32)) for x in (real, fake))
    return Points(real, jnp.sum(real * real, 1)), Points(fake, jnp.sum(fake * fake, 1))
