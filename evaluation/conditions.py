"""Conditions (--data.condition_column): which of them samples are made from."""

import numpy as np

from utils.errors import UserError
from utils.npz import read_npy


def read_conditions(flag: str, path: str, width: int) -> np.ndarray:
    """Returns the conditions in an .npy file, float32 [S, K]; a single vector [K] is one.

    Args:
        flag: that names the file, for messages.
        path: of the file.
        width: K, of the generator.
    Raises:
        UserError: the file cannot be read, or does not hold vectors of this width.
    """
    if not path.endswith(".npy"):
        raise UserError(f"--{flag} {path}: expected an .npy of conditions [S, {width}]")
    vectors = np.atleast_2d(read_npy(path))
    if vectors.dtype.kind not in "iubf" or vectors.shape[1:] != (width,) or not len(vectors):
        raise UserError(
            f"--{flag} {path}: {vectors.dtype} {list(vectors.shape)}; the generator takes "
            f"conditions [S, {width}]"
        )
    vectors = vectors.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise UserError(f"--{flag} {path}: some numbers are not finite; mend them")
    return vectors


def spread(conditions: np.ndarray, n: int) -> np.ndarray:
    """Returns n of the conditions [S, K], evenly spaced; all of them where they are no more."""
    if len(conditions) <= n:
        return conditions
    return conditions[np.linspace(0, len(conditions) - 1, n).astype(int)]


def nearest(conditions: np.ndarray, wanted: np.ndarray, n: int) -> np.ndarray:
    """Returns the positions of the n of the conditions [S, K] nearest to one of them [K]."""
    squared = ((conditions - wanted) ** 2).sum(1)
    return np.argsort(squared, kind="stable")[:n]
