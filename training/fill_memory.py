"""What the memory of a field is told of all real samples, computed once and kept with the run."""

import logging
import zlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from data import pipeline
from data.identity import identity
from drifting.fields.frechet import Moments
from drifting.images import mirror, to_float
from drifting.state import TrainState
from training.drift_parts import DriftParts
from training.generator_parts import GeneratorParts
from training.one_device import on_one_device
from utils import sharding
from utils.errors import UserError

log = logging.getLogger("train")

ENCODED_AT_ONCE = 128  # images


def fill_memory(parts: GeneratorParts, state: TrainState) -> TrainState:
    """Returns the state whose memory knows the reals, where the field has such a memory.

    It is computed where it is missing, and where the encoder or the data are not those that it was
    computed from. Moments in a file take the place of those of the data.
    """
    if not isinstance(parts, DriftParts) or not parts.drift.memory.knows_reals:
        return state
    if parts.real_moments is None:
        check_whole(parts)
    checksum = checksum_of(parts)
    before = int(jax.device_get(state.field["checksum"]))
    if before == checksum:
        return state
    if before:
        log.warning("the encoder or the data changed: what the field knows of them is made anew")

    host = jax.device_get(state.field)
    memory, given = parts.drift.memory, parts.real_moments
    if given is not None:
        assert isinstance(memory, Moments)  # a file of moments is of no other field
        moments = {given.feature_set: (given.mean, given.covariance)}
        filled = memory.know(host, [moments])
    else:
        filled = memory.fill(host, lambda: real_features(parts))
    filled = filled | {"checksum": np.uint32(checksum)}
    return state.replace(field=sharding.put(filled, sharding.replicated(parts.mesh)))


def check_whole(parts: DriftParts) -> None:
    """Raises UserError for data that cannot be read as a whole, in any order."""
    field, dataset = parts.config.drift.field, parts.dataset
    if dataset.counts is None or dataset.order is not None:
        raise UserError(
            f"--drift.field {field}: it reads all of {dataset.name} once, which streams; "
            "give --data.streaming 0, or another field"
        )
    if field == "frechet" and parts.config.drift.moments == "class" and 0 in dataset.counts:
        empty = dataset.class_names[dataset.counts.index(0)]
        raise UserError(
            f"--drift.moments class: class {empty!r} of {dataset.name} has no samples; take it "
            "out, or give --drift.moments all"
        )


def checksum_of(parts: DriftParts) -> int:
    """Returns a number of the encoder's parameters and of what its reals are, never 0."""
    dataset, given = parts.dataset, parts.real_moments
    facts = identity(dataset) | {"shape": dataset.shape, "flip": parts.drift.flip}
    total = zlib.crc32(str(facts).encode())
    if given is not None:
        total = zlib.crc32(given.covariance.tobytes(), zlib.crc32(given.mean.tobytes()))
    for array in jax.tree.leaves(jax.device_get(parts.encoder_params)):
        total = zlib.crc32(np.asarray(array).tobytes(), total)
    return max(total, 1)


def real_features(parts: DriftParts) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Yields the features {name: [M, T, D]} of all reals, and their labels [M].

    Where the step mirrors reals at random, their mirror images come too.
    """
    config = parts.config

    def encode(params, images):
        assert parts.encode is not None  # this is no dry run
        return parts.encode(params, to_float(images))

    def encode_mirrored(params, images):
        return encode(params, mirror(images, jnp.ones(len(images), bool)))

    views = [encode, encode_mirrored] if parts.drift.flip else [encode]
    encoders = [on_one_device(view, parts.encoder_params, ENCODED_AT_ONCE) for view in views]
    reals = pipeline.in_order(parts.dataset, ENCODED_AT_ONCE, 0, config.data.workers, augment=True)
    for i, (images, labels) in enumerate(reals):
        if parts.makes_latents and parts.space:
            first = i * ENCODED_AT_ONCE
            images = parts.space.encode(images, config.seed, config.data.flip, first)
        for encoder in encoders:
            yield encoder(images), labels
