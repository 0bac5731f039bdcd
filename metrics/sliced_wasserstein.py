"""Sliced Wasserstein distance (Bonneel et al. 2015, https://doi.org/10.1007/s10851-014-0506-3).

In one dimension the distance is exact and cheap, by sorting; it is averaged over directions. Unlike
a Fréchet distance it compares more than mean and covariance.

Its ratio (`swr`) is that of `metrics.ratios`: the distance of the samples from the reference over
that of held-out reals, so that 1 is as near as real images are.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from metrics import sliced_error
from metrics.errors import Estimate
from metrics.evidence import Comparison, needed
from utils.errors import UserError

DIRECTIONS = 1000  # of the ratio
SEED = 0  # of the directions
CHUNK = 64  # directions that are worked on at once
ROUNDING = 1e-12  # of a difference of distribution functions


class Slices(NamedTuple):
    """The distances of two sets x and y.

    Attributes:
        distances: W_1 in each direction.
        contributions: What each of x contributes to their mean, up to a constant: the potential of
            the optimal transport.
    """

    distances: Float[ndarray, " L"]
    contributions: Float[ndarray, " N"]


def sliced_wasserstein(
    x: Float[ndarray, "N D"], y: Float[ndarray, "M D"], directions: int = 128, seed: int = 0
) -> float:
    """Returns the mean over random directions of W_1 between the projections of two sets.

    W_1 in one dimension is the area between the distribution functions, which for sets of one size
    is the mean of |sorted x - sorted y|. The result has the units of x, and is 0 for equal sets.

    Raises:
        ValueError: The sets differ in dimension.
    """
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"expected sets of one dimension, got {x.shape} and {y.shape}")
    direction = _directions(x.shape[1], directions, seed)
    if len(x) != len(y):
        return float(slices(x, y, directions, seed).distances.mean())
    sorted_x = np.sort(x.astype(float) @ direction, axis=0)  # [N, directions]
    sorted_y = np.sort(y.astype(float) @ direction, axis=0)
    return float(np.mean(np.abs(sorted_x - sorted_y)))


def slices(
    x: Float[ndarray, "N D"], y: Float[ndarray, "M D"], directions: int, seed: int
) -> Slices:
    """Returns the distance in each direction, and what each of x contributes to their mean."""
    direction = _directions(x.shape[1], directions, seed)
    x, y = x.astype(np.float64), y.astype(np.float64)
    distances = []
    contributions = np.zeros(len(x))
    for start in range(0, directions, CHUNK):
        chunk = direction[:, start : start + CHUNK]
        of_chunk, potential = _one_dimension(x @ chunk, y @ chunk)
        distances.append(of_chunk)
        contributions += potential.sum(1) / directions
    return Slices(np.concatenate(distances), contributions)


def swr_scores(comparison: Comparison) -> tuple[float]:
    """For `metrics.table`."""
    return (_ratio(*_slices_of(comparison)),)


def swr_estimates(comparison: Comparison) -> dict[str, Estimate]:
    """For `metrics.table`. The directions are held fixed, as the reference is."""
    fake, held_out = _slices_of(comparison)
    value, of_reals = _ratio(fake, held_out), held_out.distances.mean()
    *sets, real = _features_of(comparison)
    few = _directions(real.shape[1], sliced_error.DIRECTIONS, SEED)
    left = [sliced_error.variance_left(x @ few, real @ few) for x in sets]
    of_samples = math.sqrt(left[0]) * fake.contributions / of_reals
    of_held_out = math.sqrt(left[1]) * held_out.contributions / of_reals
    return {"swr": Estimate(value, (of_samples, -value * of_held_out))}


# ---------------------------------------------------------------- parts


def _directions(dim: int, count: int, seed: int) -> Float[ndarray, "D L"]:
    direction = np.random.default_rng(seed).normal(size=(dim, count))
    return direction / np.linalg.norm(direction, axis=0)


def _one_dimension(
    x: Float[ndarray, "N L"], y: Float[ndarray, "M L"]
) -> tuple[Float[ndarray, " L"], Float[ndarray, "N L"]]:
    """Returns W_1 of each column, and how it grows with the weight of each of x.

    W_1 is the integral of |F - G|, with the distribution functions F of x and G of y. More weight
    at x raises F from there on, so the integral of the sign of F - G from x on is what it changes.
    """
    values = np.concatenate([x, y])  # [N + M, L]
    order = np.argsort(values, 0, kind="stable")
    weights = np.where(order < len(x), 1 / len(x), -1 / len(y))
    difference = np.cumsum(weights, 0)[:-1]  # F - G between neighbours
    gaps = np.diff(np.take_along_axis(values, order, 0), axis=0)
    difference[np.abs(difference) <= ROUNDING] = 0
    sign = np.sign(difference)
    tail = np.zeros_like(values)
    tail[:-1] = np.cumsum((sign * gaps)[::-1], 0)[::-1]
    potential = np.empty_like(values)
    np.put_along_axis(potential, order, tail, 0)
    return (np.abs(difference) * gaps).sum(0), potential[: len(x)]


def _features_of(comparison: Comparison) -> list[Float[ndarray, "_ D"]]:
    """Returns the features of the samples, of the held-out reals and of the reference."""
    sets = (comparison.fake, comparison.held_out, comparison.real)
    return [needed(evidence.features if evidence else None) for evidence in sets]


def _slices_of(comparison: Comparison) -> tuple[Slices, Slices]:
    """Returns the samples and the held-out reals, each against the reference."""
    *sets, real = _features_of(comparison)
    fake, held_out = (slices(features, real, DIRECTIONS, SEED) for features in sets)
    return fake, held_out


def _ratio(fake: Slices, held_out: Slices) -> float:
    """Returns the ratio. Raises UserError where the held-out reals are those of the reference."""
    of_reals = float(held_out.distances.mean())
    if of_reals <= 0:
        raise UserError(
            "--metrics swr: the held-out reals are the reference itself; give another "
            "--reference_split"
        )
    return float(fake.distances.mean()) / of_reals
