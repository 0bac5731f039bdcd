"""Conditions (--data.condition_column): which of them samples are made from."""

import numpy as np

from data.conditions import LARGEST
from utils.errors import UserError
from utils.npz import read_npy


def read_conditions(flag: str, path: str, width: int) -> np.ndarray:
    """Returns the conditions in an .npy file, float32 [S, E]; a single vector [E] is one.

    Args:
        flag: that names the file, for messages.
        path: of the file.
        width: K, of the generator.
    Raises:
        UserError: the file cannot be read, or does not hold vectors of this width.
    """
    if not path.endswith(".npy"):
        raise UserError(f"--{flag} {path}: expected an .npy of conditions [S, {width}]")
    array = read_npy(path)
    vectors = np.atleast_2d(array)
    if vectors.dtype.kind not in "iubf" or vectors.shape[1:] != (width,) or not len(vectors):
        raise UserError(
            f"--{flag} {path}: {array.dtype} {list(array.shape)}; the generator takes conditions "
            f"[S, {width}]"
        )
    if not (np.abs(vectors) <= LARGEST).all():  # NaN is not
        raise UserError(
            f"--{flag} {path}: some numbers are not finite, or beyond {LARGEST:g}; mend or scale "
            "them as those of the training data"
        )
    return vectors.astype(np.float32)


def spread(conditions: np.ndarray, n: int) -> np.ndarray:
    """Returns n of the conditions [S, E], evenly spaced; all of them where they are no more."""
    if len(conditions) <= n:
        return conditions
    return conditions[np.linspace(0, len(conditions) - 1, n).astype(int)]


def nearest(conditions: np.ndarray, wanted: np.ndarray, n: int) -> np.ndarray:
    """Returns the positions of the n of the conditions [S, E] nearest to one of them [E]."""
    squared = ((conditions - wanted) ** 2).sum(1)
    return np.argsort(squared, kind="stable")[:n]
