"""The raw sample, in which fine detail counts as much as large shapes: whitened.

The differences between two pictures lie mostly in a few directions, such as how bold or slanted a
digit is. Distances in pixels see these, and hardly see whether a stroke is sharp. Here every
principal component of the training data is divided by its standard deviation, softened so that what
is noise in the data is not blown up:

    phi(x) = V diag(1 / (s + c)) V^T (x - mean),   c = SOFTENING sqrt(mean s^2)

with the eigenvectors V and the deviations s of the covariance. It is fitted on the training data at
the start of a run and takes no weights. Beside the raw sample: `--encoder.name none+whiten`.
"""

from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from models.encoders.contract import FrozenEncoder
from utils.errors import UserError

SOFTENING = 0.5
# The matrix has as many rows and columns as a sample has numbers: 64 MB.
MOST_NUMBERS = 4096


def load(name: str, source: str, bf16: bool | None, sha256: str) -> FrozenEncoder:
    return FrozenEncoder(
        maps=whiten,
        params=None,
        channels=None,
        image_size=None,
        names=("*",),
        statistics=("map",),
        patch_sizes=(),
        fit=fit,
    )


def load_shapes(name: str, source: str, bf16: bool | None) -> FrozenEncoder:
    raise UserError(
        f"--encoder.name {name} is fitted on the training data, which are not read here: plan with "
        "--encoder.name none, which has as many features"
    )


def fit(samples: Float[np.ndarray, "S H W C"]) -> dict[str, np.ndarray]:
    """Returns the mean [D] and the matrix [D, D] of training samples, D = H W C.

    Raises:
        UserError: the samples are too large.
    """
    x = samples.reshape(len(samples), -1).astype(np.float64)
    if x.shape[1] > MOST_NUMBERS:
        raise UserError(
            f"--encoder.name whiten: a sample of {x.shape[1]:,} numbers, but it takes at most "
            f"{MOST_NUMBERS:,}; choose smaller images, or another encoder (docs/encoders.md)"
        )
    mean = x.mean(0)
    variances, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    deviations = np.sqrt(np.maximum(variances, 0))
    floor = SOFTENING * np.sqrt(np.mean(deviations**2))
    matrix = vectors / (deviations + max(floor, 1e-6)) @ vectors.T
    return {"mean": mean.astype(np.float32), "matrix": matrix.astype(np.float32)}


def whiten(params: Any, images: Float[Array, "B H W C"]) -> dict[str, Float[Array, "B 1 D"]]:
    x = rearrange(images, "b ... -> b 1 (...)")
    return {"white": (x - params["mean"]) @ params["matrix"]}
