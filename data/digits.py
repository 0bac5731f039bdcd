"""Handwritten digits that need no download, for the demo and the tests.

The data are the UCI Optical Recognition of Handwritten Digits, as they travel in scikit-learn: 1797
grey images of 8x8 in ten classes. So that scores can be compared, the split is the one of
`train_test_split(test_size=0.3, random_state=0, stratify=labels)`: 1257 training and 540 test
samples.
"""

import numpy as np

from data.columns import wants_one_class
from data.dataset import Dataset, Options
from utils.errors import UserError

UNUSED_OPTIONS = ("dir", "image_size", "channels", "image_column")


class Arrays:
    """Samples out of arrays: images [S,H,W,C] uint8, labels [S]."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images = images
        self.labels = labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": int(self.labels[index])}


def load(name: str, split: str, options: Options) -> Dataset:
    """Returns the split "train" or "test"; grey values of 0 to 16 in the source become 0 to 255."""
    if split not in ("train", "test"):
        raise UserError(f"--data.split {split}: {name} has the splits train and test")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # [1797, 8, 8, 1]
    labels = digits.target.astype(np.int32)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.3, random_state=0, stratify=labels
    )
    if split == "train":
        images, labels = train_images, train_labels
    else:
        images, labels = test_images, test_labels

    class_names = tuple(str(digit) for digit in range(10))
    if wants_one_class(name, options):
        labels = np.zeros_like(labels)
        class_names = ("all",)
    counts = np.bincount(labels, minlength=len(class_names))
    return Dataset(
        name=name,
        split=split,
        samples=Arrays(images, labels),
        shape=(8, 8, 1),
        dtype="uint8",
        class_names=class_names,
        counts=tuple(counts.tolist()),
    )
