"""Handwritten digits that need no download, for the demo and the tests.

The data are the UCI Optical Recognition of Handwritten Digits, as they travel in scikit-learn: 1797
grey images of 8x8 in ten classes; 1257 training and 540 test samples.
"""

import numpy as np

from data.arrays import UNUSED_OPTIONS, load_split
from data.dataset import Dataset, Options

__all__ = ["UNUSED_OPTIONS", "load"]


def load(name: str, split: str, options: Options) -> Dataset:
    """Returns the split "train" or "test"; grey values of 0 to 16 in the source become 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # [1797, 8, 8, 1]
    labels = digits.target.astype(np.int32)
    return load_split(name, split, options, images, labels, "0123456789", held_out=0.3)
