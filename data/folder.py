"""`folder:/path`: image files in class sub-folders, as ImageNet is laid out: path[/split]/class/.../image.jpg. Labels count the sorted folder names.

A folder of images without class sub-folders is a set without labels. Splits are sub-folders train and val (or validation, valid, test), if there are any.
"""

import logging
import os
import pathlib

import numpy as np

from data import HELD_OUT, Dataset, one_class
from data.images import make_source
from utils.errors import UserError
from utils.words import did_you_mean

log = logging.getLogger(__name__)

WITHOUT = ("dir", "image_column")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


class Files:
    """read(i) of `data.images.Images` over files [S] with labels [S]."""

    def __init__(self, files: list[str], labels: np.ndarray):
        self.files, self.labels = files, labels

    def __call__(self, index):
        with open(self.files[index], "rb") as file:
            return file.read(), self.labels[index], self.files[index]


def load(name: str, split: str, options) -> Dataset:
    root = pathlib.Path(name.partition(":")[2]).expanduser()
    if not root.is_dir():
        raise UserError(
            f"--dataset_name {name}: {root} is not a folder; give folder:/path, which holds a folder of images per class"
        )
    folder, split = _split_folder(name, root, split)
    classes = [] if one_class(name, options) else _subfolders(folder)
    files = [images_under(folder / c) for c in classes]
    empty = [c for c, found in zip(classes, files) if not found]
    if classes and len(empty) < len(classes):
        if empty and split == "train":
            raise UserError(
                f"{name}: class folder {folder / empty[0]} has no images{f', nor have {len(empty) - 1} more' if empty[1:] else ''}: remove or fill it"
            )
        loose = images_under(folder, recursive=False)
        if loose:
            raise UserError(
                f"{name}: {len(loose)} images, such as {loose[0]}, lie beside the class folders: move them into one"
            )
    else:
        classes, files = ["all"], [images_under(folder)]
        if not files[0]:
            raise UserError(f"{name}: no images in {folder} (looked for {' '.join(SUFFIXES)})")
        log.info("%s: no class folders, so one class: training is unconditional", name)
    counts = [len(found) for found in files]
    read = Files(
        [file for found in files for file in found],
        np.repeat(np.arange(len(classes), dtype=np.int32), counts),
    )
    source = make_source(read, sum(counts), options.image_size, options.channels, name)
    return Dataset(
        name,
        split,
        source,
        source.shape,
        "uint8",
        tuple(classes),
        tuple(counts),
        max_corrupt=options.max_corrupt,
    )


def images_under(folder: pathlib.Path, recursive: bool = True) -> list[str]:
    """Image files in name order; hidden files and folders are left out."""
    found = []
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if _visible(f)] if recursive else []
        found += [
            os.path.join(where, f) for f in files if f.lower().endswith(SUFFIXES) and _visible(f)
        ]
    return sorted(found)


def _visible(name: str) -> bool:
    return not name.startswith((".", "__"))


def _subfolders(folder: pathlib.Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and _visible(e.name))


def _split_folder(name: str, root: pathlib.Path, split: str) -> tuple[pathlib.Path, str]:
    """The folder of a split, and the split that it really is: without a held-out one, "test" is the training split."""
    if not (root / "train").is_dir():
        if split not in ("train", "test"):
            raise UserError(
                f"--data.split {split}: {root} has no folder train, so its only split is train"
            )
        if split == "test":
            log.warning(
                "%s has no held-out split (%s): the training split stands in for it",
                name,
                ", ".join(HELD_OUT),
            )
        return root, "train"
    if split == "test":
        classes = set(_subfolders(root / "train"))
        for held_out in HELD_OUT:  # ImageNet's own test split has no classes
            if (root / held_out).is_dir() and set(_subfolders(root / held_out)) == classes:
                return root / held_out, split
        log.warning(
            "%s has no held-out split with the classes of train (%s): the training split stands in for it",
            name,
            ", ".join(HELD_OUT),
        )
        return root / "train", "train"
    if not (root / split).is_dir():
        raise UserError(
            f"--data.split {split}: {root} has no such folder{did_you_mean(split, _subfolders(root))}"
        )
    return root / split, split
