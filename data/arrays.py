"""Small data sets that are held in memory as arrays, and their split."""

from collections.abc import Sequence

import numpy as np

from data.columns import wants_one_class
from data.dataset import Dataset, Options
from utils.errors import UserError

# Settings `data.*` that mean nothing to a source of arrays.
UNUSED_OPTIONS = ("dir", "image_size", "channels", "image_column", "config")


class Arrays:
    """Samples out of arrays: images [S,H,W,C] uint8, labels [S]."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images = images
        self.labels = labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": int(self.labels[index])}


def load_split(
    name: str,
    split: str,
    options: Options,
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    held_out: float | int,
) -> Dataset:
    """Returns the split "train" or "test" of a data set without splits of its own.

    So that scores can be compared, the split is always the same, with the same part of each class
    held out: `train_test_split(random_state=0, stratify=labels)` of scikit-learn.

    Args:
        name, split, options: What the source was asked for.
        images: [S, H, W, C] uint8, all samples.
        labels: [S] int32, positions in class_names.
        class_names: The classes.
        held_out: How many samples are "test": a number, or a part in (0, 1).

    Raises:
        UserError: For another split, and for a column of labels, as there are no columns.
    """
    if split not in ("train", "test"):
        raise UserError(f"--data.split {split}: {name} has the splits train and test")
    from sklearn.model_selection import train_test_split

    positions = np.arange(len(labels))
    train, test = train_test_split(positions, test_size=held_out, random_state=0, stratify=labels)
    chosen = np.asarray(train if split == "train" else test)
    images, labels = images[chosen], labels[chosen]

    class_names = tuple(class_names)
    if wants_one_class(name, options):
        labels = np.zeros_like(labels)
        class_names = ("all",)
    counts = np.bincount(labels, minlength=len(class_names))
    return Dataset(
        name=name,
        split=split,
        samples=Arrays(images, labels),
        shape=images.shape[1:],
        dtype="uint8",
        class_names=class_names,
        counts=tuple(counts.tolist()),
    )
