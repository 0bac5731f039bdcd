"""What the memory of a field is told of all real samples, computed once and kept with the run."""

import logging
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.pipeline import Readable
from drifting.images import mirror, to_float
from drifting.state import TrainState
from training.drift_parts import DriftParts
from training.generator_parts import GeneratorParts
from utils import sharding
from utils.errors import UserError

log = logging.getLogger("train")

ENCODED_AT_ONCE = 128  # images
COMPARED = 64  # samples that stand for the data in the checksum


def fill_memory(parts: GeneratorParts, state: TrainState) -> TrainState:
    """Returns the state whose memory knows the reals, where the field has such a memory.

    It is computed where it is missing, and where the encoder or the data are not those that it was
    computed from.
    """
    if not isinstance(parts, DriftParts) or not parts.drift.memory.knows_reals:
        return state
    check_whole(parts)
    checksum = checksum_of(parts)
    before = int(jax.device_get(state.field["checksum"]))
    if before == checksum:
        return state
    if before:
        log.warning("the encoder or the data changed: what the field knows of them is made anew")

    host = jax.device_get(state.field)
    filled = parts.drift.memory.fill(host, lambda: real_features(parts))
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


def samples(parts: DriftParts, indices: Any) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (sample [H, W, C], label) of the data as the generator sees it."""
    readable = Readable(parts.dataset)
    for index in indices:
        sample = readable.get(int(index))
        if sample is None:
            continue
        if parts.dataset.augment:
            sample = parts.dataset.augment(sample, np.random.default_rng(int(index)))
        yield sample["image"], int(sample["label"])


def checksum_of(parts: DriftParts) -> int:
    """Returns a number of the encoder's parameters and of the data, never 0."""
    n = len(parts.dataset.samples)
    # Not of its name: the same data may have moved.
    total = zlib.crc32(f"{n} {parts.dataset.counts} {parts.drift.flip}".encode())
    for array in jax.tree.leaves(jax.device_get(parts.encoder_params)):
        total = zlib.crc32(np.asarray(array).tobytes(), total)
    some = np.linspace(0, n - 1, min(n, COMPARED)).astype(int)
    for image, label in samples(parts, some):
        total = zlib.crc32(image.tobytes(), total + label)
    return max(total & 0xFFFFFFFF, 1)


def real_features(parts: DriftParts) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Yields the features {name: [M, T, D]} of all reals, and their labels [M].

    Where the step mirrors reals at random, their mirror images come too. One device computes
    everything, so that the number of devices changes no bit of it.
    """
    device, space = jax.local_devices()[0], parts.space
    params = jax.device_put(parts.encoder_params, device)

    def encode(params, images):
        assert parts.encode is not None  # this is no dry run
        return parts.encode(params, images)

    def encode_mirrored(params, images):
        return encode(params, mirror(images, jnp.ones(len(images), bool)))

    views = [jax.jit(encode)]
    if parts.drift.flip:
        views.append(jax.jit(encode_mirrored))

    def of_batch(images: list, labels: list):
        batch = np.stack(images)
        if parts.makes_latents and space:
            batch = space.encode(batch, parts.config.seed, parts.config.data.flip)
        missing = ENCODED_AT_ONCE - len(batch)
        padded = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
        padded = to_float(jax.device_put(padded, device))
        for view in views:
            sets = jax.device_get(view(params, padded))
            yield {k: v[: len(batch)] for k, v in sets.items()}, np.array(labels, np.int32)

    images, labels = [], []
    for image, label in samples(parts, range(len(parts.dataset.samples))):
        images.append(image)
        labels.append(label)
        if len(images) == ENCODED_AT_ONCE:
            yield from of_batch(images, labels)
            images, labels = [], []
    if images:
        yield from of_batch(images, labels)
