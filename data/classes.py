"""The classes of a column of labels: numbered without gaps, those of the training split for all.

Class labels and integers keep their order, and texts are sorted. A class without samples to learn
from is left out, and a line says so: labels that start at 1 are ten classes, not eleven.
"""

import logging
from typing import Any, NamedTuple

import numpy as np

from utils.errors import UserError

log = logging.getLogger(__name__)

SHOWN = 8  # names in a message


class Classes(NamedTuple):
    """The classes of a data set.

    Attributes:
        names: of the classes, in the order of the labels.
        numbers: the label of each value of the column; None where the values are labels already.
    """

    names: tuple[str, ...]
    numbers: dict[Any, int] | None

    def label(self, value: Any) -> int:
        """Returns the label of a value of the column."""
        return value if self.numbers is None else self.numbers[value]


ONE_CLASS = Classes(("all",), None)


def find_classes(name: str, column: str, values: np.ndarray, names: tuple[str, ...]) -> Classes:
    """Returns the classes of the labels that there are to learn from.

    Args:
        name: of the data set, for messages.
        column: that holds the labels.
        values: [S] of the training split.
        names: of all class labels, by number; () for integers and texts, which name themselves.
    Raises:
        UserError: values are missing, or are no labels.
    """
    check_labels(name, column, values, names)
    used = sorted(set(values.tolist()))
    if not names:
        numbers = {value: number for number, value in enumerate(used)}
        is_numbered = all(value == number for value, number in numbers.items())
        return Classes(tuple(map(str, used)), None if is_numbered else numbers)
    if len(used) == len(names):
        return Classes(names, None)
    empty = [names[number] for number in range(len(names)) if number not in set(used)]
    warn_of_empty(name, empty)
    numbers = {value: number for number, value in enumerate(used)}
    return Classes(tuple(names[value] for value in used), numbers)


def check_labels(name: str, column: str, values: np.ndarray, names: tuple[str, ...]) -> None:
    """Raises UserError where a value is missing, or is no label."""
    missing = missing_values(values)
    if missing.any():
        raise UserError(
            f"{name}: column {column!r} has no label in {int(missing.sum()):,} of {len(values):,} "
            f"rows, row {int(np.argmax(missing))} first: fill them in, give another --data.split, "
            "or --data.label_column none for one class"
        )
    is_text = values.dtype.kind in "OUS" and all(isinstance(v, str) for v in values.tolist())
    if not is_text and values.dtype.kind not in "iub":
        raise UserError(
            f"{name}: column {column!r} holds no labels ({values.dtype}); name another with "
            "--data.label_column, or none"
        )
    if is_text:
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or (names and high >= len(names)):
        limit = f"0 to {len(names) - 1}" if names else "0 or more"
        raise UserError(
            f"{name}: column {column!r} has labels from {low} to {high}, expected {limit}; this "
            "split may have none (--data.split)"
        )


def missing_values(values: np.ndarray) -> np.ndarray:
    """Returns [S] whether a value is missing. Integers with gaps arrive as floats with NaN."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "O":
        return np.array([value is None for value in values.tolist()], bool)
    return np.zeros(len(values), bool)


def keep_known(name: str, classes: Classes, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (positions of the samples whose class is known, their labels [S]).

    Samples of a class that there was nothing to learn of are left out, and a line says so.
    """
    if classes.numbers is None:
        known = np.ones(len(values), bool)
        if values.dtype.kind in "iub":
            known = (values >= 0) & (values < len(classes.names))
        labels = values
    else:
        labels = np.array([classes.numbers.get(value, -1) for value in values.tolist()])
        known = labels >= 0
    positions = np.flatnonzero(known)
    if len(positions) < len(values):
        log.warning(
            "%s: %s samples of classes that the training split does not have are left out",
            name,
            f"{len(values) - len(positions):,}",
        )
    return positions, labels[positions].astype(np.int64)


def warn_of_empty(name: str, empty: list[str]) -> None:
    """Says which classes are left out because there is nothing to learn from."""
    more = f" and {len(empty) - SHOWN} more" if len(empty) > SHOWN else ""
    listed = ", ".join(empty[:SHOWN])
    log.warning("%s: classes without samples are left out: %s%s", name, listed, more)
