"""What the bank of real samples stores, and where it is."""

import copy
import functools
import logging
import math
from typing import Any

import jax

import data
from drifting.bank import bank_bytes
from drifting.cache import remember
from drifting.config import DriftConfig
from training.resolve_encoder import Encoder
from training.resolve_sizes import StepSizes
from utils.errors import UserError
from utils.sharding import MeshLayout, within_samples

log = logging.getLogger("train")

SMALL = 2.5e8  # bytes on each device that are not worth dividing the bank


def resolve_bank(
    config: Any,
    dataset: data.Dataset,
    sizes: StepSizes,
    drift: DriftConfig,
    encoder: Encoder,
    layout: MeshLayout,
) -> tuple[Any, Any, str]:
    """Decides whether the bank stores samples or their features, and where it is.

    Returns:
        The configuration with --encoder.cache decided, as the choice is part of the run; the shape
        and dtype of what is stored of one sample, or a tree of them; and the place of the bank, as
        `place_of_bank` names it.
    Raises:
        UserError: the features of reals cannot be stored, and it was asked for.
    """

    def size_of(stored: Any) -> int:
        width = dataset.condition_width
        return bank_bytes(dataset.n_classes, sizes.per_class, sizes.pool, stored, width)

    stored, cached = image_row(dataset), False
    if encoder.encode is not None:
        features = stored_features(dataset, drift, encoder)
        cached = resolve_cache(config, drift, size_of(features), layout.mesh.size)
        config = with_cache(config, cached)
        if cached:
            stored = features
    part = part_of_a_device(layout.mesh, layout.bank_axes, stored)
    return config, stored, place_of_bank(config.drift, size_of(stored), size_of(part), cached)


def image_row(dataset: data.Dataset) -> jax.ShapeDtypeStruct:
    """Returns a sample as the bank stores it: as a row, since TPUs pad the last axes of arrays."""
    return jax.ShapeDtypeStruct((math.prod(dataset.shape),), dataset.dtype)


def stored_features(dataset: data.Dataset, drift: DriftConfig, encoder: Encoder) -> Any:
    """Returns the shapes and dtypes of what the bank can store in the place of a sample."""

    def features_of(params, images):
        return remember(images, encode=functools.partial(encoder.encode, params), flip=drift.flip)

    image = jax.ShapeDtypeStruct((1, *dataset.shape), dataset.dtype)
    batch = jax.eval_shape(features_of, encoder.params, image)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), batch)


def part_of_a_device(mesh: jax.sharding.Mesh, axes: tuple[str, ...], stored: Any) -> Any:
    """Returns the shapes and dtypes of what each device holds of a sample in a divided bank.

    The axes before those of a sample, its class and its slot, are divided in no bank.

    axes: of the mesh, over which it is divided.
    """

    def part(array):
        shape = within_samples(mesh, axes, array.shape, 0).shard_shape(array.shape)
        return jax.ShapeDtypeStruct(shape, array.dtype)

    return jax.tree.map(part, stored)


def place_of_bank(drift: Any, size: int, divided: int, cached: bool) -> str:
    """Returns where the bank is, by --drift.bank_placement.

        device     whole on every device
        divided    a part of each sample on every device
        host       in host memory

    A bank that cannot be divided is "device" in the place of "divided".

    Args:
        drift: the settings of the loss.
        size: bytes of the bank.
        divided: bytes of it on each device, where it is divided.
        cached: whether it stores features.
    """
    place = drift.bank_placement
    if place == "divided" and divided == size:
        return "device"
    if place != "auto":
        return place

    budget = drift.bank_budget_gb * 1e9
    # Features are many numbers to exchange: they are divided only where memory is short.
    is_best_whole = cached or size - divided <= SMALL
    if size <= budget and is_best_whole:
        return "device"
    # New features stay on the devices that compute them: a step would wait for them on the host.
    never_on_host = cached and drift.bank_per_class != "all"
    if divided < size and (divided <= budget or never_on_host):
        return "divided"
    return "device" if never_on_host else "host"


# ---- features in the place of samples ----


def with_cache(config: Any, cached: bool) -> Any:
    """Returns a copy of the configuration in which --encoder.cache is decided."""
    config = copy.deepcopy(config)
    config.encoder.cache = "on" if cached else "off"
    return config


def resolve_cache(config: Any, drift: DriftConfig, size: int, devices: int) -> bool:
    """Returns whether the bank stores features, so that a step encodes generated samples alone.

    Args:
        config: the configuration, whose encoder.cache is on, off or auto: where it pays.
        drift: the numbers of a step.
        size: the bytes of such a bank.
        devices: how many there are.
    Raises:
        UserError: it is on, and cannot be.
    """
    if config.encoder.cache == "off":
        return False
    senseless = why_senseless(config)
    if config.encoder.cache == "on":
        if senseless:
            raise UserError(f"--encoder.cache on: {senseless}; leave it out")
        return True
    reason = senseless or why_not_worth_it(config, drift, size, devices)
    if reason and config.encoder.name != "none":
        log.info("features of reals are computed in each step: %s", reason)
    return not reason


def why_senseless(config: Any) -> str:
    """Returns why features cannot be stored, or ""."""
    if config.encoder.name == "none":
        return "raw samples have no features to keep"
    drift = config.drift
    if drift.bank_placement == "host" and drift.bank_per_class != "all":
        return (
            "with --drift.bank_placement host each step would wait for the features "
            "of its new samples"
        )
    return ""


def why_not_worth_it(config: Any, drift: DriftConfig, size: int, devices: int) -> str:
    """Returns why storing features costs more than it saves, or ""."""
    budget = config.encoder.cache_budget_gb
    if size > budget * 1e9:
        return f"{size / 1e9:.1f} GB of features are over --encoder.cache_budget_gb {budget:g}"
    # New samples are encoded on every device, mirrored ones too; a step's reals are divided.
    encoded = config.drift.bank_push * (1 + drift.flip)
    drawn = drift.n_c * (drift.n_pos + drift.n_unc) // devices
    if config.drift.bank_per_class != "all" and encoded >= drawn:
        return (
            f"the {encoded} new images of a step are no fewer than the {drawn} reals "
            "that a device encodes"
        )
    return ""
