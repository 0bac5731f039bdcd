"""How sure precision and recall, density and coverage are.

Precision and density are means over the samples already. Recall and coverage are not: a sample's
ball grows when others are missing, and a real ball may have lost the one sample in it. So groups of
samples are left out in turn, and all groups are looked at in one pass over the distances. Their
errors are upper bounds, 1.0 to 1.7 times the deviation in simulations (docs/benchmarks.md).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int
from numpy import ndarray

from metrics.errors import Estimate, deal, pseudo_values
from metrics.evidence import Comparison, needed
from metrics.precision_recall import (
    K_DENSITY,
    K_PRECISION,
    Points,
    count_inside,
    inside_balls,
    prepare,
    row_tiles,
    squared_distances,
)

# ---------------------------------------------------------------- the metrics


def precision_recall_estimates(comparison: Comparison, groups: int) -> dict[str, Estimate]:
    """For `metrics.table`."""
    real, fake = needed(comparison.real.features), needed(comparison.fake.features)
    fake_is_inside, real_is_inside = inside_balls(real, fake, K_PRECISION)
    recall = float(real_is_inside.mean())
    without = recall_without(real, fake, deal(len(fake), groups), K_PRECISION)
    return {
        "precision": Estimate(float(fake_is_inside.mean()), (fake_is_inside.astype(float),)),
        "recall": Estimate(recall, (pseudo_values(recall, without),)),
    }


def density_coverage_estimates(comparison: Comparison, groups: int) -> dict[str, Estimate]:
    """For `metrics.table`."""
    real, fake = needed(comparison.real.features), needed(comparison.fake.features)
    member = np.zeros((len(fake), groups))
    for group, samples in enumerate(deal(len(fake), groups)):
        member[samples, group] = 1
    hits, per_ball = count_inside(real, fake, K_DENSITY, member)  # [M], [N, G]
    total = per_ball.sum(1, keepdims=True)
    coverage = int((total > 0).sum()) / len(real)
    without = (total > per_ball).mean(0)
    return {
        "density": Estimate(1 / K_DENSITY * (int(hits.sum()) / len(fake)), (hits / K_DENSITY,)),
        "coverage": Estimate(coverage, (pseudo_values(coverage, without),)),
    }


# ---------------------------------------------------------------- recall without a group


def recall_without(
    real: Float[ndarray, "N D"],
    fake: Float[ndarray, "M D"],
    dealt: list[Int[ndarray, " m"]],
    k: int,
) -> Float[ndarray, " G"]:
    """Returns the recall without each group of fake samples.

    dealt: The indices of the samples of each group.
    """
    real_points, fake_points = prepare(real, fake, k)
    radii = _radii_without(fake_points, dealt, k)  # [G, M]
    n_inside = np.zeros(len(dealt), np.int64)
    for _, tile in row_tiles(real_points, len(fake)):
        n_inside += np.asarray(_are_inside(tile, fake_points, radii)).sum(1)
    return n_inside / len(real)


def _radii_without(fake: Points, groups: list[Int[ndarray, " m"]], k: int) -> Float[ndarray, "G M"]:
    """Returns the squared radii of the balls without each group; -1 of those of the group itself.

    The k nearest of all groups but one are among the k nearest of each group.
    """
    columns = np.full((len(groups), max(map(len, groups))), -1)  # -1: none
    for group, samples in enumerate(groups):
        columns[group, : len(samples)] = samples
    parts = [
        np.asarray(_kth_nearest_without(tile, fake, rows.start, columns, k))
        for rows, tile in row_tiles(fake, len(fake.x))
    ]
    radii = np.concatenate(parts).T  # [G, M]
    for group, samples in enumerate(groups):
        radii[group, samples] = -1
    return radii


@partial(jax.jit, static_argnames="k")
def _kth_nearest_without(
    rows: Points, points: Points, start: int, columns: Int[Array, "G m"], k: int
) -> Float[Array, "n G"]:
    """Returns the squared distance of rows start, ... to the k-th nearest other, without a group.

    columns: The points of each group, filled up with -1.
    """
    squared = squared_distances(rows, points)
    itself = start + jnp.arange(squared.shape[0])[:, None] == jnp.arange(squared.shape[1])
    squared = jnp.where(itself, jnp.inf, squared)
    grouped = jnp.where(columns >= 0, squared[:, columns], jnp.inf)  # [n, G, m]
    nearest = _smallest(grouped, k)  # [n, G, k]
    is_left_out = jnp.eye(len(columns), dtype=bool)[:, :, None]
    others = jnp.where(is_left_out, jnp.inf, nearest[:, None])  # [n, G left out, G, k]
    return _smallest(rearrange(others, "n out g k -> n out (g k)"), k)[..., -1]


def _smallest(values: Float[Array, "... m"], k: int) -> Float[Array, "... k"]:
    """Returns the k smallest of the last axis in ascending order, inf where there are fewer.

    As in `metrics.precision_recall`, minima one after the other are faster than a sort.
    """
    index = jnp.arange(values.shape[-1])
    found = []
    for _ in range(k):
        found.append(values.min(-1))
        values = jnp.where(index == values.argmin(-1)[..., None], jnp.inf, values)
    return jnp.stack(found, -1)


@jax.jit
def _are_inside(real: Points, fake: Points, radii: Float[Array, "G M"]) -> Bool[Array, "G n"]:
    """Returns which real samples are in a fake ball, for each set of squared radii."""
    squared = squared_distances(real, fake)  # [n, M]
    return jax.lax.map(lambda some: (squared <= some).any(1), radii)
