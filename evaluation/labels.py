"""Which classes, or conditions, the samples of an evaluation are of."""

import logging
from typing import Any

import numpy as np

from evaluation.conditions import read_conditions
from evaluation.reference import Reference
from utils.errors import UserError
from utils.npz import read_npy, read_npz
from utils.paths import to_path

log = logging.getLogger(__name__)


def labels_of_samples(model: Any, kind: str, reference: Reference, n: int) -> np.ndarray:
    """Returns what a generator takes for n samples: labels [n], or conditions [n, K].

    Args:
        model: the generator.
        kind, reference, n: as of `choose_labels`. Conditions are those of the reference's data set,
            or of an .npy file.
    Raises:
        UserError: as of `choose_labels`, or there are no conditions.
    """
    width = model.condition_width
    if not width:
        return choose_labels(kind, reference, n, model.num_classes)
    if kind == "uniform":
        raise UserError(
            "--labels uniform: the generator takes conditions, not classes; leave it out, or give "
            "an .npy of conditions"
        )
    if kind != "reference":
        given = read_conditions("labels", kind, width)
    elif reference.read_conditions:
        given = reference.read_conditions()
    else:
        raise UserError(
            "the generator takes conditions, and the reference has none: give --dataset_name and "
            "--data.condition_column, or --labels FILE.npy"
        )
    if given.shape[1] != width:
        raise UserError(
            f"{reference.name} has conditions of {given.shape[1]} numbers, but the generator takes "
            f"{width}: give the --data.condition_column of its training"
        )
    return given[repeated(len(given), n)]


def label_kind(kind: str, reference: Reference, model: Any) -> str:
    """Returns what --labels comes to: "uniform", "reference", or the path of a file.

    Without the flag, labels are those of the reference, if it has any, and conditions always are.
    """
    if kind:
        return kind
    return "reference" if reference.labelled or model.condition_width else "uniform"


def choose_labels(kind: str, reference: Reference, n: int, n_classes: int) -> np.ndarray:
    """Returns the labels of n samples, int32 [n]. Warns when classes are missing.

    Uniform labels are 0, 1, 2, ... in turn. Those of a reference or a file are repeated if they are
    fewer than n. What is left after whole copies of a reference is drawn at random, always the
    same: many data sets are sorted by class, and their first samples are of a few classes only.

    Args:
        kind: as `label_kind` returns it.
        reference: whose labels "reference" means.
        n: number of samples.
        n_classes: number of classes that the generator knows.
    Raises:
        UserError: the reference has no labels, the file holds no integers, or the generator does
            not know a label.
    """
    if kind == "uniform":
        given = np.arange(n_classes)
    elif kind == "reference":
        given = reference.labels if reference.labelled else None
        if given is None:
            raise UserError(
                f"--labels reference: {reference.name} has no labels; give uniform, or a file"
            )
    else:
        given = read_labels(kind)
    if given.min() < 0 or given.max() >= n_classes:
        raise UserError(
            f"--labels {kind}: labels {given.min()} to {given.max()}, "
            f"but the generator knows 0 to {n_classes - 1}"
        )
    index = np.arange(n) % len(given)
    if kind == "reference":
        index = repeated(len(given), n)
    labels = given[index].astype(np.int32)
    missing = n_classes - len(np.unique(labels))
    if missing:
        log.warning(
            "%d of %d classes are not among the labels of the %d samples: "
            "the scores are those of a part of the data",
            missing,
            n_classes,
            n,
        )
    return labels


def repeated(size: int, n: int) -> np.ndarray:
    """Returns n positions in a reference of a size: whole copies, and a random rest."""
    index = np.arange(n) % size
    rest = n % size
    if rest:
        index[-rest:] = np.random.default_rng(0).permutation(size)[:rest]
    return index


def read_labels(path: str) -> np.ndarray:
    """Returns the integers of a .npy, of an .npz (`arr_1`, or its first array), or of a text file.

    Raises:
        UserError: the file cannot be read, or is not a list of integers.
    """
    try:
        if path.endswith(".npz"):
            arrays = read_npz(path)
            first = next(iter(arrays.values()), np.array([]))
            labels = arrays.get("arr_1", first)
        elif path.endswith(".npy"):
            labels = read_npy(path)
        else:
            labels = np.array(to_path(path).read_text().split(), np.int64)
    except UserError:
        raise
    except (OSError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"--labels {path}: expected uniform, reference, or a file of integers ({reason})"
        ) from None
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"--labels {path}: {labels.dtype} {list(labels.shape)}; expected a list of integers"
        )
    return labels
