"""Where a reference comes from: a data set, images in files, or statistics in a file."""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

import data
from data import Dataset, pipeline
from evaluation.choose_metrics import choose_metrics, need_features, need_held_out, parse_metrics
from evaluation.dataset_images import DatasetImages
from evaluation.feature_cache import NO_CACHE, FeatureCache, dataset_facts, image_facts
from evaluation.image_files import Images, read_images
from evaluation.judge import judge_is_encoder
from evaluation.networks import load_network, load_usual_network, network_name, resize_of
from evaluation.reals import Measurement, Reals
from evaluation.reference import RealImages, Reference
from metrics.evidence import Evidence
from metrics.networks import Network, default_network
from metrics.statistics import Statistics, check_provenance, read_statistics
from utils import processes
from utils.errors import UserError
from utils.paths import to_path

log = logging.getLogger("eval")

# Up to so many training samples, a classifier on raw pixels and a gallery beside the held-out split
# are worth their time.
CLASSIFIER_LIMIT = 20_000


def load_reference(dataset_name: str, *, features: str = "", **how: Any) -> Reference:
    """Returns the reference of one network; see `load_references` for the rest."""
    return load_references(dataset_name, networks=[features], **how)[0]


def load_references(
    dataset_name: str,
    *,
    networks: Sequence[str] = ("",),
    resize: str = "",
    inception_weights: str = "",
    fid_stats: str = "",
    held_out: str = "",
    split: str = "",
    metrics: str = "",
    data_options: Mapping | None = None,
    shape: tuple[int, ...] | None = None,
    batch_size: int = 256,
    sharding: NamedSharding | None = None,
    cache: FeatureCache = NO_CACHE,
    skip_missing: bool = False,
    runs: Sequence[ConfigDict] = (),
) -> list[Reference]:
    """Returns the reference of `fid_stats` or else of a data set, in each of some networks.

    They are the same real images, which are read once for all networks.

    Args:
        dataset_name: "" = none. Of a data set of latents, the images that they encode are taken.
        networks: as --features has them, one by one; "" = the usual one.
        resize: as the flag of this name; of several networks, that of Inception.
        inception_weights, fid_stats, held_out, metrics: as the flags of these names.
        split: of the data set; "" = train, and in pixels and efficientnet alone test.
        data_options: the options of group `data`, None = its defaults.
        shape: (H, W, C) of the samples, where it is known before the data set is read.
        batch_size: images per call of a network.
        sharding: of the leading axis of a batch over this process's devices; it divides batch_size.
        cache: where features of the reals are kept; by default they are not.
        skip_missing: whether networks whose weights cannot be had are left out, with a line each,
            unless none is left.
        runs: the runs that are scored: what stands in for the usual network taught none of them.
    Raises:
        UserError: there is nothing to compare with, or it cannot be read or compared.
    """
    if not dataset_name and not fid_stats:
        raise UserError("nothing to compare with: give --fid_stats, or --dataset_name")
    if dataset_name:
        dataset_name, data_options = data.origin(dataset_name, data_options)
    wanted = parse_metrics(metrics)
    if held_out and not need_held_out(wanted):
        raise UserError(
            f"--held_out {held_out}: no metric compares with it; add fdr, swr or memorisation to "
            "--metrics, or leave it out"
        )
    sources = Sources(dataset_name, data_options, fid_stats, held_out)
    shapes = {features: shape or sources.shape(features) for features in networks}

    modes = {features: resize_of(features, networks, resize) for features in networks}

    def is_teacher(features: str) -> bool:
        return any(judge_is_encoder(features, run) for run in runs)

    def load(features: str) -> Network:
        usual = features or default_network(shapes[features])
        if features or fid_stats:
            return load_network(usual, modes[features], inception_weights)
        return load_usual_network(usual, modes[features], inception_weights, is_teacher)

    if skip_missing:
        must_be_there = ("inception",) if inception_weights else ()
        loaded = load_what_is_there(networks, load, must_be_there)
    else:
        loaded = {features: load(features) for features in networks}
    # Published figures are against the training split.
    usual_split = "train" if any(network.counted for network in loaded.values()) else "test"

    def reference_of(features: str) -> Reference:
        measurement = Measurement(loaded[features], wanted, batch_size, sharding, cache)
        statistics, reals = sources.fid_stats(features)
        if statistics is not None:
            name = sources.name_of_fid_stats(features)
            return of_statistics(name, statistics, measurement, sources, features, shapes[features])
        if reals is not None:
            return of_images(reals, measurement, sources, features)
        return of_dataset(split or usual_split, measurement, sources, features)

    return [reference_of(features) for features in loaded]


def load_what_is_there(
    networks: Sequence[str], load: Callable[[str], Network], must_be_there: Sequence[str]
) -> dict[str, Network]:
    """Returns the networks whose weights can be had in all processes, by name; others are named.

    Args:
        networks: as --features has them, one by one.
        load: returns one of them.
        must_be_there: those whose weights the user has named.
    Raises:
        UserError: in all processes: there is none, or one that must be there is not.
    """
    loaded, reasons = {}, {}
    for features in networks:
        try:
            loaded[features] = load(features)
        except UserError as error:
            reasons[features] = str(error)
    is_here = np.array([[features in loaded for features in networks]])
    in_all = np.all(processes.concatenate_all(is_here), axis=(0, 1))
    for features, here in zip(networks, in_all, strict=True):
        if not here:
            loaded.pop(features, None)
            reason = reasons.get(features, "another process has not its weights")
            if features in must_be_there:
                raise UserError(reason)
            log.warning("without %s: %s", network_name(features), reason)
    if not loaded:
        raise UserError(
            f"none of the networks {', '.join(networks)} can be had, see above; for others give "
            "--metrics fdr and --features"
        )
    return loaded


class HeldOut(NamedTuple):
    """Held-out real images in a network.

    Attributes:
        read: gives their evidence, as `Reference.read_held_out`; None: there are none.
        has_features: whether it has the features of each.
    """

    read: Callable[[], Evidence] | None = None
    has_features: bool = False


class Sources:
    """What real images there are: splits of a data set, and what two flags name.

    Attributes:
        dataset_name: "" = none.
        options: of group `data`; None = its defaults.
    """

    def __init__(
        self, dataset_name: str, options: Mapping | None, fid_stats: str = "", held_out: str = ""
    ):
        self.dataset_name = dataset_name
        self.options = options
        self._fid_stats = fid_stats
        self._held_out = held_out
        self._splits: dict[str, Dataset] = {}
        self._reals: dict[str, Reals] = {}

    def split(self, name: str) -> Dataset:
        """Returns a split of the data set."""
        if name not in self._splits:
            self._splits[name] = data.load(self.dataset_name, name, self.options)
        return self._splits[name]

    def reals_of_split(self, name: str) -> Reals:
        """Returns the images of a split."""
        dataset = self.split(name)
        key = f"{dataset.name}:{dataset.split}"
        if key not in self._reals:
            facts = functools.partial(dataset_facts, dataset, self.options)
            self._reals[key] = Reals(DatasetImages(dataset), facts, key)
        return self._reals[key]

    def shape(self, features: str) -> tuple[int, ...] | None:
        """Returns (H, W, C) of the real images for a network; None where nothing says it."""
        _, reals = self.fid_stats(features)
        if reals is not None:
            return tuple(reals.images.shape)
        return tuple(self.split("test").shape) if self.dataset_name else None

    def fid_stats(self, features: str) -> tuple[Statistics | None, Reals | None]:
        """Returns what --fid_stats names for a network; two None where it is not given."""
        return self._of_files(self.name_of_fid_stats(features), features)

    def name_of_fid_stats(self, features: str) -> str:
        """Returns the path of --fid_stats for a network; "" where it is not given."""
        return for_network(self._fid_stats, features)

    def _of_files(self, source: str, features: str) -> tuple[Statistics | None, Reals | None]:
        """Returns what a flag names, statistics or images; two None for ""."""
        if source in self._reals:
            return None, self._reals[source]
        statistics, images = read_fid_stats(source, features)
        if images is None:
            return statistics, None
        self._reals[source] = Reals(images, functools.partial(image_facts, images), source)
        return None, self._reals[source]

    def held_out(
        self,
        measurement: Measurement,
        features: str,
        shape: tuple[int, ...] | None,
        of_dataset: bool,
    ) -> HeldOut:
        """Returns the held-out real images: of --held_out, or of the data set's own split.

        shape: (H, W, C) that they must have, None = any. of_dataset: whether the data set's own may
        be taken, as where the reference is its training split.

        There are none where no metric asks for them, or the data set has none: the training split
        does not stand in. Their features are always kept, because errors are of them.
        """
        if not need_held_out(measurement.wanted):
            return HeldOut()
        source = for_network(self._held_out, features)
        if source:
            statistics, reals = self._of_files(source, features)
            if statistics is not None:
                network, facts = measurement.network, dict(measurement.network.facts)
                if shape:
                    facts["image_shape"] = list(shape)
                width = feature_count(network, shape)
                check_provenance(source, statistics, facts, width, flag="held_out")
                evidence = statistics.evidence
                return HeldOut(lambda: evidence, evidence.features is not None)
            if reals is not None and shape and tuple(reals.images.shape) != tuple(shape):
                raise UserError(
                    f"--held_out {source}: images of {list(reals.images.shape)}, and the samples "
                    f"are {list(shape)}; bring them to one size"
                )
        elif of_dataset and self.dataset_name and self.split("test").split != "train":
            reals = self.reals_of_split("test")
        else:
            reals = None
        if reals is None:
            return HeldOut()
        find = reals.announce(measurement, with_features=True)
        return HeldOut(lambda: find()[0], True)


def for_network(source: str, features: str) -> str:
    """Returns the path that a flag names for a network, whose name stands for {network} in it.

    Raises UserError where there is a {network}, but `features` is "".
    """
    if "{network}" in source and not features:
        raise UserError(f"{source}: give --features, whose name stands for {{network}}")
    return source.replace("{network}", network_name(features))


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


def of_dataset(split: str, measurement: Measurement, sources: Sources, features: str) -> Reference:
    """Returns a split of a data set as the reference.

    Published figures compare with the training split. That rewards a generator for repeating it.
    So with a network that no figures are published with, the held-out split is the default. In
    pixels the training split is then what the classifier learns from and where neighbours are
    looked for.
    """
    dataset = sources.split(split)

    @functools.cache
    def read_training_split() -> tuple[np.ndarray, np.ndarray]:
        return pipeline.everything(sources.split("train"))

    in_pixels = measurement.network.params is None
    is_small = in_pixels and len(sources.split("train").samples) <= CLASSIFIER_LIMIT
    reference = of_images(
        sources.reals_of_split(split),
        measurement,
        sources,
        features,
        read_training_split=read_training_split if is_small else None,
        several_classes=dataset.n_classes > 1,
        with_gallery=dataset.split == "train",
        is_training_split=dataset.split == "train",
    )
    return with_conditions(reference, sources, split)


def of_images(
    reals: Reals,
    measurement: Measurement,
    sources: Sources,
    features: str,
    *,
    read_training_split: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None,
    several_classes: bool = False,
    with_gallery: bool = True,
    is_training_split: bool = False,
) -> Reference:
    """Returns real images as the reference.

    Args:
        reals: the images.
        measurement: how they are measured.
        sources: where held-out images and conditions come from.
        features: the network, as --features has it.
        read_training_split: as `Reference` has it.
        several_classes: whether the training split has several, so that class agreement means
            something.
        with_gallery: whether neighbours of samples are looked for among these images.
        is_training_split: whether they are that of the data set, so that its test split is held
            out.
    """
    shape = tuple(reals.images.shape)
    held_out = sources.held_out(measurement, features, shape, is_training_split)
    metrics = choose_metrics(
        measurement.wanted,
        measurement.network,
        features=True,
        classifier=read_training_split is not None and several_classes,
        held_out=held_out.read is not None,
        held_out_features=held_out.has_features,
    )
    with_features = need_features(metrics)
    images = reals.images

    def open_gallery():
        return images

    reference = Reference(
        name=reals.name,
        network=measurement.network,
        metrics=metrics,
        count=len(images),
        shape=shape,
        labelled=images.labels is not None,
        read=reals.announce(measurement, with_features),
        read_training_split=read_training_split,
        open_gallery=open_gallery if with_gallery and with_features else None,
        read_held_out=held_out.read,
    )
    return with_conditions(reference, sources, "train")


def of_statistics(
    source: str,
    statistics: Statistics,
    measurement: Measurement,
    sources: Sources,
    features: str,
    shape: tuple[int, ...] | None,
) -> Reference:
    """Returns statistics out of a file as the reference.

    Args:
        source: the file, whose name the rows of fid.csv get.
        statistics: what it holds.
        measurement: the network must be the one that they were made with.
        sources: the data set that they should be of, if there is one, and held-out images.
        features: the network, as --features has it.
        shape: (H, W, C) of the samples, and of the images of the statistics; None = not known.
    Raises:
        UserError: the statistics are of another network, or of images of another shape.
    """
    network = measurement.network
    expected: dict[str, Any] = dict(network.facts)
    if sources.dataset_name:
        expected["dataset_name"] = sources.dataset_name
    if shape:
        expected["image_shape"] = list(shape)
    check_provenance(source, statistics, expected, feature_count(network, shape))
    evidence, provenance = statistics.evidence, statistics.provenance
    image_shape = provenance.get("image_shape")
    may_be_training = provenance.get("split") != "test"
    held_out = sources.held_out(measurement, features, shape, may_be_training)

    def read():
        return evidence, None

    def open_gallery() -> RealImages:
        return sources.reals_of_split(provenance["split"]).images

    reference = Reference(
        name=source,
        network=network,
        metrics=choose_metrics(
            measurement.wanted,
            network,
            features=evidence.features is not None,
            classifier=False,
            held_out=held_out.read is not None,
            held_out_features=held_out.has_features,
        ),
        count=evidence.count,
        shape=tuple(image_shape) if image_shape else None,
        labelled=False,
        read=read,
        open_gallery=open_gallery if is_of_dataset(statistics, sources.dataset_name) else None,
        read_held_out=held_out.read,
    )
    return with_conditions(reference, sources, provenance.get("split", "train"))


def with_conditions(reference: Reference, sources: Sources, split: str) -> Reference:
    """Returns the reference with the conditions of a split, where the data set has some."""
    if not sources.dataset_name or not (sources.options or {}).get("condition_column"):
        return reference

    def read_conditions() -> np.ndarray:
        return sources.split(split).conditions

    return dataclasses.replace(reference, read_conditions=read_conditions)


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
