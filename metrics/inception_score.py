"""Inception score (Salimans et al. 2016, arXiv 1606.03498): exp of the mean of KL(p(y | image) || p(y))."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from utils.errors import UserError


def inception_score(
    logits: Float[ndarray, "N K"], splits: int = 10, seed: int = 2020
) -> tuple[float, float]:
    """(mean, std) of the score over `splits` equal parts of the shuffled samples; from 1 (worst) to K.

    `logits`: the network's unbiased ones (`logits_unbiased`). The shuffle is the one that published figures
    use (torch-fidelity: NumPy's RandomState, seed 2020); it matters because generated samples are often
    sorted by class. Raises UserError for fewer samples than splits or values that are not finite.
    """
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
    logits = logits[np.random.RandomState(seed).permutation(len(logits))]
    logits = logits - logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))  # [N, K]
    edges = [i * len(log_p) // splits for i in range(splits + 1)]
    scores = [_score(log_p[a:b]) for a, b in zip(edges, edges[1:])]
    return float(np.mean(scores)), float(np.std(scores))


def _score(log_p):
    p = np.exp(log_p)
    marginal = p.mean(0)  # a class nobody has: p = 0 there, so its term is 0 whatever the logarithm
    log_marginal = np.log(np.maximum(marginal, np.finfo(np.float64).tiny))
    return np.exp((p * (log_p - log_marginal)).sum(1).mean())
