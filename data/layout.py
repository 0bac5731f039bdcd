"""How a folder of pictures is laid out: where its splits are, and what its folders mean.

A layout that can be read in two ways is refused with both: a run on labels that nobody meant takes
hours to notice.
"""

import json
import os
import pathlib
import re
from collections.abc import Iterable

from utils.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

# How folders of splits are called, in small letters, the likeliest first.
TRAIN = ("train", "training", "train_set", "trainset")
HELD_OUT = ("test", "val", "validation", "valid", "testing", "eval", "evaluation", "dev")

# Of StyleGAN and EDM2: {"labels": [["00000/img00000000.png", 5], ...]}
LABELS_FILE = "dataset.json"
STORAGE_FOLDER = re.compile(r"\d{5}")  # of theirs: files lie there by number, not by class
ANNOTATIONS = "val_annotations.txt"  # of tiny-imagenet-200: "val_0.JPEG<tab>n03444034<tab>..."


# ---------------------------------------------------------------- files


def images_under(folder: pathlib.Path, recursive: bool = True) -> list[str]:
    """Returns the image files in name order; hidden files and folders are left out."""
    found = []
    for path, folders, files in os.walk(folder, followlinks=True):
        # `os.walk` goes on into the folders that this list holds.
        folders[:] = [name for name in folders if recursive and is_visible(name)]
        images = [name for name in files if name.lower().endswith(SUFFIXES)]
        found += [os.path.join(path, name) for name in images if is_visible(name)]
    return sorted(found)


def has_images(folder: pathlib.Path) -> bool:
    """Returns whether there is an image in the folder or below it; it looks no further."""
    for _, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if is_visible(name))
        if any(is_visible(name) and name.lower().endswith(SUFFIXES) for name in files):
            return True
    return False


def is_visible(name: str) -> bool:
    return not name.startswith((".", "__"))


def subfolders(folder: pathlib.Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and is_visible(entry.name))


# ---------------------------------------------------------------- splits


def find_split(folders: Iterable[str], spellings: Iterable[str]) -> list[str]:
    """Returns the folders that are called by one of the spellings, the likeliest first."""
    by_spelling = {}
    for name in folders:
        by_spelling.setdefault(name.lower().replace("-", "_"), []).append(name)
    return [name for spelling in spellings for name in by_spelling.get(spelling, [])]


def find_train(name: str, root: pathlib.Path) -> str | None:
    """Returns the folder of the training split; None where the classes lie in `root` itself.

    Raises UserError where that is not clear.
    """
    folders = subfolders(root)
    train = find_split(folders, TRAIN)
    held_out = find_split(folders, HELD_OUT)
    others = [n for n in folders if n not in train + held_out and has_images(root / n)]
    splits = train + held_out
    if not splits:
        return None
    if others:
        raise UserError(
            f"{name}: {splits[0]} in {root} may be a split or, like {others[0]}, a class: "
            f"give folder:{root / splits[0]} for the split, or rename it for a class"
        )
    if len(train) > 1:
        raise UserError(
            f"{name}: {' and '.join(train)} in {root} may both be the training split: "
            f"give folder:{root / train[0]} or folder:{root / train[1]}"
        )
    if not train:
        raise UserError(
            f"{name}: {root} has {', '.join(held_out)} and no folder train: to learn from it give "
            f"folder:{root / held_out[0]}"
        )
    return train[0]


def check_depth(name: str, folder: pathlib.Path, classes: list[str]) -> None:
    """Raises UserError where a single class folder holds what look like the classes.

    classes: the class folders with images.
    """
    if len(classes) != 1:
        return
    inner = folder / classes[0]
    within = [n for n in subfolders(inner) if has_images(inner / n)]
    if len(within) > 1 or find_split(within, TRAIN + HELD_OUT):
        raise UserError(
            f"{name}: the only folder in {folder} is {classes[0]}, which holds folders itself, "
            f"such as {within[0]}: give folder:{inner} for those, or --data.label_column none for "
            "one class"
        )


def check_not_storage(name: str, folder: pathlib.Path, classes: list[str]) -> None:
    """Raises UserError for numbered folders that are of StyleGAN or EDM2, and no classes."""
    if not classes or not all(STORAGE_FOLDER.fullmatch(class_name) for class_name in classes):
        return
    first = images_under(folder / classes[0])[0]
    if re.fullmatch(r"img\d{8}\.\w+", os.path.basename(first)):
        raise UserError(
            f"{name}: the numbered folders in {folder}, such as {classes[0]}, look like those of "
            f"StyleGAN and EDM2, which are no classes, and there is no {LABELS_FILE} beside them: "
            "give --data.label_column none for one class, or rename the folders for classes"
        )


# ---------------------------------------------------------------- labels in a file


def read_labels_file(name: str, folder: pathlib.Path) -> dict[str, int] | None:
    """Returns {file below the folder: label} of dataset.json; {} without labels, None without it.

    Raises UserError for a file that is not as StyleGAN and EDM2 write it.
    """
    path = folder / LABELS_FILE
    if not path.is_file():
        return None
    try:
        labels = json.loads(path.read_text())["labels"]
        return {str(file): int(label) for file, label in labels or []}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{name}: {path} cannot be read ({type(error).__name__}: {error}); expected "
            '{"labels": [["00000/img00000000.png", 5], ...]}, one integer for each image'
        ) from None


def read_annotations(name: str, folder: pathlib.Path) -> dict[str, str] | None:
    """Returns {file name: class} of tiny-imagenet's held-out images, or None without the file."""
    path = folder / ANNOTATIONS
    if not path.is_file():
        return None
    try:
        rows = [line.split("\t") for line in path.read_text().splitlines() if line.strip()]
        return {row[0]: row[1] for row in rows}
    except (OSError, ValueError, IndexError) as error:
        raise UserError(
            f"{name}: {path} cannot be read ({type(error).__name__}); expected a file and its "
            "class in each line, with a tab between"
        ) from None
