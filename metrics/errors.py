"""Standard errors of scores, and of differences of scores.

Nearly every score is the mean of what each sample contributes to it, to first order in the number
of samples. So its error is the deviation of the contributions over the root of their number: the
infinitesimal jackknife (Jaeckel 1972; Efron 1981, https://doi.org/10.1093/biomet/68.3.589). Nothing
is drawn anew: a bootstrap draws samples twice, and a Fréchet distance of fewer different samples is
another figure. Of a score that is no smooth function of them, `sliced_error` says what to keep.

The reference is held fixed; held-out reals of a ratio are not. The error is that of other samples
of the same generator against the same reference; other training runs differ by more.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

CONFIDENT = 1.96  # errors by which two scores must differ: 5% of equal ones do by chance


class Estimate(NamedTuple):
    """A score, and what its samples contribute to it.

    Attributes:
        value: The score.
        parts: For each independent source of noise, the contributions of its members, up to a
            constant, in their order. None: no error is known.
    """

    value: float
    parts: tuple[Float[ndarray, " n"], ...] = ()

    @property
    def error(self) -> float | None:
        """The standard error; None where it is not known."""
        return _error(self.parts) if self.parts else None


def difference(first: Estimate, second: Estimate) -> tuple[float, float | None]:
    """Returns first - second, and its standard error; None where it is not known.

    Both must be of equally many samples. Where sample i of both has the same noise, what it does to
    both drops out. Where the two have nothing in common, the variances add up.
    """
    value = first.value - second.value
    lengths = [[len(part) for part in estimate.parts] for estimate in (first, second)]
    if not first.parts or lengths[0] != lengths[1]:
        return value, None
    pairs = zip(first.parts, second.parts, strict=True)
    return value, _error(tuple(one - other for one, other in pairs))


def _error(parts: tuple[Float[ndarray, " n"], ...]) -> float:
    """Returns the root of the sum of the variances of independent means."""
    return math.sqrt(sum(float(np.var(part, ddof=1)) / len(part) for part in parts))


def deal(count: int, parts: int) -> list[Int[ndarray, " n"]]:
    """Returns the indices of `count` samples in parts that differ by one at the most.

    They are dealt at random, always the same, because labels often come in turn.
    """
    return np.array_split(np.random.default_rng(0).permutation(count), parts)


# ---------------------------------------------------------------- shares

# A share of 1 does not say how rare the others are, and its contributions are all alike. Two
# members of which something holds and two of which it does not are added to them, so that the error
# is not 0 (Agresti & Coull 1998, https://doi.org/10.1080/00031305.1998.10480550). The share itself
# stays as it is.
ADDED = (0.0, 0.0, 1.0, 1.0)


def share(holds: Bool[ndarray, " n"]) -> Estimate:
    """Returns the share of samples of which something holds."""
    return Estimate(float(np.mean(holds)), (np.concatenate([holds, ADDED]),))


def least_variance(share: float, count: int) -> float:
    """Returns the variance that a share of `count` independent members has at the least."""
    total = count + len(ADDED)
    added = (share * count + sum(ADDED)) / total
    return added * (1 - added) / total


def with_variance(contributions: Float[ndarray, " n"], variance: float) -> Float[ndarray, " n"]:
    """Returns contributions scaled to the variance of their score; 0 where all are alike."""
    spread = float(np.var(contributions, ddof=1)) / len(contributions)
    if spread == 0:
        return np.zeros(len(contributions))
    return math.sqrt(variance / spread) * (contributions - contributions.mean())


# ---------------------------------------------------------------- second order


def without_second_order(
    contributions: Float[ndarray, " N"], of_halves: Float[ndarray, " N"], surplus: float = 0.5
) -> Float[ndarray, " N"]:
    """Returns contributions scaled to the variance that the score has.

    A contribution compares a sample with all others, so the noise of those is in it. If v is the
    variance of what a sample does by itself and c that of this noise, contributions have v + 2c,
    and those that were found in each half of the samples alone have v + 4c. The score itself has
    v + c: of a pair of samples the noise counts once, and not for each of the two. It matters where
    v is small, which is where samples are as good as real ones; the error would be 1.4 times as
    large as it is.

    Args:
        contributions: Found among all samples.
        of_halves: The same, each found in one half of the samples; with mean 0 in each half.
        surplus: The part of 2c that contributions have too much.
    """
    variance = float(np.var(contributions))
    if variance == 0:
        return contributions
    noise = max(float(np.var(of_halves)) - variance, 0)  # 2c
    left = 1 - surplus * min(noise / variance, 1)
    return math.sqrt(left) * (contributions - contributions.mean())
