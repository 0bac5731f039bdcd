"""Handwritten digits that need no download, for the demo and the tests.

The data are the UCI Optical Recognition of Handwritten Digits, as they travel in scikit-learn: 1797
grey images of 8x8 in ten classes; 1257 training and 540 test samples.
"""

import importlib.util
import pathlib

import numpy as np

from data.arrays import UNUSED_OPTIONS, load_split
from data.dataset import Dataset, Options
from utils.errors import UserError

__all__ = ["UNUSED_OPTIONS", "load"]


def load(name: str, split: str, options: Options) -> Dataset:
    """Returns the split "train" or "test"; grey values of 0 to 16 in the source become 0 to 255."""
    rows = np.loadtxt(digits_file(), delimiter=",")  # [1797, 65]: pixels, then the label
    images = np.round(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = rows[:, -1].astype(np.int32)
    return load_split(name, split, options, images, labels, "0123456789", held_out=0.3)


def digits_file() -> pathlib.Path:
    """Returns the file in scikit-learn, whose import would take longer than that of JAX.

    Raises UserError where scikit-learn is not installed.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.origin:
        raise UserError("digits are a part of scikit-learn: pip install scikit-learn")
    return pathlib.Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
