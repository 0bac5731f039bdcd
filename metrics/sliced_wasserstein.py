"""Sliced Wasserstein distance (Bonneel et al. 2015): the mean over directions of the distance in one dimension, where it is exact."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray


def sliced_wasserstein(
    x: Float[ndarray, "N D"], y: Float[ndarray, "N D"], directions: int = 128, seed: int = 0
) -> float:
    """Mean over random directions of W_1 between the projections, mean |sorted x - sorted y|; in the units of x. 0 for equal sets. Raises ValueError for sets of different size."""
    if x.shape != y.shape:
        raise ValueError(f"expected sets of one shape, got {x.shape} and {y.shape}")
    to = np.random.default_rng(seed).normal(size=(x.shape[1], directions))
    to /= np.linalg.norm(to, axis=0)
    return float(
        np.mean(
            np.abs(np.sort(x.astype(float) @ to, axis=0) - np.sort(y.astype(float) @ to, axis=0))
        )
    )
