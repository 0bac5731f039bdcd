"""Small data sets that are held in memory as arrays, and their split."""

import math
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
    held out: that of `stratified_split`.

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
        raise UserError(
            f"there is no split {split}: {name} has the splits train and test; give one of them"
        )
    train, test = stratified_split(labels, held_out)
    chosen = train if split == "train" else test
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


# ---- the split ----


def stratified_split(labels: np.ndarray, held_out: float | int) -> tuple[np.ndarray, np.ndarray]:
    """Returns positions of the samples that are trained on, and of those held out, both mixed.

    They are what `train_test_split(test_size=held_out, random_state=0, stratify=labels)` of
    scikit-learn gives, draw by draw; its import takes longer than all else of a start.

    Args:
        labels: classes [S].
        held_out: how many samples are held out: a number, or a part in (0, 1).
    """
    if isinstance(held_out, float):
        held_out = math.ceil(held_out * len(labels))
    random = np.random.RandomState(0)
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    of_train = _share_out(len(labels) - held_out, counts, random)
    of_test = _share_out(held_out, counts - of_train, random)

    train, test = [], []
    for label, (n_train, n_test) in enumerate(zip(of_train, of_test, strict=True)):
        members = random.permutation(np.flatnonzero(classes == label))
        train.append(members[:n_train])
        test.append(members[n_train : n_train + n_test])
    return random.permutation(np.concatenate(train)), random.permutation(np.concatenate(test))


def _share_out(n: int, counts: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Returns how many of n samples each class gives, in proportion to its count.

    What rounding down leaves over goes to the largest fractions; equal ones draw lots.
    """
    exact = counts / counts.sum() * n  # in this order: equal fractions are to be equal bits
    shares = np.floor(exact)
    fractions = exact - shares
    for fraction in np.unique(fractions)[::-1]:
        left = int(n - shares.sum())
        if left == 0:
            break
        (equal,) = np.nonzero(fractions == fraction)
        shares[random.choice(equal, size=min(left, len(equal)), replace=False)] += 1
    return shares.astype(int)
