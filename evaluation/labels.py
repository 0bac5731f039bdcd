"""Which classes the samples of an evaluation are of."""

import logging
import pathlib

import numpy as np

from evaluation.reference import Reference
from utils.errors import UserError
from utils.npz import read_npz

log = logging.getLogger(__name__)


def label_kind(kind: str, reference: Reference) -> str:
    """uniform, reference or a file: what --labels comes to."""
    return kind or ("reference" if reference.labelled else "uniform")


def choose_labels(kind: str, reference: Reference, n: int, n_classes: int) -> np.ndarray:
    """labels [n] of a `label_kind`. Those of a reference or a file are repeated if they are fewer; uniform are 0, 1, ..., in turn. Warns of missing classes.

    Of a reference, what is left of n after whole copies is drawn at random, always the same: many sets are sorted by class, and their first samples are of a few.

    Raises UserError for a file that holds no integers, labels that the generator does not know, and a reference without labels.
    """
    if kind == "uniform":
        given = np.arange(n_classes)
    elif kind == "reference":
        if not reference.labelled:
            raise UserError(
                f"--labels reference: {reference.name} has no labels; give uniform, or a file"
            )
        given = reference.labels
    else:
        given = read_labels(kind)
    if given.min() < 0 or given.max() >= n_classes:
        raise UserError(
            f"--labels {kind}: labels {given.min()} to {given.max()}, but the generator knows 0 to {n_classes - 1}"
        )
    index = np.arange(n) % len(given)
    if kind == "reference" and (rest := n % len(given)):
        index[-rest:] = np.random.default_rng(0).permutation(len(given))[:rest]
    labels = given[index].astype(np.int32)
    missing = n_classes - len(np.unique(labels))
    if missing:
        log.warning(
            "%d of %d classes are not among the labels of the %d samples: the scores are those of a part of the data",
            missing,
            n_classes,
            n,
        )
    return labels


def read_labels(path: str) -> np.ndarray:
    """Integers of a .npy, of an .npz (arr_1, or its only array), or of a text file."""
    try:
        if path.endswith(".npz"):
            arrays = read_npz(path)
            given = arrays.get("arr_1", next(iter(arrays.values()), np.array([])))
        else:
            given = (
                np.load(path, allow_pickle=False)
                if path.endswith(".npy")
                else np.array(pathlib.Path(path).read_text().split(), np.int64)
            )
    except UserError:
        raise
    except (OSError, EOFError, ValueError) as error:
        raise UserError(
            f"--labels {path}: expected uniform, reference, or a file of integers ({' '.join(str(error).split())[:100]})"
        ) from None
    if given.ndim != 1 or not len(given) or not np.issubdtype(given.dtype, np.integer):
        raise UserError(
            f"--labels {path}: {given.dtype} {list(given.shape)}; expected a list of integers"
        )
    return given
