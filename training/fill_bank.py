"""The bank of real samples before the first step."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from data import pipeline
from drifting.bank import Bank
from drifting.conditions import class_and_condition
from training.drift_parts import DriftParts
from training.generator_parts import GeneratorParts
from training.host_bank import HostBank
from training.one_device import on_one_device
from training.reals import stream_reals
from utils.errors import UserError
from utils.sharding import local_copy

STORED_AT_ONCE = 128  # samples whose features are computed in one call


def fill_bank(parts: GeneratorParts) -> tuple[Bank, int]:
    """Returns the first bank, as NumPy arrays, and how many samples of the stream it took.

    A bank that holds all data holds it in the order of the data set. Another one takes the stream
    until every class, and the queue of any class, hold what a step draws from them.
    """
    bank = parts.empty_bank()
    if parts.whole_bank:
        return hold_everything(parts, bank), 0
    if isinstance(parts, DriftParts):
        return take_stream(parts, bank)
    return bank, 0  # each step of a flow takes a batch of the stream as it is


def hold_everything(parts: GeneratorParts, bank: Bank) -> Bank:
    """Returns the empty bank, filled in place with the whole data set."""
    dataset, config, counters = parts.dataset, parts.config, bank.counters
    images, labels = pipeline.everything(dataset)
    labels, conditions = class_and_condition(labels)
    if conditions is not None:
        bank.conditions[: len(conditions)] = conditions
    if parts.makes_latents:
        images = parts.space.encode(images, config.seed, config.data.flip)

    counters.filled[:] = np.bincount(labels, minlength=dataset.n_classes)
    counters.next[:] = counters.filled % parts.per_class
    if isinstance(parts, DriftParts):
        check_what_was_read(parts, counters.filled, counters.filled.sum())
    slots = np.zeros_like(labels)
    for label in range(dataset.n_classes):
        slots[labels == label] = np.arange(counters.filled[label])

    store = store_on_one_device(parts, STORED_AT_ONCE)
    for start in range(0, len(images), STORED_AT_ONCE):
        some = slice(start, start + STORED_AT_ONCE)
        queues, stored = jax.tree.leaves(bank.samples), jax.tree.leaves(store(images[some]))
        for queue, new in zip(queues, stored, strict=True):
            queue[labels[some], slots[some]] = new.reshape(-1, *queue.shape[2:])
    return bank


def check_what_was_read(parts: DriftParts, filled: np.ndarray, held: int) -> None:
    """Raises UserError where too many samples could not be read for what a step draws.

    Args:
        parts: of the run.
        filled: samples of each class that could be read.
        held: samples of which those of any class are drawn.
    """
    dataset, drift = parts.dataset, parts.config.drift
    pipeline.check_counts(dataset, filled, drift.n_pos, "--drift.n_pos")
    if held < drift.n_unc:
        raise UserError(
            f"--drift.n_unc {drift.n_unc}: only {held} samples of {dataset.name} could be "
            "read; repair the others, or give less"
        )


def take_stream(parts: DriftParts, bank: Bank) -> tuple[Bank, int]:
    """Returns the bank with enough samples of the stream for a step, and how many it took.

    Raises UserError where the data set has a class with fewer samples than that.
    """
    drift, dataset = parts.drift, parts.dataset
    takes_all = parts.config.drift.n_pos == "all"
    of_each_class = min(drift.n_pos, parts.per_class)
    of_any_class = max(drift.n_unc, drift.n_pos)
    if dataset.condition_width:  # among few samples, the nearest conditions are not near
        of_each_class = min(parts.per_class, len(dataset.samples))
    if parts.pool:
        of_any_class = min(of_any_class, parts.pool)

    host, position = HostBank(parts), 0
    store = store_on_one_device(parts, parts.config.drift.bank_push)
    for images, labels in stream_reals(parts, 0):
        images, labels = jax.device_get(local_copy(parts.mesh, (images, labels)))
        bank = host.push(bank, store(images), labels)
        position += len(labels)

        counters = bank.counters
        held = counters.pool_filled if parts.pool else counters.filled.sum()
        is_enough = counters.filled.min() >= of_each_class and held >= of_any_class
        if is_enough and (not takes_all or position >= len(dataset.samples)):
            break
        was_all_seen = position > len(dataset.samples) + len(labels)
        if was_all_seen:
            if takes_all:
                check_what_was_read(parts, counters.filled, held)
                break
            pipeline.check_counts(dataset, counters.filled, of_each_class, "--drift.n_pos")
    return bank, position


def store_on_one_device(parts: GeneratorParts, at_once: int) -> Callable[[np.ndarray], Any]:
    """Returns images [S, ...] -> what the bank stores of them, in NumPy, for S up to `at_once`."""
    if not isinstance(parts, DriftParts) or not parts.cached:
        return lambda images: images
    return on_one_device(parts.to_stored, parts.encoder_params, at_once)
