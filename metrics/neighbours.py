"""Nearest real images of generated ones: do samples repeat the training set?

Near is by the distance of features. The paper's appendix B.4 shows such rows of images.
"""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

TILE = 4096  # images of the gallery that are compared at once


def nearest(
    queries: Float[ndarray, "Q D"], gallery: Float[ndarray, "N D"], k: int
) -> tuple[Int[ndarray, "Q k"], Float[ndarray, "Q k"]]:
    """Returns (indices, distances) of the k nearest of the gallery, nearest first.

    k is at most N. Distances are Euclidean, in float64.
    """
    queries = np.asarray(queries, np.float64)
    squared_norms = (queries**2).sum(1)[:, None]
    tiles = []
    for start in range(0, len(gallery), TILE):
        tile = np.asarray(gallery[start : start + TILE], np.float64)
        tiles.append(squared_norms + (tile**2).sum(1) - 2 * queries @ tile.T)
    squared = np.concatenate(tiles, 1)  # [Q, N]
    order = np.argsort(squared, 1, kind="stable")[:, :k]
    # Of the nearest alone, computed anew by differences: copies are at 0, not at rounding.
    differences = queries[:, None] - np.asarray(gallery)[order]  # [Q, k, D]
    return order, np.sqrt((differences**2).sum(-1))


def usual_distance(gallery: Float[ndarray, "N D"], most: int = 100) -> float:
    """Returns how far an image of the gallery is from the nearest other one.

    It is the median over at most `most` images, at equal steps. A sample that is much nearer to an
    image than that repeats it. It is 0 for a gallery of one.
    """
    if len(gallery) < 2:
        return 0.0  # there is no other one
    step = -(-len(gallery) // most)
    _, distances = nearest(gallery[::step], gallery, 2)
    return float(np.median(distances[:, 1]))  # The nearest of all is the image itself.
