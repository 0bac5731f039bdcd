"""The stream of real samples on its way to the bank, and the bank where the steps want it."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from data import pipeline
from drifting.bank import Bank
from training.generator_parts import GeneratorParts
from training.state import shardings_of
from utils import sharding


def stream_reals(parts: GeneratorParts, position: int) -> Iterator[tuple[Any, Any]]:
    """Yields batches (samples [S, ...], labels [S]) without end; S is `parts.reals_per_step`.

    Conditions [S, E] are in the place of labels where the data set has them.

    They are the same however many processes read them. They are NumPy arrays; or, where several
    processes read a part each or images become latents on the way, arrays on the devices, as
    `parts.new_reals` says.

    position: how many samples of the stream were taken before.
    """
    config, rank, ranks = parts.config, jax.process_index(), jax.process_count()
    own = parts.reals_per_step // ranks
    exchange = parts.row_exchange

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


def next_reals(parts: GeneratorParts, stream: Iterator | None) -> tuple[Any, Any] | None:
    """Returns the newest reals for the bank, where the step wants them; None without a stream."""
    if stream is None:
        return None
    fresh = next(stream)
    on_devices = isinstance(fresh[0], jax.Array)
    if parts.bank_on_host or on_devices:
        return fresh
    images, labels = fresh
    reals = parts.new_reals
    images = sharding.put(images.reshape(reals.shape), reals.sharding)
    return images, sharding.put(labels, sharding.replicated(parts.mesh))


def put_bank(parts: GeneratorParts, bank: Bank) -> Bank:
    """Returns a bank of NumPy arrays where steps want it: on the devices, or in host memory."""
    if parts.bank_on_host:
        return bank
    return jax.tree.map(sharding.put, bank, shardings_of(parts.bank_shapes))
