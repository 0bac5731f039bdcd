"""Sliced Wasserstein distance (Bonneel et al. 2015, https://doi.org/10.1007/s10851-014-0506-3).

In one dimension the distance is exact and cheap, by sorting; it is averaged over directions.
"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray


def sliced_wasserstein(
    x: Float[ndarray, "N D"], y: Float[ndarray, "N D"], directions: int = 128, seed: int = 0
) -> float:
    """Returns the mean over random directions of W_1 between the projections of two sets.

    W_1 in one dimension is the mean of |sorted x - sorted y|. The result has the units of x, and
    is 0 for equal sets.

    Raises:
        ValueError: The sets differ in size.
    """
    if x.shape != y.shape:
        raise ValueError(f"expected sets of one shape, got {x.shape} and {y.shape}")
    direction = np.random.default_rng(seed).normal(size=(x.shape[1], directions))
    direction /= np.linalg.norm(direction, axis=0)
    sorted_x = np.sort(x.astype(float) @ direction, axis=0)  # [N, directions]
    sorted_y = np.sort(y.astype(float) @ direction, axis=0)
    return float(np.mean(np.abs(sorted_x - sorted_y)))
