"""What samples are held against: real images, or statistics of them in a file.

A reference is described at once and read when it is first needed: a run whose checkpoints are all scored already costs no pass over the reals.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from metrics.class_agreement import fit_classifier
from metrics.collect import Evidence, to_float
from metrics.networks import Network
from metrics.table import METRICS
from utils.errors import UserError

log = logging.getLogger(__name__)
USUAL = ("fid", "inception_score", "precision_recall", "class_agreement")


class RealImages(Protocol):
    """Images by index, uint8 [H,W,C], None for one that cannot be read. labels [N], of which those of unreadable images are negative; or None. They may be noted
    only as the images are read."""

    shape: tuple[int, int, int]
    labels: np.ndarray | None

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> np.ndarray | None: ...


class Gallery(NamedTuple):
    """Real images that samples are compared with one by one: features [N,D], index -> image."""

    features: np.ndarray
    image: Callable[[int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Reference:
    """read() -> (evidence, labels or None), called once, by all processes. count: of the reals, 0 where a file does not say. shape: of the reals, where it is known.

    train() -> (images, labels) [S,H,W,C], [S] of the training split: in pixels the gallery, and what the classifier learns from; or None.
    gallery_images() -> images in the order of the features; or None.
    """

    name: str
    network: Network
    metrics: tuple[str, ...]
    count: int
    shape: tuple[int, int, int] | None
    labelled: bool
    read: Callable[[], tuple[Evidence, np.ndarray | None]]
    train: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None
    gallery_images: Callable[[], RealImages] | None = None

    @functools.cached_property
    def _read(self):
        return self.read()

    @property
    def real(self) -> Evidence:
        return self._read[0]

    @property
    def labels(self) -> np.ndarray | None:
        return self._read[1]

    @functools.cached_property
    def classifier(self):
        """Of raw pixels; None where there is no training split to learn from, or nothing to tell apart."""
        if "class_agreement" not in self.metrics:
            return None
        images, labels = self.train()
        return fit_classifier(_flat(images), labels)

    @functools.cached_property
    def gallery(self) -> Gallery | None:
        if self.train:
            images = self.train()[0]
            return Gallery(_flat(images), images.__getitem__)
        if self.gallery_images is None or self.real.features is None:
            return None
        images = self.gallery_images()
        return (
            Gallery(self.real.features, images.__getitem__)
            if len(images) == len(self.real.features)
            else None
        )

    def score_names(self, count: int) -> list[str]:
        """What an evaluation of so many samples gives."""
        return [
            self.network.score_name(score, count)
            for metric in self.metrics
            for score in METRICS[metric].scores
        ]

    def check_shape(self, shape) -> None:
        """Raises UserError for samples of another size or number of channels: networks resize, so they would be scored without a word."""
        if self.shape and tuple(shape) != tuple(self.shape):
            raise UserError(
                f"samples of {list(shape)} against {self.name}, whose images are {list(self.shape)}: bring them to one size, or give another reference"
            )


def _flat(images):
    return to_float(images).reshape(len(images), -1)
