"""The raw sample, in which fine detail counts as much as large shapes: whitened.

The differences between two pictures lie mostly in a few directions, such as how bold or slanted a
digit is. Distances in pixels see these, and hardly see whether a stroke is sharp. Here the
principal components that hold most of the variance of the training data are divided by their
standard deviations, softened so that the last of them do not count most:

    phi(x) = diag(1 / (s + c)) V^T (x - mean),   c = SOFTENING sqrt(mean of all s^2)

with the first eigenvectors V of the covariance and their deviations s. It is fitted on the
training data at the start of a run and takes no weights. Beside the raw sample it is
`--encoder.name none+whiten`.
"""

import math
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from models.encoders.contract import FrozenEncoder
from utils.errors import UserError

VARIANCE = 0.95  # what the components hold; the others are noise for the most part
SOFTENING = 0.5
MOST_NUMBERS = 4096  # of a sample; the covariance has their square, 128 MB


def load(name: str, source: str, bf16: bool | None, sha256: str) -> FrozenEncoder:
    if source:
        raise UserError(
            f"--encoder.path {source}: {name} is fitted on the training data and has no weights of "
            "its own; leave the path out"
        )
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
    return load(name, source, bf16, sha256="")


def fit(samples: Float[np.ndarray, "S H W C"]) -> dict[str, np.ndarray]:
    """Returns the mean [D] of training samples, D = H W C, and the matrix [D, K] of K components.

    Raises:
        UserError: too large samples, or fewer than two.
    """
    check_size(samples.shape[1:])
    if len(samples) < 2:
        raise UserError("--encoder.name whiten takes two training samples at least, given one")
    x = samples.reshape(len(samples), -1).astype(np.float64)
    mean = x.mean(0)
    variances, vectors = np.linalg.eigh(np.atleast_2d(np.cov(x, rowvar=False)))
    variances, vectors = np.maximum(variances[::-1], 0), vectors[:, ::-1]  # the largest first
    largest = vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]
    vectors = vectors * np.sign(largest)  # of the two, the same everywhere
    held = np.cumsum(variances) / max(variances.sum(), 1e-12)
    components = 1 + int(np.searchsorted(held, VARIANCE))
    softening = SOFTENING * np.sqrt(variances.mean())
    scale = np.sqrt(variances[:components]) + max(softening, 1e-6)
    matrix = vectors[:, :components] / scale
    return {"mean": mean.astype(np.float32), "matrix": matrix.astype(np.float32)}


def check_size(shape: tuple[int, ...]) -> None:
    """Raises UserError for samples [H, W, C] of more numbers than a covariance is taken of."""
    numbers = math.prod(shape)
    if numbers > MOST_NUMBERS:
        raise UserError(
            f"--encoder.name whiten: a sample has {numbers:,} numbers, and it takes at most "
            f"{MOST_NUMBERS:,}; choose smaller images, or another encoder (docs/encoders.md)"
        )


def whiten(params: Any, images: Float[Array, "B H W C"]) -> dict[str, Float[Array, "B 1 K"]]:
    x = rearrange(images, "b ... -> b 1 (...)")
    return {"white": (x - params["mean"]) @ params["matrix"]}
