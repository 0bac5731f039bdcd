"""The stream of real samples on its way to the bank, and the bank where the steps want it."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from data import pipeline
from drifting.bank import Bank
from training.generator_parts import GeneratorParts
from utils import sharding


def stream_reals(parts: GeneratorParts, position: int) -> Iterator[tuple[Any, Any]]:
    """Yields batches (samples [S, H, W, C], labels [S]) without end; S is `parts.reals_per_step`.

    They are the same however many processes read them. They are NumPy arrays; or, where several
    processes read a part each or images become latents on the way, arrays on every device.

    position: how many samples of the stream were taken before.
    """
    config, rank, ranks = parts.config, jax.process_index(), jax.process_count()
    own = parts.reals_per_step // ranks
    exchange = row_exchange(parts)

    workers = config.data.workers
    batches = pipeline.stream(parts.dataset, config.seed, own, position, rank, ranks, workers)
    for images, labels in batches:
        if exchange is None:
            yield images, labels
        else:
            # The noise of a latent depends on the place of its image in the stream.
            index = (position + rank + ranks * np.arange(own)).astype(np.uint32)
            images, labels, _ = exchange((images, labels, index))
            yield images, labels
        position += parts.reals_per_step


@functools.lru_cache(maxsize=1)
def row_exchange(parts: GeneratorParts) -> sharding.RowExchange | None:
    """Returns what joins the parts of a batch on the devices; None where NumPy arrays will do.

    It is kept: filling the bank and the steps after it use the same compiled program.
    """
    own = parts.reals_per_step // jax.process_count()
    if parts.makes_latents:
        params = jax.device_get(parts.space.params)
        return sharding.RowExchange(parts.mesh, own, to_latents(parts), params)
    if jax.process_count() > 1:
        return sharding.RowExchange(parts.mesh, own)
    return None


def to_latents(parts: GeneratorParts) -> Callable:
    """Returns (VAE's params, (images, labels, index)) -> the same with latents for the images."""
    config = parts.config

    def encode_rows(params, rows):
        images, labels, index = rows
        latents = parts.space.draw(params, images, index, config.seed, config.data.flip)
        return latents, labels, index

    return encode_rows


def next_reals(parts: GeneratorParts, stream: Iterator | None) -> tuple[Any, Any] | None:
    """Returns the newest reals for the bank, where the step wants them; None without a stream."""
    if stream is None:
        return None
    fresh = next(stream)
    on_devices = isinstance(fresh[0], jax.Array)
    if parts.bank_on_host or on_devices:
        return fresh
    return sharding.put(fresh, sharding.replicated(parts.mesh))


def put_bank(parts: GeneratorParts, bank: Bank) -> Bank:
    """Returns a bank of NumPy arrays where steps want it: on every device, or in host memory."""
    if parts.bank_on_host:
        return bank
    return sharding.put(bank, sharding.replicated(parts.mesh))
