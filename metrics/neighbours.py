"""Nearest real images of generated ones, by the distance of their features: do samples repeat the training set? (The paper's B.4 shows such rows.)"""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

TILE = 4096


def nearest(queries: Float[ndarray, "Q D"], gallery: Float[ndarray, "N D"], k: int) -> tuple[Int[ndarray, "Q k"], Float[ndarray, "Q k"]]:
    """(indices, distances) of the k nearest of the gallery, nearest first; k is at most N. Float64, in tiles."""
    queries = np.asarray(queries, np.float64)
    tiles = [np.asarray(gallery[i : i + TILE], np.float64) for i in range(0, len(gallery), TILE)]
    d2 = np.concatenate([(queries**2).sum(1)[:, None] + (t**2).sum(1) - 2 * queries @ t.T for t in tiles], 1)  # [Q, N]
    order = np.argsort(d2, 1, kind="stable")[:, :k]
    exact = np.sqrt(((queries[:, None] - np.asarray(gallery)[order]) ** 2).sum(-1))  # copies are at 0, not at rounding
    return order, exact
