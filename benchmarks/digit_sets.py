"""Sets of handwritten digits, for benchmarks that look at a field without training a generator."""

from typing import Any

import numpy as np

import data
from data import pipeline
from utils import config as config_lib

CLASSES = 10


def images_by_class(split: str, options: Any = None) -> list[np.ndarray]:
    """Returns the digits of each class as vectors [n, D] in [-1, 1].

    Args:
        split: "train" or "test".
        options: the group `data` of the configuration; None: as it is by default.
    """
    if options is None:
        options = config_lib.resolve({}).data
    images, labels = pipeline.everything(data.load("digits", split, options))
    vectors = images.reshape(len(images), -1) / np.float32(127.5) - 1
    return [vectors[labels == label] for label in range(CLASSES)]


def draw_sets(random: np.random.Generator, images: list[np.ndarray], size: int) -> np.ndarray:
    """Returns one set of each class, [C, size, D], without repetition."""
    chosen = [vectors[random.choice(len(vectors), size, replace=False)] for vectors in images]
    return np.stack(chosen)
