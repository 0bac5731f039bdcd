"""The real samples of a run on their way to the step: from the stream into the bank, on the devices or in host memory."""

import jax
import numpy as np

from data import pipeline
from drifting import bank as banks
from drifting.accumulate import in_groups
from training.parts import Parts
from utils import sharding


class HostBank:
    """Pushes and draws in host memory, by the same programs as on the device, run on the CPU: the batches are the same to the bit."""

    def __init__(self, parts: Parts, first_step: int = 0):
        try:
            self.cpu = jax.local_devices(backend="cpu")[0]
        except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
            self.cpu = jax.local_devices()[0]
        self.step, self.groups = first_step, parts.drift.groups
        self.seed, self.shape = np.uint32(parts.config.seed), parts.dataset.shape
        sizes = banks.Sizes(parts.per_class, parts.pool)
        self.push_slots = jax.jit(
            lambda counters, labels: banks.push_slots(counters, sizes, labels)
        )
        self.draw = jax.jit(
            lambda counters, seed, step: banks.draw(counters, sizes, seed, step, parts.drift)
        )

    def push(self, bank, images, labels):
        images, labels = jax.device_get((images, labels))
        slots = self._on_cpu(self.push_slots, bank.counters, np.asarray(labels, np.int32))
        return banks.push_host(bank, slots, images, labels)

    def __call__(self, bank, fresh):
        bank = bank if fresh is None else self.push(bank, *fresh)
        plan = self._on_cpu(self.draw, bank.counters, self.seed, np.int32(self.step))
        self.step += 1
        return bank, banks.batch_from_plan(bank, in_groups(plan, self.groups), self.shape)

    def _on_cpu(self, function, *args):
        with jax.default_device(self.cpu), jax.transfer_guard("allow"):
            return jax.device_get(function(*args))


def store_on_one_device(parts: Parts, at_once: int):
    """store(images [S, ...]) -> what the bank keeps of S <= at_once images, NumPy. One device computes it, so that the number of devices changes no bit."""
    if not parts.cached:
        return lambda images: images
    device = jax.local_devices()[0]
    params, jitted = jax.device_put(parts.encoder_params, device), jax.jit(parts.store)

    def store(images):
        padded = np.concatenate(
            [images, np.zeros((at_once - len(images), *images.shape[1:]), images.dtype)]
        )
        return jax.tree.map(
            lambda a: a[: len(images)],
            jax.device_get(jitted(params, jax.device_put(padded, device))),
        )

    return store


def reals(parts: Parts, position: int):
    """Endless batches (samples [S,H,W,C], labels [S]) of `parts.push` reals, from sample `position` of the stream on.

    NumPy arrays; or arrays on every device, where several processes read a part each, or where images are encoded on the way. The batches are the same.
    """
    c, rank, ranks = parts.config, jax.process_index(), jax.process_count()
    mine = parts.push // ranks
    share = (
        sharding.RowExchange(parts.mesh, mine, *encoding(parts))
        if ranks > 1 or parts.encodes
        else None
    )
    for images, labels in pipeline.stream(
        parts.dataset, c.seed, mine, position, rank, ranks, c.data.workers
    ):
        index = (position + rank + ranks * np.arange(mine)).astype(np.uint32)
        yield share((images, labels, index))[:2] if share else (images, labels)
        position += parts.push


def encoding(parts: Parts):
    """What `sharding.RowExchange` does to a batch (images, labels, index in the stream), and the parameters for it."""
    if not parts.encodes:
        return ()
    return lambda params, rows: (
        parts.space.draw(params, rows[0], rows[2], parts.config.seed, parts.config.data.flip),
        *rows[1:],
    ), jax.device_get(parts.space.params)


def fill_bank(parts: Parts):
    """The bank before the first step, as NumPy arrays, and how many samples of the stream it took.

    A whole bank holds the data set in its order. Another takes the stream until every class, and the pool, hold what a step draws from them.
    """
    dataset, bank = (
        parts.dataset,
        banks.empty_bank(parts.dataset.n_classes, parts.per_class, parts.pool, parts.sample),
    )
    if parts.whole_bank:
        images, labels = pipeline.everything(dataset)
        images = (
            parts.space.encode(images, parts.config.seed, parts.config.data.flip)
            if parts.encodes
            else images
        )
        bank.counters.filled[:] = np.bincount(labels, minlength=dataset.n_classes)
        bank.counters.next[:] = bank.counters.filled % parts.per_class
        slots = np.zeros_like(labels)
        for k in range(dataset.n_classes):
            slots[labels == k] = np.arange(bank.counters.filled[k])
        at_once = 128
        store = store_on_one_device(parts, at_once)
        for start in range(0, len(images), at_once):
            some = slice(start, start + at_once)
            for kept, new in zip(
                jax.tree.leaves(bank.samples), jax.tree.leaves(store(images[some]))
            ):
                kept[labels[some], slots[some]] = new.reshape(-1, *kept.shape[2:])
        return bank, 0
    if parts.baseline:
        return bank, 0
    store = store_on_one_device(parts, parts.config.drift.bank_push)
    host, position = HostBank(parts), 0
    needed = min(parts.drift.n_pos, parts.per_class)
    for images, labels in reals(parts, 0):
        images, labels = jax.device_get((images, labels))
        bank = host.push(bank, store(images), labels)
        position += len(labels)
        of_any_class = bank.counters.pool_filled if parts.pool else bank.counters.filled.sum()
        enough = bank.counters.filled.min() >= needed and of_any_class >= min(
            parts.pool or of_any_class + 1, max(parts.drift.n_unc, parts.drift.n_pos)
        )
        if enough and (parts.config.drift.n_pos != "all" or position >= len(dataset.samples)):
            return bank, position
        if position > len(dataset.samples) + len(labels):  # every sample was seen
            if parts.config.drift.n_pos == "all" and bank.counters.filled.min() > 0:
                return bank, position
            pipeline.check_counts(
                dataset,
                bank.counters.filled,
                needed if parts.config.drift.n_pos != "all" else 1,
                "--drift.n_pos",
            )


def place_bank(parts: Parts, bank):
    """A bank of NumPy arrays, where the steps want it."""
    return bank if parts.bank_on_host else sharding.put(bank, sharding.replicated(parts.mesh))


def next_fresh(parts: Parts, stream):
    """The newest reals for the bank, where the step wants them; None for a bank that holds everything."""
    if stream is None:
        return None
    fresh = next(stream)
    return (
        fresh
        if parts.bank_on_host or isinstance(fresh[0], jax.Array)
        else sharding.put(fresh, sharding.replicated(parts.mesh))
    )
