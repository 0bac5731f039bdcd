"""What the bank of real samples stores, and whether it is on the devices or in host memory."""

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

log = logging.getLogger("train")


def resolve_bank(
    config: Any,
    dataset: data.Dataset,
    sizes: StepSizes,
    drift: DriftConfig,
    encoder: Encoder,
    mesh: jax.sharding.Mesh,
) -> tuple[Any, Any, bool]:
    """Decides whether the bank stores samples or their features, and where it is.

    Returns:
        The configuration with --encoder.cache decided, as the choice is part of the run; the shape
        and dtype of what is stored of one sample, or a tree of them; and whether the bank is in
        host memory.
    Raises:
        UserError: the features of reals cannot be stored, and it was asked for.
    """

    def size_of(stored: Any) -> int:
        width = dataset.condition_width
        return bank_bytes(dataset.n_classes, sizes.per_class, sizes.pool, stored, width)

    stored, cached = image_row(dataset), False
    if encoder.encode is not None:
        features = stored_features(dataset, drift, encoder)
        cached = resolve_cache(config, drift, size_of(features), mesh.size)
        config = with_cache(config, cached)
        if cached:
            stored = features
    return config, stored, is_on_host(config.drift, size_of(stored), cached)


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


def is_on_host(drift: Any, size: int, cached: bool) -> bool:
    """Returns whether a bank of `size` bytes is in host memory: by --drift.bank_placement.

    "auto" keeps new features on the device that computes them: on the host, each step would have
    to wait for them.
    """
    waits_for_features = cached and drift.bank_per_class != "all"
    is_large = size > drift.bank_budget_gb * 1e9
    if drift.bank_placement == "auto":
        return is_large and not waits_for_features
    return drift.bank_placement == "host"


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
