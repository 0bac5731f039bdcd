"""Where a reference comes from: a data set, images in files, or statistics."""

import functools
import math
import pathlib

import jax
import numpy as np

import data
from data import pipeline
from evaluation.choose_metrics import choose_metrics, parse_metrics
from evaluation.dataset_images import DatasetImages
from evaluation.image_files import batches, read_images
from evaluation.networks import load_network
from evaluation.reference import RealImages, Reference
from metrics import networks
from metrics.collect import collect
from metrics.networks import Network
from metrics.statistics import Statistics, check_provenance, read_statistics
from metrics.table import METRICS
from utils import processes
from utils.errors import UserError

# training samples up to which a classifier on raw pixels, or a gallery of another split, is worth its time
CLASSIFIER_LIMIT = 20_000


def load_reference(
    dataset_name: str,
    *,
    features: str = "",
    resize: str = "",
    inception_weights: str = "",
    fid_stats: str = "",
    split: str = "",
    metrics: str = "",
    data_options=None,
    shape: tuple[int, ...] | None = None,
    batch_size: int = 256,
    sharding=None,
) -> Reference:
    """The reference of a data set ("" = none; of latents: the images that they encode), or of `fid_stats`. shape: of the samples, where it is known before the data set is read. The rest: as the flags."""
    if not dataset_name and not fid_stats:
        raise UserError("nothing to compare with: give --fid_stats, or --dataset_name")
    if dataset_name:
        dataset_name, data_options = data.origin(dataset_name, data_options)
    load = functools.cache(lambda split: data.load(dataset_name, split, data_options))
    file = (
        read_statistics(fid_stats)
        if fid_stats and not pathlib.Path(fid_stats).expanduser().is_dir()
        else None
    )
    images = read_images(fid_stats) if fid_stats and file is None else None
    if not shape:
        shape = images.shape if images else load("test").shape if dataset_name else None
    network = load_network(features or networks.default_network(shape), resize, inception_weights)
    wanted = parse_metrics(metrics)
    if file:
        origin = file.provenance
        at_hand = "split" in origin and origin.get("dataset_name") == dataset_name
        return of_statistics(
            fid_stats,
            file,
            network,
            wanted,
            dataset_name,
            shape,
            (lambda: DatasetImages(load(origin["split"]))) if at_hand else None,
        )
    if images:
        return of_images(fid_stats, images, network, wanted, batch_size, sharding)
    dataset = load(split or ("train" if network.counted else "test"))
    train = None
    if not network.counted and len(load("train").samples) <= CLASSIFIER_LIMIT:
        train = functools.cache(lambda: pipeline.everything(load("train")))
    return of_images(
        f"{dataset_name}:{dataset.split}",
        DatasetImages(dataset),
        network,
        wanted,
        batch_size,
        sharding,
        train=train,
        several_classes=dataset.n_classes > 1,
        gallery=dataset.split == "train",
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


def feature_count(network: Network, shape) -> int:
    """D of the network's features."""
    if network.params is None:
        return math.prod(shape) if shape else 0
    image = jax.ShapeDtypeStruct((1, *(shape or (32, 32, 3))), np.uint8)
    return jax.eval_shape(network.features, network.params, image)["features"].shape[1]
