"""`folder:/path`: image files in class folders, laid out as ImageNet is.

path/class/.../image.jpg            labels count the sorted names of the class folders
path/train/class/.../image.jpg      with the folders train and val (or validation, valid, test)
path/image.jpg                      without class folders: one class, no labels
"""

import logging
import os
import pathlib

import numpy as np

from data.columns import wants_one_class
from data.dataset import Dataset, Options
from data.images import make_images
from data.splits import HELD_OUT, warn_nothing_held_out
from utils.errors import UserError
from utils.words import did_you_mean

log = logging.getLogger(__name__)

UNUSED_OPTIONS = ("dir", "image_column")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


class ReadFile:
    """`read` of `data.images.Images`, over files [S] with labels [S]."""

    def __init__(self, files: list[str], labels: np.ndarray):
        self.files = files
        self.labels = labels

    def __call__(self, index):
        path = self.files[index]
        with open(path, "rb") as file:
            return file.read(), self.labels[index], path


def load(name: str, split: str, options: Options) -> Dataset:
    """Returns a split, with its shape found by looking at some of its images."""
    root = pathlib.Path(name.partition(":")[2]).expanduser()
    if not root.is_dir():
        raise UserError(
            f"--dataset_name {name}: {root} is not a folder; give folder:/path, which holds a "
            "folder of images per class"
        )
    folder, split = _split_folder(name, root, split)
    files_of_class = _find_classes(name, folder, split, wants_one_class(name, options))
    counts = [len(files) for files in files_of_class.values()]
    n = sum(counts)
    all_files = [file for files in files_of_class.values() for file in files]
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    read = ReadFile(all_files, labels)
    images = make_images(read, n, options.image_size, options.channels, name)
    return Dataset(
        name=name,
        split=split,
        samples=images,
        shape=images.shape,
        dtype="uint8",
        class_names=tuple(files_of_class),
        counts=tuple(counts),
        max_corrupt=options.max_corrupt,
    )


def images_under(folder: pathlib.Path, recursive: bool = True) -> list[str]:
    """Returns the image files in name order; hidden files and folders are left out."""
    found = []
    for path, folders, files in os.walk(folder, followlinks=True):
        # `os.walk` goes on into the folders that this list holds.
        folders[:] = [name for name in folders if recursive and _is_visible(name)]
        images = [name for name in files if name.lower().endswith(SUFFIXES)]
        found += [os.path.join(path, name) for name in images if _is_visible(name)]
    return sorted(found)


def _find_classes(
    name: str, folder: pathlib.Path, split: str, one_class: bool
) -> dict[str, list[str]]:
    """Returns the files of each class: of each sub-folder, or of all as one class.

    Raises UserError for a class of the training split without images, for images beside the class
    folders, and for a folder without any image.
    """
    classes = [] if one_class else _subfolders(folder)
    files_of_class = {class_name: images_under(folder / class_name) for class_name in classes}
    empty = [class_name for class_name, files in files_of_class.items() if not files]
    if len(empty) == len(classes):  # There are no class folders, or none of them has images.
        files = images_under(folder)
        if not files:
            suffixes = " ".join(SUFFIXES)
            raise UserError(f"{name}: no images in {folder} (looked for {suffixes})")
        log.info("%s: no class folders, so one class: training is unconditional", name)
        return {"all": files}
    if empty and split == "train":
        others = f", nor have {len(empty) - 1} more" if len(empty) > 1 else ""
        raise UserError(
            f"{name}: class folder {folder / empty[0]} has no images{others}: remove or fill it"
        )
    loose = images_under(folder, recursive=False)
    if loose:
        raise UserError(
            f"{name}: {len(loose)} images, such as {loose[0]}, lie beside the class folders: move "
            "them into one"
        )
    return files_of_class


def _is_visible(name: str) -> bool:
    return not name.startswith((".", "__"))


def _subfolders(folder: pathlib.Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and _is_visible(entry.name))


def _split_folder(name: str, root: pathlib.Path, split: str) -> tuple[pathlib.Path, str]:
    """Returns the folder of a split, and the split that it really is.

    Where nothing is held out, "test" is the training split, and a warning says so.
    """
    if not (root / "train").is_dir():
        if split not in ("train", "test"):
            raise UserError(
                f"--data.split {split}: {root} has no folder train, so its only split is train"
            )
        if split == "test":
            warn_nothing_held_out(name)
        return root, "train"
    if split == "test":
        classes = set(_subfolders(root / "train"))
        for held_out in HELD_OUT:
            # A folder without the classes does not count: ImageNet's own test split has no labels.
            if (root / held_out).is_dir() and set(_subfolders(root / held_out)) == classes:
                return root / held_out, split
        warn_nothing_held_out(name, " with the classes of train")
        return root / "train", "train"
    if not (root / split).is_dir():
        guess = did_you_mean(split, _subfolders(root))
        raise UserError(f"--data.split {split}: {root} has no such folder{guess}")
    return root / split, split
