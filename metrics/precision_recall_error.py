"""How sure precision and recall, density and coverage are.

Precision and density are means over the samples. Recall and coverage are shares of the reals: of
those that some sample covers, because they lie in its ball, or it lies in theirs. With other
samples, other reals are covered.

Let the balls be as they are and the samples come by chance, and let `s` samples cover a real i or j
and `c` both, on average. Then both are missed with probability exp(-s), and

    covariance of "i is missed" and "j is missed" = exp(-s) (1 - exp(-c))
                                                  = exp(-s) (c - c² / 2! + c³ / 3! - ...)

And exp(-s) cᵏ / k! is how often i and j are covered by the very same k samples. So the variance of
the number of covered reals is the alternating sum over k = 1, 2, ... of T_k, the number of pairs
(i, j), i = j among them, that the same k samples cover. All of that is counted. Leaving samples out
in turn would give T_1 alone, which is up to twice the deviation.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy import ndarray

from metrics.errors import Estimate, least_variance, share, with_variance
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
    squared_radii,
)

# Of T_1, T_2, ...: the alternating signs times P(k or more heads of four coins), which is Euler's
# transformation of the sum. Later terms are noise (Efron & Thisted 1976,
# https://doi.org/10.1093/biomet/63.3.435, of the words that Shakespeare knew).
WEIGHTS = (15 / 16, -11 / 16, 5 / 16, -1 / 16)

# ---------------------------------------------------------------- the metrics


def precision_recall_estimates(comparison: Comparison) -> dict[str, Estimate]:
    """For `metrics.table`."""
    real, fake = needed(comparison.real.features), needed(comparison.fake.features)
    fake_is_inside, _ = inside_balls(real, fake, K_PRECISION)
    recall = covered_share(_inside_fake_balls(real, fake, K_PRECISION))
    return {"precision": share(fake_is_inside), "recall": recall}


def density_coverage_estimates(comparison: Comparison) -> dict[str, Estimate]:
    """For `metrics.table`."""
    real, fake = needed(comparison.real.features), needed(comparison.fake.features)
    hits, _ = count_inside(real, fake, K_DENSITY)
    density = 1 / K_DENSITY * (int(hits.sum()) / len(fake))
    coverage = covered_share(_inside_real_balls(real, fake, K_DENSITY))
    return {"density": Estimate(density, (hits / K_DENSITY,)), "coverage": coverage}


# ---------------------------------------------------------------- shares of the reals


def covered_share(tiles: Iterable[Bool[ndarray, "n M"]]) -> Estimate:
    """Returns the share of reals that some sample covers.

    A sample contributes the reals that it alone covers. Where the count of pairs gives less, the
    variance is that of a share of as many independent reals.

    tiles: Of a part of the reals each, whether a sample covers a real.
    """
    n_samples = 0
    is_covered = []
    by: Counter[tuple[int, ...]] = Counter()  # samples: how many reals just these cover
    for covers in tiles:
        n_samples = covers.shape[1]
        times = covers.sum(1)
        is_covered.append(times > 0)
        for row in np.flatnonzero((times > 0) & (times <= len(WEIGHTS))):
            by[tuple(np.flatnonzero(covers[row]).tolist())] += 1

    covered = share(np.concatenate(is_covered))
    n_reals = sum(map(len, is_covered))
    variance = 0.0
    alone = np.zeros(n_samples)
    for samples, count in by.items():
        variance += WEIGHTS[len(samples) - 1] * (count / n_reals) ** 2
        if len(samples) == 1:
            alone[samples[0]] = count
    part = with_variance(alone, max(variance, 0))
    lacking = least_variance(covered.value, n_reals) - float(np.var(part, ddof=1)) / n_samples
    return Estimate(covered.value, (part, with_variance(covered.parts[0], max(lacking, 0))))


def _inside_fake_balls(
    real: Float[ndarray, "N D"], fake: Float[ndarray, "M D"], k: int
) -> Iterator[Bool[ndarray, "n M"]]:
    """Yields, for parts of the reals, in which balls of fake samples they are."""
    real_points, fake_points = prepare(real, fake, k)
    radii = squared_radii(fake_points, k)[None, :]
    for _, tile in row_tiles(real_points, len(fake)):
        yield np.asarray(_is_within(tile, fake_points, radii))


def _inside_real_balls(
    real: Float[ndarray, "N D"], fake: Float[ndarray, "M D"], k: int
) -> Iterator[Bool[ndarray, "n M"]]:
    """Yields, for parts of the reals, which fake samples are in their open balls."""
    real_points, fake_points = prepare(real, fake, k)
    radii = squared_radii(real_points, k)[:, None]
    # The largest number below: what is within that is nearer than the radius.
    below = np.nextafter(radii, -np.inf, dtype=radii.dtype)
    for rows, tile in row_tiles(real_points, len(fake)):
        yield np.asarray(_is_within(tile, fake_points, below[rows]))


@jax.jit
def _is_within(real: Points, fake: Points, radii: Float[Array, "#n #M"]) -> Bool[Array, "n M"]:
    """Returns whether the squared distances are at most the squared radii."""
    return squared_distances(real, fake) <= radii
