"""Does a generator repeat its training images?

Training images are compared with held-out ones, which the generator has never seen. Three questions
about nearest neighbours, by the distance of features:

1. Is the real image nearest to a sample a training image more often than chance? Of N training and
   M held-out images of one distribution, a generator that knows neither better than the other has
   its nearest one among the training images in the share N / (N + M). What lies beyond that is
   memorised. The question does not depend on how good or how smooth the samples are, because both
   sets are asked by the same samples.
2. Is a sample nearer to the training images than a held-out image is? (Meehan et al. 2020,
   arXiv 2004.05675: the statistic of Mann and Whitney, here over all of space.) Samples that are
   smoother than real images, or worse, move this figure too.
3. Is a sample nearer to its nearest training image than that image is to its own nearest? Then it
   is not authentic (Alaa et al. 2022, arXiv 2102.08921). Held-out images are asked as well, because
   the share that is to be expected depends on the data.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from metrics.errors import Estimate, share
from metrics.evidence import Comparison, needed
from metrics.neighbours import nearest
from utils.errors import UserError

TILE = 1024  # queries whose distances to all images are held at once


class Memorisation(NamedTuple):
    """What the nearest neighbours say.

    Attributes:
        memorised: The share of samples that copy, estimated by question 1: 0 if training images are
            no nearer than held-out ones, 1 if they always are. Below 0 by chance.
        memorised_error: Its standard deviation if the images were dealt anew into training and
            held-out ones: the chance that a figure of 0 has.
        nearer: Question 2: the share of pairs of a sample and a held-out image in which the sample
            is nearer to the training images; 0.5 if they are alike.
        nearer_error: Its standard error.
        authenticity: Question 3: the share of authentic samples.
        authenticity_real: The same of the held-out images.
    """

    memorised: float
    memorised_error: float
    nearer: float
    nearer_error: float
    authenticity: float
    authenticity_real: float


def memorisation(
    fake: Float[ndarray, "F D"], training: Float[ndarray, "N D"], held_out: Float[ndarray, "M D"]
) -> Memorisation:
    """Compares samples with the images that a generator has learned from, and with others.

    Args:
        fake: Features of the samples.
        training: Of the training images.
        held_out: Of images of the same kind that it has not seen.

    Raises:
        UserError: A set has fewer than two images, D differs, or values are not finite.
    """
    return _scores(_find_neighbours(fake, training, held_out))


class _Neighbours(NamedTuple):
    """The nearest training and held-out images of samples, and how far they are.

    Attributes:
        training: (index, distance) of the training image nearest to each sample.
        held_out: The same of the held-out images.
        of_held_out: (index, distance) of the training image nearest to each held-out image.
        own: How far each training image is from the nearest other one.
    """

    training: tuple[Int[ndarray, " F"], Float[ndarray, " F"]]
    held_out: tuple[Int[ndarray, " F"], Float[ndarray, " F"]]
    of_held_out: tuple[Int[ndarray, " M"], Float[ndarray, " M"]]
    own: Float[ndarray, " N"]

    @property
    def is_authentic(self) -> Bool[ndarray, " F"]:
        """Question 3, of each sample."""
        index, distance = self.training
        return distance > self.own[index]

    @property
    def is_authentic_held_out(self) -> Bool[ndarray, " M"]:
        """Question 3, of each held-out image."""
        index, distance = self.of_held_out
        return distance > self.own[index]


def _find_neighbours(
    fake: Float[ndarray, "F D"], training: Float[ndarray, "N D"], held_out: Float[ndarray, "M D"]
) -> _Neighbours:
    """Returns all that is asked of neighbours. Raises UserError as `memorisation`."""
    _check(fake, training, held_out)
    return _Neighbours(
        training=_nearest_one(fake, training),
        held_out=_nearest_one(fake, held_out),
        of_held_out=_nearest_one(held_out, training),
        own=_nearest_other(training),
    )


def _scores(found: _Neighbours) -> Memorisation:
    """Returns the answers to the three questions."""
    share, error = _share_of_training(
        found.training, found.held_out, len(found.own), len(found.of_held_out[1])
    )
    nearer, nearer_error = probability_of_less(found.training[1], found.of_held_out[1])
    return Memorisation(
        memorised=share,
        memorised_error=error,
        nearer=nearer,
        nearer_error=nearer_error,
        authenticity=float(np.mean(found.is_authentic)),
        authenticity_real=float(np.mean(found.is_authentic_held_out)),
    )


def _share_of_training(
    training: tuple[Int[ndarray, " F"], Float[ndarray, " F"]],
    held_out: tuple[Int[ndarray, " F"], Float[ndarray, " F"]],
    n: int,
    m: int,
) -> tuple[float, float]:
    """Returns (memorised, its error): question 1.

    Each of the n + m images has a number of votes, those of the samples that are nearest to it. The
    training images' votes are then those of n images drawn without replacement, whose variance is
    known: many samples near one image do not count as many proofs. A sample that is as near to both
    sets gives each its share.

    Args:
        training: (index, distance) of the nearest training image of each sample.
        held_out: The same of the held-out images.
        n: Number of training images.
        m: Number of held-out images.
    """
    expected = n / (n + m)
    (of_training, to_training), (of_held_out, to_held_out) = training, held_out
    # A vote for each sample: 1 for the training image, 0 for the other, or divided where they tie.
    vote = np.where(to_training == to_held_out, expected, to_training < to_held_out)
    votes = np.zeros(n + m)
    np.add.at(votes, of_training, vote)
    np.add.at(votes, n + of_held_out, 1 - vote)
    votes /= len(vote)
    share = float(votes[:n].sum())
    # https://en.wikipedia.org/wiki/Simple_random_sample: the sum of n of n + m values.
    deviation = math.sqrt(n * m / (n + m) * float(np.var(votes, ddof=1)))
    return (share - expected) / (1 - expected), deviation / (1 - expected)


def probability_of_less(x: Float[ndarray, " F"], y: Float[ndarray, " M"]) -> tuple[float, float]:
    """Returns P(x < y) + P(x = y) / 2 over all pairs, and its standard error.

    It is the statistic U of Mann and Whitney over F M. The error is that of DeLong et al. 1988
    (https://doi.org/10.2307/2531595), which holds whether or not x and y are alike.
    """
    y_above, x_below = _placements(x, y)
    variance = np.var(y_above, ddof=1) / len(x) + np.var(x_below, ddof=1) / len(y)
    return float(y_above.mean()), math.sqrt(float(variance))


def _placements(
    x: Float[ndarray, " F"], y: Float[ndarray, " M"]
) -> tuple[Float[ndarray, " F"], Float[ndarray, " M"]]:
    """Returns of each x the share of y above it, of each y the share of x below it.

    Ties count half.
    """
    sorted_x, sorted_y = np.sort(x), np.sort(y)
    y_above = 1 - (_below(sorted_y, x, "left") + _below(sorted_y, x, "right")) / 2
    x_below = (_below(sorted_x, y, "left") + _below(sorted_x, y, "right")) / 2
    return y_above, x_below


def _below(values: Float[ndarray, " N"], limits: Float[ndarray, " M"], side) -> ndarray:
    """Returns, for each limit, the share of sorted values below it; side "right": or equal."""
    return np.searchsorted(values, limits, side) / len(values)


def memorisation_scores(comparison: Comparison) -> Memorisation:
    """For `metrics.table`. The reference must be what the generator has learned from."""
    return memorisation(*_sets(comparison))


def memorisation_estimates(comparison: Comparison) -> dict[str, Estimate]:
    """For `metrics.table`. The error of `memorised` is that of chance, which is no mean."""
    found = _find_neighbours(*_sets(comparison))
    estimates = {name: Estimate(value) for name, value in _scores(found)._asdict().items()}
    parts = {
        "nearer": _placements(found.training[1], found.of_held_out[1]),
        "authenticity": share(found.is_authentic).parts,
        "authenticity_real": share(found.is_authentic_held_out).parts,
    }
    return estimates | {name: Estimate(estimates[name].value, parts[name]) for name in parts}


def _sets(comparison: Comparison) -> tuple[ndarray, ndarray, ndarray]:
    """Returns the features of samples, training and held-out images."""
    held_out = comparison.held_out
    return (
        needed(comparison.fake.features),
        needed(comparison.real.features),
        needed(held_out.features if held_out else None),
    )


# ---------------------------------------------------------------- neighbours


def _nearest_one(
    queries: Float[ndarray, "Q D"], gallery: Float[ndarray, "N D"]
) -> tuple[Int[ndarray, " Q"], Float[ndarray, " Q"]]:
    """Returns (index, distance) of the nearest of the gallery."""
    parts = [
        nearest(queries[start : start + TILE], gallery, 1) for start in range(0, len(queries), TILE)
    ]
    index, distance = (np.concatenate(part)[:, 0] for part in zip(*parts, strict=True))
    return index, distance


def _nearest_other(gallery: Float[ndarray, "N D"]) -> Float[ndarray, " N"]:
    """Returns how far each image of the gallery is from the nearest other one."""
    parts = [
        nearest(gallery[start : start + TILE], gallery, 2)[1]
        for start in range(0, len(gallery), TILE)
    ]
    return np.concatenate(parts)[:, 1]  # The nearest of all is the image itself.


def _check(*sets: ndarray) -> None:
    """Raises UserError for sets of features that cannot be compared."""
    shapes = [np.shape(features) for features in sets]
    if any(len(shape) != 2 or shape[0] < 2 or shape[1] != shapes[0][1] for shape in shapes):
        raise UserError(
            f"features of shapes {', '.join(map(str, shapes))} given; expected [samples, D] of "
            "samples, training and held-out images, at least two each"
        )
    if not all(np.isfinite(features).all() for features in sets):
        raise UserError(
            "features hold values that are not finite; look at the samples before scoring them"
        )
