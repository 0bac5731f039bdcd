"""Images in an .npz file, with labels or conditions beside them: what a script of one's own writes.

    np.savez("train.npz", images=..., labels=...)
    np.savez("train.npz", images=..., text=...)

`npz:FILE.npz` is all for training. In `npz:FOLDER` the files are splits by their names, `train.npz`
and `test.npz`. Images are uint8 [S, H, W] or [S, H, W, C], and labels are integers or texts [S].
`--data.image_column` and `--data.label_column` name other arrays, and `--data.condition_column`
that of conditions [S, E].
"""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.classes import ONE_CLASS, Classes, check_labels, find_classes, keep_known
from data.columns import IMAGE_COLUMNS, LABEL_COLUMNS
from data.conditions import check_no_labels, to_vectors
from data.dataset import Dataset, Options
from data.images import make_images
from data.splits import choose_split
from utils.errors import UserError
from utils.npz import read_npz
from utils.paths import to_local
from utils.words import did_you_mean

UNUSED_OPTIONS = ("dir", "config")
TAKES_CONDITIONS = True
# Names of the arrays, in the order of preference; the last are those of ADM and of sample.py.
IMAGES = (*IMAGE_COLUMNS, "images", "arr_0")
LABELS = (*LABEL_COLUMNS, "arr_1")

Arrays = dict[str, np.ndarray]


class ReadArray:
    """`read` of `data.images.Images`, over an array of images.

    Args:
        images: [S, H, W] or [S, H, W, C], uint8.
        labels: [S] int32.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images = images
        self.labels = labels

    def __call__(self, index: int) -> tuple[Any, int, str]:
        return self.images[index], int(self.labels[index]), f"sample {index}"


def load(name: str, split: str, options: Options) -> Dataset:
    """Returns a split. Raises UserError for arrays that are missing, or do not fit together."""
    check_no_labels(name, options)
    files = find_files(name, name.partition(":")[2])
    own_name, split = choose_split(name, files, split)
    path = files[own_name]
    arrays = read_file(path, os.path.getmtime(path))
    images = find_images(name, path, arrays, options)
    n = len(images)

    classes, labels = ONE_CLASS, np.zeros(n, np.int32)
    conditions = None
    column = "" if options.condition_column else find_labels(name, path, arrays, options)
    if column:
        train = files.get("train", path)
        of_train = read_file(train, os.path.getmtime(train))
        classes = find_classes(name, column, array_of(name, train, of_train, column, "label"), ())
        values = array_of(name, path, arrays, column, "label", n)
        check_labels(name, column, values, ())
        kept, labels = keep_known(name, classes, values)
        images = images[kept]
    elif options.condition_column:
        column = options.condition_column
        conditions = array_of(name, path, arrays, column, "condition", n)
        conditions = to_vectors(name, column, conditions)
    return dataset_of(name, split, options, images, labels, classes, conditions)


def dataset_of(
    name: str,
    split: str,
    options: Options,
    images: np.ndarray,
    labels: np.ndarray,
    classes: Classes,
    conditions: np.ndarray | None,
) -> Dataset:
    """Returns the data set of arrays that fit together."""
    read = ReadArray(images, labels)
    samples = make_images(read, len(images), options.image_size, options.channels, name)
    return Dataset(
        name=name,
        split=split,
        samples=samples,
        shape=samples.shape,
        dtype="uint8",
        class_names=classes.names,
        counts=tuple(np.bincount(labels, minlength=len(classes.names)).tolist()),
        max_corrupt=options.max_corrupt,
        conditions=conditions,
    )


# ---------------------------------------------------------------- files and arrays


def find_files(name: str, source: str) -> dict[str, pathlib.Path]:
    """Returns {split: file}."""
    path = to_local(source)
    if path.is_dir():
        files = {file.stem: file for file in sorted(path.glob("*.npz"))}
    else:
        files = {"train": path} if path.is_file() else {}
    if not files:
        raise UserError(
            f"--dataset_name {name}: expected an .npz file, or a folder with train.npz; "
            f"{path} is none"
        )
    return files


@functools.lru_cache(maxsize=2)
def read_file(path: pathlib.Path, changed: float) -> Arrays:
    """Returns the arrays of a file; `changed` is when it was written."""
    return read_npz(path)


def find_images(name: str, path: pathlib.Path, arrays: Arrays, options: Options) -> np.ndarray:
    """Returns the array of images. Raises UserError where there is none."""
    column = options.image_column or find(arrays, IMAGES)
    if not column:
        raise UserError(
            f"{name}: no array of images among {', '.join(arrays)} in {path.name}; name it with "
            "--data.image_column"
        )
    images = array_of(name, path, arrays, column, "image")
    is_grey = images.ndim == 3
    if images.dtype != np.uint8 or not (is_grey or images.ndim == 4) or not len(images):
        raise UserError(
            f"{name}: {column!r} is {images.dtype} {list(images.shape)}, expected uint8 images "
            "[S, H, W] or [S, H, W, C]: store them so, or name another with --data.image_column"
        )
    return images


def find_labels(name: str, path: pathlib.Path, arrays: Arrays, options: Options) -> str:
    """Returns the name of the array of labels, or "" for one class."""
    if options.label_column == "none":
        return ""
    if options.label_column:
        array_of(name, path, arrays, options.label_column, "label")
    return options.label_column or find(arrays, LABELS)


def find(arrays: Arrays, usual_names: Sequence[str]) -> str:
    """Returns the first usual name that an array has, or ""."""
    return next((usual for usual in usual_names if usual in arrays), "")


def array_of(
    name: str, path: pathlib.Path, arrays: Arrays, column: str, kind: str, n: int | None = None
) -> np.ndarray:
    """Returns an array of a file. Raises UserError where it is missing, or is not of n samples."""
    if column not in arrays:
        raise UserError(
            f"{name}: {path.name} has no array {column!r}{did_you_mean(column, arrays)} (it has "
            f"{', '.join(arrays)}); name one with --data.{kind}_column"
        )
    array = arrays[column]
    if not array.ndim or (kind == "label" and array.ndim > 1):
        raise UserError(
            f"{name}: {column!r} of {path.name} is {array.dtype} {list(array.shape)}, expected one "
            f"{kind} for each sample; store it so, or name another with --data.{kind}_column"
        )
    if n is not None and len(array) != n:
        raise UserError(
            f"{name}: {path.name} has {n:,} images and {len(array):,} of {column!r}; "
            "store one for each image"
        )
    return array
