"""Handwritten digits, 8x8 grey, 1797 samples in ten classes: UCI Optical Recognition of Handwritten Digits, as it travels in scikit-learn.

Split for comparability: train_test_split(test_size=0.3, random_state=0, stratify=labels): 1257 training and 540 test samples.
"""

import numpy as np

from data import Dataset, one_class
from utils.errors import UserError

WITHOUT = ("dir", "image_size", "channels", "image_column")


class Arrays:
    """Random access over arrays: images [S,H,W,C], labels [S]."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": int(self.labels[index])}


def load(name: str, split: str, options) -> Dataset:
    """Pixels of 0..16 in the source become 0..255."""
    if split not in ("train", "test"):
        raise UserError(f"--data.split {split}: {name} has the splits train and test")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # [1797, 8, 8, 1]
    labels = digits.target.astype(np.int32)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.3, random_state=0, stratify=labels
    )
    x, y = (train_x, train_y) if split == "train" else (test_x, test_y)
    names = tuple(str(k) for k in range(10))
    if one_class(name, options):
        y, names = np.zeros_like(y), ("all",)
    return Dataset(
        name,
        split,
        Arrays(x, y),
        (8, 8, 1),
        "uint8",
        names,
        tuple(np.bincount(y, minlength=len(names)).tolist()),
    )
