"""How sure a Fréchet distance is, and what it would be of infinitely many samples.

With the covariances S1 = A Aᵀ of the samples and S2 = B Bᵀ of the reals, and T the optimal map
between their normal distributions, a sample x contributes to the distance

    c(x) = |x - mu1|² + 2 (mu1 - mu2)·(x - mu1) - (x - mu1)ᵀ T (x - mu1)

which is the derivative of the distance by the weight of x. The singular values s and vectors P of
AᵀB, which give the distance, give T too: Aᵀ T A = P s Pᵀ.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from metrics.errors import Estimate, deal, without_second_order
from metrics.evidence import Comparison, Evidence, needed
from metrics.fid import Moments, check_moments, factor, fid_scores, frechet_distance
from metrics.networks import RESIDUAL, SLOPE

BLOCK = 4096  # rows of features that are worked on at once
FEWEST = 8  # samples of which an error is given

# Samples for each feature that a part must have. The bias of fewer is not linear in 1 / N any more.
PER_FEATURE = 4


class Target(NamedTuple):
    """The reals: their mean, the trace of their covariance, and B with B Bᵀ the covariance."""

    mu: Float[ndarray, " D"]
    trace: float
    root: Float[ndarray, "D R"]


class Fit(NamedTuple):
    """A part of the samples against the target.

    Attributes:
        distance: Its Fréchet distance.
        mu: Its mean.
        map_root: W with W Wᵀ the optimal map from its covariance to that of the target.
    """

    distance: float
    mu: Float[ndarray, " D"]
    map_root: Float[ndarray, "D R"]


class Line(NamedTuple):
    """The line through distances of N and fewer samples (Chong & Forsyth 2020, arXiv 1911.07023).

    Attributes:
        distance: Where 1 / N is 0.
        slope: By how much the distance of N samples lies above, times N.
        residual: The largest distance of a point from the line; None where there are only two.
    """

    distance: float
    slope: float
    residual: float | None


def frechet_estimates(
    features: Float[ndarray, "N D"], samples: Evidence, reals: Evidence
) -> tuple[Estimate, Estimate | None, Line | None]:
    """Returns the distance, and that of infinitely many samples with the line that gives it.

    Parts of the samples, dealt at random, tell the rest: halves what the contributions owe to the
    noise of the other samples, halves and quarters the line. There is none where a half has fewer
    than 4 samples for each feature, or else of two points, where a quarter has. To second order the
    end of a line of two points has the variance of the contributions as they are.

    Args:
        features: Of the samples, N >= FEWEST.
        samples: Their moments.
        reals: Those of the reals.
    """
    value = frechet_distance(samples.mu, samples.sigma, reals.mu, reals.sigma)
    mu, sigma = check_moments("second", reals.mu, reals.sigma)
    target = Target(mu, float(np.trace(sigma)), factor("second", sigma))
    count, dim = features.shape
    everything = np.arange(count)
    whole = _fit(features, everything, target)
    contributions = _contributions(whole, features, everything, target)
    halves = deal(count, 2)
    fits = [_fit(features, half, target) for half in halves]
    of_halves = np.empty(count)
    for half, fit in zip(halves, fits, strict=True):
        of_halves[half] = _contributions(fit, features, half, target)
    estimate = Estimate(value, (without_second_order(contributions, of_halves),))

    most_parts = count // (PER_FEATURE * dim)
    if most_parts < 2:
        return estimate, None, None
    points = {1: value, 2: float(np.mean([fit.distance for fit in fits]))}
    if most_parts >= 4:
        quarters = [_fit(features, part, target).distance for part in deal(count, 4)]
        points[4] = float(np.mean(quarters))
    line = fit_line(points, count)
    return estimate, Estimate(line.distance, (contributions,)), line


def fit_line(points: dict[int, float], count: int) -> Line:
    """Returns the line through distances.

    Args:
        points: {parts: mean distance of a part}, from 1 on.
        count: Samples of all parts together.
    """
    inverse = np.array(list(points)) / count
    distances = np.array(list(points.values()))
    slope, at_zero = np.polyfit(inverse, distances, 1)
    residual = None
    if len(points) > 2:
        residual = float(np.abs(at_zero + slope * inverse - distances).max())
    return Line(float(at_zero), float(slope), residual)


def fid_estimates(comparison: Comparison) -> dict[str, Estimate]:
    """For `metrics.table`: the distance `fd` and, of enough samples, `fd_inf` with its line."""
    features = needed(comparison.fake.features)
    if len(features) < FEWEST:
        return {"fd": Estimate(*fid_scores(comparison))}
    distance, at_infinity, line = frechet_estimates(features, comparison.fake, comparison.real)
    found = {"fd": distance}
    if at_infinity and line:
        found |= {"fd_inf": at_infinity, f"fd_inf{SLOPE}": Estimate(line.slope)}
        if line.residual is not None:
            found[f"fd_inf{RESIDUAL}"] = Estimate(line.residual)
    return found


# ---------------------------------------------------------------- a part of the samples


def _fit(features: Float[ndarray, "N D"], rows: Int[ndarray, " n"], target: Target) -> Fit:
    """Returns the distance of some samples and their optimal map."""
    moments = Moments(features.shape[1])
    for block in _blocks(rows):
        moments.update(features[block])
    count, mu, scatter = moments.state()
    root = factor("first", scatter / (count - 1))  # A [D, R]
    vectors, values, _ = np.linalg.svd(root.T @ target.root, full_matrices=False)
    variances = (root**2).sum(0)  # [R]; the columns of A are orthogonal
    map_root = root / variances @ (vectors * np.sqrt(values))
    spread = variances.sum() + target.trace - 2 * values.sum()
    return Fit(float(((mu - target.mu) ** 2).sum() + spread), mu, map_root)


def _contributions(
    fit: Fit, features: Float[ndarray, "N D"], rows: Int[ndarray, " n"], target: Target
) -> Float[ndarray, " n"]:
    """Returns what each of the samples contributes to the distance; they have the mean 0."""
    found = []
    for block in _blocks(rows):
        x = features[block].astype(np.float64) - fit.mu
        mapped = x @ fit.map_root
        found.append((x**2).sum(1) + 2 * x @ (fit.mu - target.mu) - (mapped**2).sum(1))
    contributions = np.concatenate(found)
    return contributions - contributions.mean()


def _blocks(rows: Int[ndarray, " n"]) -> Iterator[Int[ndarray, " b"]]:
    """Returns the rows, a block at a time."""
    return (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))
