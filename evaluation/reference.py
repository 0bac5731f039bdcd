"""What samples are compared with: real images, or statistics of them in a file.

A reference is described at once and read when it is first needed. So a run whose checkpoints are
all scored already costs no pass over the real images.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from einops import rearrange

from evaluation.choose_metrics import need_held_out
from metrics.class_agreement import fit_classifier
from metrics.collect import to_float
from metrics.evidence import Evidence
from metrics.networks import Network
from metrics.table import METRICS
from utils.errors import UserError


class RealImages(Protocol):
    """Images by index, uint8 [H,W,C]; None for one that cannot be read.

    Attributes:
        shape: (H, W, C), the same for all.
        labels: [N], negative for images that cannot be read, or None. A data set may note them only
            as its images are read.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def labels(self) -> np.ndarray | None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> np.ndarray | None: ...


class Gallery(NamedTuple):
    """Real images that samples are compared with one by one: features [N,D], and index -> image."""

    features: np.ndarray
    image: Callable[[int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Reference:
    """Real images or their statistics, and how samples are compared with them.

    Attributes:
        name: what rows of fid.csv call it.
        network: gives the features that are compared.
        metrics: names in `metrics.table.METRICS`.
        count: number of real images; 0 where a file does not say.
        shape: (H, W, C) of the real images; None where it is not known.
        labelled: whether the real images have labels.
        read: gives (evidence, labels [N] or None). Called once, by all processes.
        read_training_split: gives images [S,H,W,C] and labels [S] of the training split. The
            classifier learns from them and, in pixels, they are the gallery. None: there are none.
        open_gallery: gives the real images in the order of the features; None where they are not
            at hand.
        read_held_out: gives the evidence of held-out real images, which are not among those of the
            reference. Called by all processes. None: there are none.
        read_conditions: gives the conditions [S, E] of the data set, of the split that samples are
            compared with where that is one of its splits. None: it has none.
    """

    name: str
    network: Network
    metrics: tuple[str, ...]
    count: int
    shape: tuple[int, ...] | None
    labelled: bool
    read: Callable[[], tuple[Evidence, np.ndarray | None]]
    read_training_split: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None
    open_gallery: Callable[[], RealImages] | None = None
    read_held_out: Callable[[], Evidence] | None = None
    read_conditions: Callable[[], np.ndarray] | None = None

    @functools.cached_property
    def _read(self) -> tuple[Evidence, np.ndarray | None]:
        return self.read()

    def prepare(self) -> None:
        """Reads the reference now, unless that has happened. All processes must call it."""
        _ = self._read
        _ = self.held_out

    @functools.cached_property
    def held_out(self) -> Evidence | None:
        """The evidence of held-out real images; None where no metric needs it."""
        if self.read_held_out is None or not need_held_out(self.metrics):
            return None
        return self.read_held_out()

    @property
    def real(self) -> Evidence:
        """The evidence of the real images: moments, and features where they are needed."""
        return self._read[0]

    @property
    def labels(self) -> np.ndarray | None:
        """Labels of the real images, int32 [N]; None where they have none."""
        return self._read[1]

    @functools.cached_property
    def classifier(self):
        """The classifier of raw pixels that judges class agreement; None where it is not asked."""
        if "class_agreement" not in self.metrics or self.read_training_split is None:
            return None
        images, labels = self.read_training_split()
        return fit_classifier(flatten_images(images), labels)

    @functools.cached_property
    def gallery(self) -> Gallery | None:
        """The real images that neighbours of samples are looked for in; None: not at hand."""
        if self.read_training_split:
            images = self.read_training_split()[0]
            return Gallery(flatten_images(images), images.__getitem__)
        if self.open_gallery is None or self.real.features is None:
            return None
        images = self.open_gallery()
        if len(images) != len(self.real.features):  # some were unreadable: the order is lost
            return None
        return Gallery(self.real.features, images.__getitem__)

    @property
    def settings(self) -> dict[str, str]:
        """How samples are compared with it, as a row of fid.csv says it."""
        facts = self.network.facts
        return {
            "features": self.network.name,
            "resize": facts["resize"],
            "weights": facts["weights"],
            "reference": self.name,
        }

    def score_names(self, count: int) -> list[str]:
        """Returns the names of the scores that an evaluation of `count` samples gives."""
        names = []
        for metric in self.metrics:
            names += [self.network.score_name(score, count) for score in METRICS[metric].scores]
        return names

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuses samples of another size: networks resize, so they would be scored all the same.

        Raises:
            UserError: the samples differ from the real images in size or number of channels.
        """
        if self.shape and tuple(shape) != tuple(self.shape):
            raise UserError(
                f"samples of {list(shape)} against {self.name}, whose images are "
                f"{list(self.shape)}: bring them to one size, or give another reference"
            )


def flatten_images(images: np.ndarray) -> np.ndarray:
    """Returns images [N,H,W,C] as rows of pixels in [-1, 1], float64 [N,H*W*C]."""
    return rearrange(to_float(images), "n h w c -> n (h w c)")
