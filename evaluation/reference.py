"""What samples are held against: real images, or statistics of them in a file.

A reference is described at once and read when it is first needed: a run whose checkpoints are all scored already costs no pass over the reals.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import numpy as np

from evaluation.image_files import batches
from metrics.class_agreement import fit_classifier
from metrics.collect import Evidence, collect, to_float
from metrics.networks import Network
from metrics.statistics import Statistics, check_provenance
from metrics.table import METRICS
from utils import processes
from utils.errors import UserError
from utils.words import did_you_mean

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


def of_images(
    name: str,
    images: RealImages,
    network: Network,
    wanted: tuple[str, ...],
    batch_size: int,
    sharding,
    *,
    train=None,
    several_classes: bool = False,
    gallery: bool = True,
) -> Reference:
    """Real images as the reference. several_classes: of the training split, so that class agreement means something. gallery: whether neighbours are looked for among these images."""
    metrics = choose_metrics(
        wanted, network, features=True, classifier=bool(train) and several_classes
    )
    keep = any(METRICS[m].needs == "features" for m in metrics)

    def read():
        mine = processes.own_range(len(images))
        evidence = collect(network, batches(images, mine, batch_size), batch_size, keep, sharding)
        if images.labels is None:
            return evidence, None
        labels = np.concatenate(
            processes.concatenate_all(np.asarray(images.labels)[mine.start : mine.stop])
        )
        return evidence, labels[labels >= 0].astype(np.int32)

    return Reference(
        name,
        network,
        metrics,
        len(images),
        tuple(images.shape),
        images.labels is not None,
        read,
        train,
        (lambda: images) if gallery and keep else None,
    )


def of_statistics(
    path: str,
    statistics: Statistics,
    network: Network,
    wanted: tuple[str, ...],
    dataset_name: str,
    shape,
    gallery_images=None,
) -> Reference:
    """Statistics out of a file, checked to be of this network and of such images."""
    expected = (
        network.facts
        | ({"dataset_name": dataset_name} if dataset_name else {})
        | ({"image_shape": list(shape)} if shape else {})
    )
    check_provenance(path, statistics, expected, feature_count(network, shape))
    evidence, given = statistics.evidence, statistics.provenance.get("image_shape")
    metrics = choose_metrics(
        wanted, network, features=evidence.features is not None, classifier=False
    )
    return Reference(
        path,
        network,
        metrics,
        evidence.count,
        given and tuple(given),
        False,
        lambda: (evidence, None),
        None,
        gallery_images,
    )


def parse_metrics(text: str) -> tuple[str, ...]:
    """The names in a comma list; () for none."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(","))) if text else ()
    for name in names:
        if name not in METRICS:
            raise UserError(
                f"--metrics {text}: unknown metric {name!r}{did_you_mean(name, METRICS)} (known: {', '.join(METRICS)})"
            )
    return names


def choose_metrics(wanted, network, *, features: bool, classifier: bool) -> tuple[str, ...]:
    """The wanted metrics, all possible; or the usual ones that are."""
    have = {
        "moments": True,
        "logits": network.name == "inception",
        "features": features,
        "classifier": classifier,
    }
    missing = next((m for m in wanted if not have[METRICS[m].needs]), None)
    if missing:
        raise UserError(
            f"--metrics {missing}: it needs {METRICS[missing].needs}, which {network.name} with this reference does not give; leave it out, or give images as the reference"
        )
    return wanted or tuple(m for m in USUAL if have[METRICS[m].needs])


def feature_count(network: Network, shape) -> int:
    """D of the network's features."""
    if network.params is None:
        return math.prod(shape) if shape else 0
    image = jax.ShapeDtypeStruct((1, *(shape or (32, 32, 3))), np.uint8)
    return jax.eval_shape(network.features, network.params, image)["features"].shape[1]


def _flat(images):
    return to_float(images).reshape(len(images), -1)
