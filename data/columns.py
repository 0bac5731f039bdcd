"""Which columns of a table hold the images and the labels, and what their values mean."""

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from data.dataset import Options
from data.hub_cards import Card
from utils.errors import UserError
from utils.words import did_you_mean

log = logging.getLogger(__name__)

# Usual names of columns, in the order of preference.
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "pixels")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls")


class Table(Protocol):
    """As much of a table of the library `datasets` as finding columns takes."""

    @property
    def column_names(self) -> Sequence[str]: ...

    @property
    def features(self) -> Mapping[str, Any]: ...


# ---------------------------------------------------------------- which columns


def wants_one_class(name: str, options: Options) -> bool:
    """Whether a set without columns is to be used without its labels (--data.label_column none)."""
    if options.label_column not in ("", "none"):
        raise UserError(
            f"--data.label_column {options.label_column}: {name} has no columns; give none for one "
            "class, or leave it out"
        )
    return options.label_column == "none"


def choose_columns(name: str, table: Table, options: Options, card: Card | None) -> tuple[str, str]:
    """Returns the columns of images and of labels; "" stands for no labels.

    An option goes before the card of a well-known set, and that before what is found by the kinds
    and the names of the columns. Raises UserError for a column that is not there.
    """
    image = options.image_column
    label = options.label_column
    if card:
        image = image or card.image
        label = label or card.label
    image = image or _find_image(name, table)
    label = label or _find_label(name, table)
    if label == "none":
        label = ""
    for option, column in (("image_column", image), ("label_column", label)):
        if column and column not in table.column_names:
            listed = ", ".join(table.column_names)
            guess = did_you_mean(column, table.column_names)
            raise UserError(
                f"{name} has no column {column!r}{guess} (it has {listed}); "
                f"name one with --data.{option}"
            )
    return image, label


def _find_image(name: str, table: Table) -> str:
    """Returns the column of images. Raises UserError if there is none."""
    import datasets

    found = _find(table, datasets.Image, IMAGE_COLUMNS)
    if not found:
        listed = ", ".join(table.column_names)
        raise UserError(
            f"{name}: no column of images among {listed}; name it with --data.image_column"
        )
    if len(found) > 1:
        log.warning(
            "%s: images are taken from the column %s, not from %s; --data.image_column chooses",
            name,
            found[0],
            ", ".join(found[1:]),
        )
    return found[0]


def _find_label(name: str, table: Table) -> str:
    """Returns the column of labels, or "none"."""
    import datasets

    found = _find(table, datasets.ClassLabel, LABEL_COLUMNS)
    if not found:
        log.info(
            "%s: no column of labels among %s, so one class: training is unconditional; "
            "--data.label_column names one",
            name,
            ", ".join(table.column_names),
        )
        return "none"
    if len(found) > 1:
        log.warning(
            "%s: labels are taken from the column %s, not from %s; --data.label_column chooses",
            name,
            found[0],
            ", ".join(found[1:]),
        )
    return found[0]


def _find(table: Table, kind: type, usual_names: Sequence[str]) -> list[str]:
    """Returns the columns of a kind, those with a usual name if any; or else by name alone."""
    of_kind = [column for column, feature in table.features.items() if isinstance(feature, kind)]
    named = [column for column in usual_names if column in table.column_names]
    both = [column for column in named if column in of_kind]
    return both or of_kind or named


# ---------------------------------------------------------------- what is in them


def image_content(value: Any, name: str) -> tuple[Any, str]:
    """Returns (what `data.images.decode` takes, name for messages) of a value of an image column.

    value: undecoded, that is a dict of `bytes` or a `path`; or nested lists of pixels; or else
    what `decode` takes already.
    """
    if isinstance(value, dict):
        path = value.get("path")
        if path:
            name = f"{name} ({path})"
        content = value.get("bytes")
        if content is None:
            content = pathlib.Path(path).read_bytes()
        return content, name
    if isinstance(value, list):
        return np.asarray(value, np.uint8), name
    return value, name


def read_labels(
    name: str, table: Any, label: str, split: str
) -> tuple[dict[str, int] | None, tuple[str, ...], tuple[int, ...]]:
    """Reads the whole column of labels.

    Class labels and integers stand for themselves; texts are numbered in sorted order.

    Args:
        name: Of the data set, for messages.
        table: Of the library `datasets`.
        label: The column, or "" for a set without labels.
        split: Empty classes are refused in the split "train".

    Returns:
        The label of each text (None if the values are labels already), the names of the classes,
        and the samples of each.
    """
    if not label:
        return None, ("all",), (len(table),)
    values = table.with_format("arrow")[label]
    if not hasattr(values, "to_numpy"):
        values = values[:]
    values = np.asarray(values.to_numpy())
    feature = table.features[label]
    labels, class_names, label_of_text = _number(name, label, values, feature)
    _check_range(name, label, labels, len(class_names))
    counts = np.bincount(labels, minlength=len(class_names))
    if split == "train" and not counts.all():
        empty = int(np.argmin(counts))
        n_empty = int((counts == 0).sum())
        raise UserError(
            f"{name}: class {empty} ({class_names[empty]!r}) has no samples in this split, of "
            f"{n_empty} empty classes; use another --data.label_column or --data.split"
        )
    return label_of_text, class_names, tuple(counts.tolist())


def _number(
    name: str, label: str, values: np.ndarray, feature: Any
) -> tuple[np.ndarray, tuple[str, ...], dict[str, int] | None]:
    """Returns the labels as numbers, the names of the classes, and the number of each text."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return values, tuple(feature.names), None
    if values.dtype.kind in "OUS" and all(isinstance(value, str) for value in values):
        class_names = tuple(sorted(set(values.tolist())))
        label_of_text = {text: number for number, text in enumerate(class_names)}
        labels = np.array([label_of_text[text] for text in values])
        return labels, class_names, label_of_text
    if values.dtype.kind in "iub":
        class_names = tuple(str(number) for number in range(int(values.max()) + 1))
        return values.astype(np.int64), class_names, None
    raise UserError(
        f"{name}: column {label!r} holds no labels ({feature}); name another with "
        "--data.label_column, or none"
    )


def _check_range(name: str, label: str, labels: np.ndarray, n_classes: int):
    """Raises UserError for labels that are no classes; a column with gaps comes as floats."""
    if labels.dtype.kind == "f" or labels.min() < 0 or labels.max() >= n_classes:
        raise UserError(
            f"{name}: column {label!r} has labels from {labels.min()} to {labels.max()}, expected "
            f"0 to {n_classes - 1}; this split may have none (--data.split)"
        )
