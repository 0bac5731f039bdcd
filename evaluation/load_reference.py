"""Where a reference comes from: a data set, images in files, or statistics in a file."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

import data
from data import Dataset, pipeline
from evaluation.choose_metrics import choose_metrics, need_features, need_held_out, parse_metrics
from evaluation.dataset_images import DatasetImages
from evaluation.feature_cache import NO_CACHE, FeatureCache, dataset_facts, image_facts
from evaluation.image_files import Images, batches, read_images
from evaluation.networks import load_network, load_usual_network
from evaluation.progress import with_bar
from evaluation.reference import RealImages, Reference
from metrics.collect import collect
from metrics.evidence import Evidence
from metrics.networks import Network, default_network
from metrics.statistics import Statistics, check_provenance, read_statistics
from utils import processes
from utils.errors import UserError
from utils.paths import to_path

# Up to so many training samples, a classifier on raw pixels and a gallery beside the held-out split
# are worth their time.
CLASSIFIER_LIMIT = 20_000


@dataclasses.dataclass(frozen=True)
class Measurement:
    """How real images are measured.

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

    def collect(self, images: RealImages, with_features: bool) -> Evidence:
        """Returns what the network makes of images. All processes must call it."""
        own = processes.own_range(len(images))
        own_batches = with_bar(batches(images, own, self.batch_size), len(own), "reals")
        return collect(self.network, own_batches, self.batch_size, with_features, self.sharding)


def load_reference(
    dataset_name: str,
    *,
    features: str = "",
    resize: str = "",
    inception_weights: str = "",
    fid_stats: str = "",
    split: str = "",
    metrics: str = "",
    data_options: Mapping | None = None,
    shape: tuple[int, ...] | None = None,
    batch_size: int = 256,
    sharding: NamedSharding | None = None,
    cache: FeatureCache = NO_CACHE,
) -> Reference:
    """Returns the reference of `fid_stats` or else of a data set.

    Args:
        dataset_name: "" = none. Of a data set of latents, the images that they encode are taken.
        features, resize, inception_weights, fid_stats, metrics: as the flags of these names.
        split: of the data set; "" = train, in pixels and with efficientnet test.
        data_options: the options of group `data`, None = its defaults.
        shape: (H, W, C) of the samples, where it is known before the data set is read.
        batch_size: images per call of the network.
        sharding: of the leading axis of a batch over this process's devices; it divides batch_size.
        cache: where features of the reals are kept; by default they are not.
    Raises:
        UserError: there is nothing to compare with, or it cannot be read or compared.
    """
    if not dataset_name and not fid_stats:
        raise UserError("nothing to compare with: give --fid_stats, or --dataset_name")
    if dataset_name:
        dataset_name, data_options = data.origin(dataset_name, data_options)

    @functools.cache
    def load_split(split: str) -> Dataset:
        return data.load(dataset_name, split, data_options)

    def with_conditions(reference: Reference, split: str) -> Reference:
        if not dataset_name or not (data_options or {}).get("condition_column"):
            return reference

        def read_conditions() -> np.ndarray:
            return load_split(split).conditions

        return dataclasses.replace(reference, read_conditions=read_conditions)

    statistics, images = read_fid_stats(fid_stats, features)
    if not shape and images is not None:
        shape = images.shape
    elif not shape and dataset_name:
        shape = load_split("test").shape

    if features or fid_stats:
        network = load_network(features or default_network(shape), resize, inception_weights)
    else:
        network = load_usual_network(default_network(shape), resize, inception_weights)
    measurement = Measurement(network, parse_metrics(metrics), batch_size, sharding, cache)

    def facts_of_split(dataset: Dataset) -> dict:
        return dataset_facts(dataset, data_options)

    if statistics is not None:
        read_held_out = None
        if dataset_name and statistics.provenance.get("split") != "test":
            read_held_out = held_out_reader(load_split, facts_of_split, measurement)
        reference = of_statistics(
            fid_stats, statistics, measurement, dataset_name, shape, read_held_out
        )
        own_split = statistics.provenance.get("split", "train")
        reference = with_conditions(reference, own_split)
        if not is_of_dataset(statistics, dataset_name):
            return reference

        def open_gallery() -> RealImages:
            return DatasetImages(load_split(statistics.provenance["split"]))

        return dataclasses.replace(reference, open_gallery=open_gallery)
    if images is not None:
        facts = functools.partial(image_facts, images)
        return with_conditions(of_images(fid_stats, images, facts, measurement), "train")
    split = split or ("train" if network.counted else "test")
    reference = of_dataset(dataset_name, split, load_split, facts_of_split, measurement)
    return with_conditions(reference, split)


def read_fid_stats(source: str, features: str = "") -> tuple[Statistics | None, Images | None]:
    """Returns what --fid_stats names, statistics or images; two None for "".

    features: as --features, for files with the statistics of several networks.
    """
    if not source:
        return None, None
    if not to_path(source).is_dir():
        network = features.partition(":")[0] or "inception"
        statistics = read_statistics(source, network)
        if statistics is not None:
            return statistics, None
    return None, read_images(source)


# ---------------------------------------------------------------- the three kinds


def of_dataset(
    name: str,
    split: str,
    load_split: Callable[[str], Dataset],
    facts: Callable[[Dataset], dict],
    measurement: Measurement,
) -> Reference:
    """Returns a split of a data set as the reference.

    Published figures compare with the training split. That rewards a generator for repeating it.
    So with a network that no figures are published with, the held-out split is the default. In
    pixels the training split is then what the classifier learns from and where neighbours are
    looked for.
    """
    network = measurement.network
    dataset = load_split(split)

    @functools.cache
    def read_training_split() -> tuple[np.ndarray, np.ndarray]:
        return pipeline.everything(load_split("train"))

    in_pixels = network.params is None
    is_small = in_pixels and len(load_split("train").samples) <= CLASSIFIER_LIMIT
    return of_images(
        f"{name}:{dataset.split}",
        DatasetImages(dataset),
        functools.partial(facts, dataset),
        measurement,
        read_training_split=read_training_split if is_small else None,
        several_classes=dataset.n_classes > 1,
        with_gallery=dataset.split == "train",
        read_held_out=held_out_reader(load_split, facts, measurement)
        if dataset.split == "train"
        else None,
    )


def of_images(
    name: str,
    images: RealImages,
    facts: Callable[[], dict],
    measurement: Measurement,
    *,
    read_training_split: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None,
    several_classes: bool = False,
    with_gallery: bool = True,
    read_held_out: Callable[[], Evidence] | None = None,
) -> Reference:
    """Returns real images as the reference.

    Args:
        name: what rows of fid.csv call it.
        images: all of them, in every process; each process reads its own range.
        facts: gives what tells them apart, for the cache.
        measurement: how they are measured.
        read_training_split: as `Reference` has it.
        several_classes: whether the training split has several, so that class agreement means
            something.
        with_gallery: whether neighbours of samples are looked for among these images.
        read_held_out: as `Reference` has it.
    """
    metrics = choose_metrics(
        measurement.wanted,
        measurement.network,
        features=True,
        classifier=read_training_split is not None and several_classes,
        held_out=read_held_out is not None,
    )
    with_features = need_features(metrics)

    def measure():
        evidence = measurement.collect(images, with_features)
        if images.labels is None:
            return evidence, None
        own = processes.own_range(len(images))
        # Labels are complete only now, as a data set notes them while its images are read.
        own_labels = np.asarray(images.labels)[own.start : own.stop]
        labels = np.concatenate(processes.concatenate_all(own_labels))
        return evidence, labels[labels >= 0].astype(np.int32)

    def read():
        return measurement.cache.find(measurement.network, facts, with_features, measure)

    def open_gallery():
        return images

    return Reference(
        name=name,
        network=measurement.network,
        metrics=metrics,
        count=len(images),
        shape=tuple(images.shape),
        labelled=images.labels is not None,
        read=read,
        read_training_split=read_training_split,
        open_gallery=open_gallery if with_gallery and with_features else None,
        read_held_out=read_held_out,
    )


def of_statistics(
    source: str,
    statistics: Statistics,
    measurement: Measurement,
    dataset_name: str,
    shape: tuple[int, ...] | None,
    read_held_out: Callable[[], Evidence] | None,
) -> Reference:
    """Returns statistics out of a file as the reference.

    Args:
        source: the file, whose name the rows of fid.csv get.
        statistics: what it holds.
        measurement: the network must be the one that they were made with.
        dataset_name: they should be of this data set; "" = any.
        shape: (H, W, C) of the samples, and of the images of the statistics; None = not known.
        read_held_out: as `Reference` has it.
    Raises:
        UserError: the statistics are of another network, or of images of another shape.
    """
    network = measurement.network
    expected: dict[str, Any] = dict(network.facts)
    if dataset_name:
        expected["dataset_name"] = dataset_name
    if shape:
        expected["image_shape"] = list(shape)
    check_provenance(source, statistics, expected, feature_count(network, shape))
    evidence = statistics.evidence
    image_shape = statistics.provenance.get("image_shape")

    def read():
        return evidence, None

    return Reference(
        name=source,
        network=network,
        metrics=choose_metrics(
            measurement.wanted,
            network,
            features=evidence.features is not None,
            classifier=False,
            held_out=read_held_out is not None,
        ),
        count=evidence.count,
        shape=tuple(image_shape) if image_shape else None,
        labelled=False,
        read=read,
        read_held_out=read_held_out,
    )


def held_out_reader(
    load_split: Callable[[str], Dataset],
    facts: Callable[[Dataset], dict],
    measurement: Measurement,
) -> Callable[[], Evidence] | None:
    """Returns a function that reads the held-out split, as `Reference` has it.

    None where no metric asks for it, or nothing is held out: the training split does not stand in.
    """
    if not need_held_out(measurement.wanted):
        return None
    dataset = load_split("test")
    if dataset.split == "train":
        return None

    def read() -> Evidence:
        with_features = need_features(measurement.wanted)

        def measure():
            return measurement.collect(DatasetImages(dataset), with_features), None

        facts_of_test = functools.partial(facts, dataset)
        found = measurement.cache.find(measurement.network, facts_of_test, with_features, measure)
        return found[0]

    return read


def is_of_dataset(statistics: Statistics, dataset_name: str) -> bool:
    """Returns whether the statistics say that they are of a split of this data set."""
    origin = statistics.provenance
    return "split" in origin and origin.get("dataset_name") == dataset_name


def feature_count(network: Network, shape: tuple[int, ...] | None) -> int:
    """Returns the number of features that the network gives for an image of this shape."""
    if network.params is None:  # pixels are their own features
        return math.prod(shape) if shape else 0
    image = jax.ShapeDtypeStruct((1, *(shape or (32, 32, 3))), np.uint8)
    return jax.eval_shape(network.features, network.params, image)["features"].shape[1]
