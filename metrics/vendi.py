"""Vendi score: how many different images there are (Friedman & Dieng 2023, arXiv 2210.02410).

It is exp of the Shannon entropy of the eigenvalues of K / N, where K [N, N] has the cosines of the
features of all pairs: from 1, all alike, to the lesser of N and D, all at right angles. With the
features U [N, D] scaled to rows of length 1, K = U Uᵀ and Uᵀ U have the same eigenvalues but for
zeros, so the smaller of the two is used.

It looks at samples alone, and noise does well in it: it says nothing without a distance. It grows
with N as well, so its ratio is to as many reals: less than 1 is less variety than theirs, and more
may be noise.

The contributions are those of groups of samples, from the scores without each: the jackknife. The
derivative by the weight of a sample would be cheaper, but where N is less than D it gives an error
that is too small by a quarter: there each sample has a direction of its own, which goes with it.
"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from metrics.errors import Estimate, deal
from metrics.evidence import Comparison, needed
from utils.errors import UserError

GROUPS = 10  # of the jackknife


def vendi(features: Float[ndarray, "N D"]) -> float:
    """Returns the score of all samples, in float64.

    Raises:
        UserError: Features are no [N, D], or those of a sample are not finite or all 0.
    """
    directions = _directions(features)
    return _score(_products(directions), len(directions))


def vendi_estimate(features: Float[ndarray, "N D"]) -> Estimate:
    """Returns the same, with what each of GROUPS groups of samples, dealt at random, contributes.

    That is the score without the group, times -(GROUPS - 1): then the deviation of these over the
    root of their number is the error of the jackknife.
    """
    directions = _directions(features)
    count = len(directions)
    products = _products(directions)
    scores = []
    for group in deal(count, GROUPS):
        if len(products) == count:  # of all pairs of samples
            rest = np.delete(np.delete(products, group, 0), group, 1)
        else:
            rest = products - directions[group].T @ directions[group]
        scores.append(_score(rest, count - len(group)))
    return Estimate(_score(products, count), (-(GROUPS - 1) * np.array(scores),))


def vendi_scores(comparison: Comparison) -> tuple[float, float]:
    """For `metrics.table`: the score of all samples, and the ratio of as many samples and reals."""
    fake, fewer, real = _sets(comparison)
    score = vendi(fake)
    return score, (score if fewer is fake else vendi(fewer)) / vendi(real)


def vendi_estimates(comparison: Comparison) -> dict[str, Estimate]:
    """For `metrics.table`. The reals are held fixed."""
    fake, fewer, real = _sets(comparison)
    of_all = vendi_estimate(fake)
    of_fewer = of_all if fewer is fake else vendi_estimate(fewer)
    of_reals = vendi(real)
    parts = tuple(part / of_reals for part in of_fewer.parts)
    return {"vendi": of_all, "vendi_ratio": Estimate(of_fewer.value / of_reals, parts)}


# ---------------------------------------------------------------- parts


def _sets(comparison: Comparison) -> tuple[ndarray, ndarray, ndarray]:
    """Returns the features of all samples, and of equally many samples and reals.

    Of the larger set these are some at random, always the same.
    """
    fake, real = needed(comparison.fake.features), needed(comparison.real.features)
    count = min(len(fake), len(real))
    fewer = [
        x if len(x) == count else x[np.random.default_rng(0).permutation(len(x))[:count]]
        for x in (fake, real)
    ]
    return fake, fewer[0], fewer[1]


def _directions(features: ndarray) -> Float[ndarray, "N D"]:
    """Returns features scaled to rows of length 1."""
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or not len(x):
        raise UserError(f"features of shape {x.shape} given; expected [N, D]")
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise UserError(
            "features hold values that are not finite; look at the samples before scoring them"
        )
    if not lengths.all():
        raise UserError(
            f"--metrics vendi: {np.sum(lengths == 0)} of {len(x)} images have features that are "
            "all 0, which have no direction; leave it out, or take another network"
        )
    return x / lengths


def _products(directions: Float[ndarray, "N D"]) -> Float[ndarray, "n n"]:
    """Returns the products of all pairs of rows or of columns, whichever are fewer."""
    count, dim = directions.shape
    return directions @ directions.T if count <= dim else directions.T @ directions


def _score(products: Float[ndarray, "n n"], count: int) -> float:
    """Returns the score of `count` samples. Rounding makes zeros slightly negative."""
    values = np.linalg.eigvalsh(products) / count
    values = values[values > 0]
    return float(np.exp(-(values * np.log(values)).sum()))
