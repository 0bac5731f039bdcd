"""`folder:/path`: image files in class folders, laid out as ImageNet is.

path/class/.../image.jpg            labels count the sorted names of the class folders
path/train/class/.../image.jpg      with the folders train and val (or validation, valid, test)
path/image.jpg                      without class folders: one class, no labels
path/00000/img00000000.png          with the labels of path/dataset.json, as StyleGAN and EDM2 do

`data/layout.py` knows other spellings of splits, and what is refused.
"""

import logging
import os
import pathlib

import numpy as np

from data.classes import warn_of_empty
from data.columns import wants_one_class
from data.dataset import Dataset, Options
from data.images import make_images
from data.layout import (
    HELD_OUT,
    LABELS_FILE,
    SUFFIXES,
    TRAIN,
    check_depth,
    check_not_storage,
    find_split,
    find_train,
    has_images,
    images_under,
    read_annotations,
    read_labels_file,
    subfolders,
)
from data.splits import warn_nothing_held_out
from utils.errors import UserError
from utils.paths import to_local
from utils.words import did_you_mean

log = logging.getLogger(__name__)

UNUSED_OPTIONS = ("dir", "image_column", "config")


class ReadFile:
    """`read` of `data.images.Images`, over files [S] with labels [S].

    Attributes:
        names: of the files, below the folder of the data set.
    """

    def __init__(self, files: list[str], labels: np.ndarray, root: str):
        self.files = files
        self.labels = labels
        self.root = root

    def __call__(self, index):
        path = self.files[index]
        with open(path, "rb") as file:
            return file.read(), self.labels[index], path

    @property
    def names(self) -> list[str]:
        return [os.path.relpath(file, self.root) for file in self.files]


def load(name: str, split: str, options: Options) -> Dataset:
    """Returns a split, with its shape found by looking at some of its images."""
    source = name.partition(":")[2]
    root = to_local(source)
    if not root.is_dir():
        raise UserError(
            f"--dataset_name {name}: {root} is not a folder; give folder:/path, which holds a "
            "folder of images per class"
        )
    return load_root(name, root, split, options)


def load_root(
    name: str, root: pathlib.Path, split: str, options: Options, size: int = 0, channels: int = 0
) -> Dataset:
    """Returns a split of the pictures in `root`.

    size, channels: of images, where the options do not say; 0 for those that are found.
    """
    one_class = wants_one_class(name, options)
    train = None if one_class and not _has_train(root) else find_train(name, root)
    folder, split = _split_folder(name, root, train, split, one_class)
    train_folder = root if train is None else root / train
    files_of_class = _find_classes(name, folder, train_folder, one_class)
    counts = [len(files) for files in files_of_class.values()]
    all_files = [file for files in files_of_class.values() for file in files]
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    read = ReadFile(all_files, labels, str(folder))
    size, channels = options.image_size or size, options.channels or channels
    images = make_images(read, sum(counts), size, channels, name)
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


def _has_train(root: pathlib.Path) -> bool:
    return bool(find_split(subfolders(root), TRAIN))


# ---------------------------------------------------------------- classes


def _find_classes(
    name: str, folder: pathlib.Path, train: pathlib.Path, one_class: bool
) -> dict[str, list[str]]:
    """Returns the files of each class: of each sub-folder, or of all as one class.

    Classes are those that have images to learn from; others are left out, and a line says so.

    Args:
        name: of the data set, for messages.
        folder: of the split.
        train: the folder of the training split, whose classes count for every split.
        one_class: whether labels are not wanted.
    Raises:
        UserError: there are no images, images lie beside the class folders, or a folder may be a
            class or something else.
    """
    if one_class:
        return {"all": _all_images(name, folder)}
    listed = read_labels_file(name, folder)
    if listed is not None:
        learned = read_labels_file(name, train) or listed
        return _listed_classes(name, folder, listed, sorted(set(learned.values())))
    folders = subfolders(train)
    classes = [class_name for class_name in folders if has_images(train / class_name)]
    if not classes:  # There are no class folders, or none of them has images.
        files = _all_images(name, folder)
        log.info("%s: no class folders, so one class: training is unconditional", name)
        return {"all": files}
    loose = images_under(train, recursive=False)
    if loose:
        raise UserError(
            f"{name}: {len(loose)} images, such as {loose[0]}, lie beside the class folders: move "
            "them into one, or give --data.label_column none for one class"
        )
    check_depth(name, train, classes)
    check_not_storage(name, train, classes)
    empty = [class_name for class_name in folders if class_name not in classes]
    if empty:
        warn_of_empty(name, empty)
    annotations = read_annotations(name, folder)
    if annotations is not None:
        return _annotated_classes(folder, classes, annotations)
    return {class_name: images_under(folder / class_name) for class_name in classes}


def _all_images(name: str, folder: pathlib.Path) -> list[str]:
    files = images_under(folder)
    if not files:
        suffixes = " ".join(SUFFIXES)
        raise UserError(
            f"{name}: no images in {folder} (looked for {suffixes}); give the folder that holds "
            "them"
        )
    return files


def _listed_classes(
    name: str, folder: pathlib.Path, labels: dict[str, int], classes: list[int]
) -> dict[str, list[str]]:
    """Returns the files of each class by dataset.json; without labels, all as one class.

    classes: the labels of the training split; images of others are left out.
    """
    files = _all_images(name, folder)
    if not labels:
        log.info("%s: dataset.json has no labels, so one class: training is unconditional", name)
        return {"all": files}
    files_of_class: dict[str, list[str]] = {str(label): [] for label in classes}
    learned = set(classes)
    for file in files:
        below = os.path.relpath(file, folder)
        if below not in labels:
            raise UserError(
                f"{name}: {folder / 'dataset.json'} has no label for {below}; write it anew, or "
                "give --data.label_column none for one class"
            )
        if labels[below] in learned:
            files_of_class[str(labels[below])].append(file)
    return files_of_class


def _annotated_classes(
    folder: pathlib.Path, classes: list[str], annotations: dict[str, str]
) -> dict[str, list[str]]:
    """Returns the files of each class where a file tells the classes, as tiny-imagenet's does."""
    files_of_class: dict[str, list[str]] = {class_name: [] for class_name in classes}
    for file in images_under(folder):
        class_name = annotations.get(os.path.basename(file))
        if class_name in files_of_class:
            files_of_class[class_name].append(file)
    return files_of_class


# ---------------------------------------------------------------- splits


def _split_folder(
    name: str, root: pathlib.Path, train: str | None, split: str, one_class: bool
) -> tuple[pathlib.Path, str]:
    """Returns the folder of a split, and the split that it really is.

    Where nothing is held out, "test" is the training split, and a warning says so.

    one_class: whether labels are not wanted, so that any pictures will do.
    """
    if train is None:
        if split not in ("train", "test"):
            raise UserError(
                f"there is no split {split}: {root} has no folder train, so its only split is train"
            )
        if split == "test":
            warn_nothing_held_out(name, names=HELD_OUT)
        return root, "train"
    if split == "train":
        return root / train, split
    if split == "test":
        folders = set(subfolders(root / train))
        classes = {class_name for class_name in folders if has_images(root / train / class_name)}
        for held_out in find_split(subfolders(root), HELD_OUT):
            # A folder without the classes does not count: ImageNet's own test split has no labels.
            folder = root / held_out
            has_classes = classes <= set(subfolders(folder)) <= folders
            in_files = all((part / LABELS_FILE).is_file() for part in (folder, root / train))
            if has_classes or in_files or read_annotations(name, folder) is not None:
                return folder, split
            if one_class and has_images(folder):
                return folder, split
        warn_nothing_held_out(name, " with the classes of train", HELD_OUT)
        return root / train, "train"
    if not (root / split).is_dir():
        guess = did_you_mean(split, subfolders(root))
        raise UserError(f"there is no split {split}: {root} has no such folder{guess}")
    return root / split, split
