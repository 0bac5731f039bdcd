"""Nearest real images of generated ones, by the distance of their features: do samples repeat the training set? (The paper's B.4 shows such rows.)"""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

TILE = 4096


def nearest(
    queries: Float[ndarray, "Q D"], gallery: Float[ndarray, "N D"], k: int
) -> tuple[Int[ndarray, "Q k"], Float[ndarray, "Q k"]]:
    """(indices, distances) of the k nearest of the gallery, nearest first; k is at most N. Float64, in tiles."""
    queries = np.asarray(queries, np.float64)
    squares = (queries**2).sum(1)[:, None]

    def distances(tile):
        return squares + (tile**2).sum(1) - 2 * queries @ tile.T

    d2 = np.concatenate(
        [
            distances(np.asarray(gallery[i : i + TILE], np.float64))
            for i in range(0, len(gallery), TILE)
        ],
        1,
    )  # [Q, N]
    order = np.argsort(d2, 1, kind="stable")[:, :k]
    exact = np.sqrt(
        ((queries[:, None] - np.asarray(gallery)[order]) ** 2).sum(-1)
    )  # copies are at 0, not at rounding
    return order, exact


def usual_distance(gallery: Float[ndarray, "N D"], most: int = 100) -> float:
    """How far an image of the gallery is from the nearest other one: the median over `most` of them, at equal steps. A sample much nearer than that repeats an image."""
    queries = gallery[:: -(-len(gallery) // most)]
    return float(np.median(nearest(queries, gallery, 2)[1][:, 1]))
