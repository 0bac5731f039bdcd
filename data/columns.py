"""Which columns of a table hold the images and the labels, and what their values mean."""

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

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
    """Returns the columns of images and of labels; "" stands for no labels, as with conditions.

    An option goes before the card of a well-known set, and that before what is found by the kinds
    and the names of the columns. Raises UserError for a column that is not there.
    """
    image = options.image_column
    label = options.label_column
    if card:
        image = image or card.image
        label = label or card.label
    image = image or _find_image(name, table)
    condition = options.condition_column
    label = "none" if condition else label or _find_label(name, table)
    if label == "none":
        label = ""
    named = {"image_column": image, "label_column": label, "condition_column": condition}
    for option, column in named.items():
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

PROBED = 8  # rows looked at, spread over the table


class Pixels(NamedTuple):
    """How the numbers of a column of images become pixels in [0, 255].

    Attributes:
        scale: what they are multiplied with; 0 for images that are files and have no numbers.
    """

    scale: float = 0.0

    def to_array(self, value: Any) -> np.ndarray:
        """Returns uint8 pixels. Raises ValueError for numbers out of the range of the column."""
        numbers = np.asarray(value, np.float64) * (self.scale or 1.0)
        if not (np.isfinite(numbers).all() and numbers.min() >= 0 and numbers.max() <= 255):
            raise ValueError(f"pixels from {numbers.min():g} to {numbers.max():g}")
        return np.round(numbers).astype(np.uint8)


def look_at_images(name: str, column: str, values: list[Any]) -> Pixels:
    """Returns what the values of a column of images mean, from some of them.

    Numbers in [0, 255] are pixels. Those in [0, 1] are multiplied by 255, and a line says so.

    Raises UserError for what is missing, is no image, or has another range.
    """
    present = [value for value in values if value is not None]
    advice = "name another with --data.image_column"
    if not present:
        raise UserError(
            f"{name}: column {column!r} has no image in {len(values)} rows that were looked at; "
            f"{advice}"
        )
    texts = [value for value in present if isinstance(value, str)]
    if texts:
        raise UserError(
            f"{name}: column {column!r} holds text, such as {texts[0]!r}, and no images: store the "
            f"files themselves, give folder:PATH of them, or {advice}"
        )
    arrays = [np.asarray(v) for v in present if isinstance(v, list | np.ndarray)]
    if not arrays:
        return Pixels()
    if any(array.dtype.kind not in "iubf" or not array.size for array in arrays):
        raise UserError(f"{name}: column {column!r} holds no arrays of numbers; {advice}")
    low = min(float(array.min()) for array in arrays)
    high = max(float(array.max()) for array in arrays)
    if not (low >= 0 and high <= 255):
        raise UserError(
            f"{name}: column {column!r} has pixels from {low:g} to {high:g}, expected 0 to 255 or "
            f"0 to 1: store them so, or {advice}"
        )
    if high > 1:
        return Pixels(1.0)
    log.warning("%s: pixels of column %s are from 0 to 1: multiplied by 255", name, column)
    return Pixels(255.0)


def image_content(value: Any, name: str, pixels: Pixels) -> tuple[Any, str]:
    """Returns (what `data.images.decode` takes, name for messages) of a value of an image column.

    value: undecoded, that is a dict of `bytes` or a `path`; or nested lists of pixels; or else
    what `decode` takes already.
    """
    if value is None:
        raise ValueError("no image is there")
    if isinstance(value, dict):
        path = value.get("path")
        if path:
            name = f"{name} ({path})"
        content = value.get("bytes")
        if content is None:
            content = pathlib.Path(path).read_bytes()
        return content, name
    if isinstance(value, list | np.ndarray):
        return pixels.to_array(value), name
    return value, name


def read_column(table: Any, column: str) -> np.ndarray:
    """Returns the values [S] of a column of labels, of a table of the library `datasets`."""
    values = table.with_format("arrow")[column]
    if not hasattr(values, "to_numpy"):
        values = values[:]
    return np.asarray(values.to_numpy())


def class_names(feature: Any) -> tuple[str, ...]:
    """Returns the names of a column of class labels; () of integers and texts."""
    import datasets

    return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else ()
