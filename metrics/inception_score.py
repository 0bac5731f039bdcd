"""Inception score (Salimans et al. 2016, arXiv 1606.03498): exp(E KL(p(y | image) || p(y)))."""

import itertools

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from metrics.errors import Estimate
from metrics.evidence import Comparison, needed
from utils.errors import UserError

SPLITS = 10  # of published figures
SEED = 2020  # the same


def inception_score(
    logits: Float[ndarray, "N K"], splits: int = SPLITS, seed: int = SEED
) -> tuple[float, float]:
    """Returns (mean, standard deviation) of the score over equal parts of the shuffled samples.

    The score is from 1 (worst) to K.

    Args:
        logits: The network's unbiased ones, `logits_unbiased`.
        splits: Number of parts.
        seed: Of the shuffle, which matters because generated samples are often sorted by class.
            Published figures use NumPy's RandomState with 2020, as torch-fidelity does.

    Raises:
        UserError: There are fewer samples than parts, or values that are not finite.
    """
    parts = divergences(logits, splits, seed)
    scores = [np.exp(of_part.mean()) for _, of_part in parts]
    return float(np.mean(scores)), float(np.std(scores))


def divergences(
    logits: Float[ndarray, "N K"], splits: int, seed: int
) -> list[tuple[Int[ndarray, " n"], Float[ndarray, " n"]]]:
    """Returns, for each part, its samples and KL(p(y | sample) || p(y)) of each; see above."""
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or not 1 <= splits <= len(logits):
        raise UserError(
            f"logits of shape {logits.shape} and {splits} splits given; expected [N, classes], "
            "1 <= splits <= N"
        )
    if not np.isfinite(logits).all():
        raise UserError(
            "logits hold values that are not finite; look at the samples before scoring them"
        )
    order = np.random.RandomState(seed).permutation(len(logits))
    shuffled = logits[order]
    shuffled = shuffled - shuffled.max(1, keepdims=True)
    log_p = shuffled - np.log(np.exp(shuffled).sum(1, keepdims=True))  # [N, K]
    edges = [i * len(log_p) // splits for i in range(splits + 1)]
    return [
        (order[start:end], _divergence(log_p[start:end]))
        for start, end in itertools.pairwise(edges)
    ]


def _divergence(log_p: Float[ndarray, "n K"]) -> Float[ndarray, " n"]:
    p = np.exp(log_p)
    marginal = p.mean(0)
    # A class that nobody has: p is 0 there, so its term is 0 whatever the logarithm is.
    log_marginal = np.log(np.maximum(marginal, np.finfo(np.float64).tiny))
    return (p * (log_p - log_marginal)).sum(1)


def inception_scores(comparison: Comparison) -> tuple[float]:
    """For `metrics.table`: the mean alone."""
    mean, _ = inception_score(needed(comparison.fake.logits), SPLITS)
    return (mean,)


def inception_estimates(comparison: Comparison) -> dict[str, Estimate]:
    """For `metrics.table`. A sample contributes its divergence, times the score of its part."""
    logits = needed(comparison.fake.logits)
    contributions = np.empty(len(logits))
    scores = []
    for samples, divergence in divergences(logits, SPLITS, SEED):
        scores.append(np.exp(divergence.mean()))
        contributions[samples] = scores[-1] * (divergence - divergence.mean())
    return {"is": Estimate(float(np.mean(scores)), (contributions,))}
