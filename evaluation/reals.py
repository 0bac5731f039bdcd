"""Real images, which all networks of an evaluation look at in one pass."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import NamedSharding

from evaluation.feature_cache import FeatureCache, Found
from evaluation.image_files import batches
from evaluation.progress import with_bar
from evaluation.reference import RealImages
from metrics.collect import Collector
from metrics.evidence import Evidence
from metrics.networks import Network
from utils import processes


@dataclasses.dataclass(frozen=True)
class Measurement:
    """How real images are measured in one network.

    Attributes:
        network: gives their features.
        wanted: names of metrics; () = the usual ones.
        batch_size: images per call of the network.
        sharding: of the leading axis of a batch over this process's devices; it divides batch_size.
        cache: where features of real images are kept.
    """

    network: Network
    wanted: tuple[str, ...]
    batch_size: int
    sharding: NamedSharding | None
    cache: FeatureCache


class Reals:
    """Some real images, and the networks that have to look at them.

    The first network whose features are asked for takes the others along, but for those whose
    features are on the disk already.

    Attributes:
        images: all of them, in every process; each process reads its own range.
        facts: gives what tells them apart, for the cache.
        name: what rows of fid.csv call them.
    """

    def __init__(self, images: RealImages, facts: Callable[[], Mapping[str, Any]], name: str):
        self.images = images
        self.facts = functools.cache(facts)
        self.name = name
        # By the name of the network, and whether the features are kept.
        self._waiting: dict[tuple[str, bool], Measurement] = {}
        self._found: dict[tuple[str, bool], Evidence] = {}

    def announce(self, measurement: Measurement, with_features: bool) -> Callable[[], Found]:
        """Notes that a network will look at the images, perhaps.

        Returns:
            A function that gives its (evidence, labels [N] or None), of the disk or of the pass.
            All processes must call it.
        """
        network, cache = measurement.network, measurement.cache
        key = (network.name, with_features)
        self._waiting[key] = measurement

        def measure() -> Found:
            if key not in self._found:
                self._look(key)
            return self._found[key], self._labels()

        def find() -> Found:
            return cache.find(network, self.facts, with_features, measure)

        return find

    def _look(self, first: tuple[str, bool]) -> None:
        """Runs a network over the images, and all others that wait and have nothing on the disk."""
        collectors: dict[tuple[str, bool], Collector] = {}
        size = self._waiting[first].batch_size  # the same for all of an evaluation
        for key, how in list(self._waiting.items()):
            with_features = key[1]
            if key != first and how.cache.has(how.network, self.facts, with_features):
                continue
            del self._waiting[key]
            collectors[key] = Collector(how.network, how.batch_size, with_features, how.sharding)
        own = processes.own_range(len(self.images))
        for batch in with_bar(batches(self.images, own, size), len(own), "reals"):
            for collector in collectors.values():
                collector.add(batch)
        for key, collector in collectors.items():
            self._found[key] = collector.result()

    def _labels(self) -> np.ndarray | None:
        """Returns the labels of all images that could be read, int32 [N]; None: there are none.

        They are complete only now, as a data set notes them while its images are read.
        """
        if self.images.labels is None:
            return None
        own = processes.own_range(len(self.images))
        own_labels = np.asarray(self.images.labels)[own.start : own.stop]
        labels = np.concatenate(processes.concatenate_all(own_labels))
        return labels[labels >= 0].astype(np.int32)
