"""Vectors that samples are generated from, in the place of classes (--data.condition_column).

They are what the user has computed for each image: the embedding of a text or of another image, the
cosine and sine of an angle. How far two of them are apart, as they are, says how unlike their
images may be.
"""

from typing import Any

import numpy as np

from data.dataset import Options
from utils.errors import UserError

LARGEST = 1e15  # number of a condition: squares of distances stay within float32


def check_no_labels(name: str, options: Options) -> None:
    """Raises UserError where a column of labels is named beside one of conditions."""
    if options.condition_column and options.label_column not in ("", "none"):
        raise UserError(
            f"--data.label_column {options.label_column}: with --data.condition_column "
            f"{options.condition_column} the conditions of {name} are in the place of classes; "
            "leave one of the two out"
        )


def to_vectors(name: str, column: str, values: Any) -> np.ndarray:
    """Returns the conditions of all samples, float32 [S, E].

    Args:
        name: of the data set, for messages.
        column: that holds them.
        values: an array [S, E], or a sequence of S vectors.
    Raises:
        UserError: they are no vectors of one width, or some numbers are not finite or too large.
    """
    advice = "store K numbers for each sample, or name another with --data.condition_column"
    try:
        vectors = np.asarray(values)
        if vectors.dtype == object:
            vectors = np.stack([np.asarray(value, np.float64) for value in values])
    except (TypeError, ValueError):
        raise UserError(
            f"{name}: {column!r} does not hold one vector of numbers, as long as the others, for "
            f"each sample; {advice}"
        ) from None
    if vectors.ndim != 2 or vectors.dtype.kind not in "iubf" or not vectors.shape[1]:
        raise UserError(
            f"{name}: {column!r} holds {vectors.dtype} {list(vectors.shape)}, expected a vector of "
            f"numbers for each sample; {advice}"
        )
    good = (np.abs(vectors) <= LARGEST).all(1)  # NaN is not
    if not good.all():
        raise UserError(
            f"{name}: {column!r} is not finite, or beyond {LARGEST:g}, in {int((~good).sum()):,} "
            f"of {len(vectors):,} samples, number {int(np.argmin(good))} first: mend or scale "
            "them, or leave these samples out"
        )
    return vectors.astype(np.float32)
