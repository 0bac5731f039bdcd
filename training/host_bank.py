"""A bank of real samples in host memory, for one that is too large for a device."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from drifting import bank as banks
from drifting.accumulate import in_groups
from drifting.conditions import class_and_condition
from training.drift_parts import DriftParts
from utils.sharding import put


class HostBank:
    """Pushes into a bank in host memory, and draws from it.

    The slots are decided by the same programs as on a device, run on the CPU: the batches are the
    same to the bit. The samples are moved by NumPy.
    """

    def __init__(self, parts: DriftParts, first_step: int = 0, seed: int | None = None):
        """See HostStep for the numbers."""
        self.step = first_step
        self.seed = np.uint32(parts.config.seed if seed is None else seed)
        self.groups = parts.drift.groups
        self.sample_shape = parts.dataset.shape
        self.cpu = cpu_device()
        sizes = banks.Sizes(parts.per_class, parts.pool)

        def push_slots(counters, labels):
            return banks.push_slots(counters, sizes, labels)

        def draw(counters, seed, step, conditions):
            return banks.draw(counters, sizes, seed, step, parts.drift, conditions)

        self.push_slots = jax.jit(push_slots)
        self.draw = jax.jit(draw)

    def push(self, bank: banks.Bank, samples: Any, labels: Any) -> banks.Bank:
        """Returns the bank with new samples [S, ...] of labels [S]; its queues change in place.

        labels: or conditions [S, E].
        """
        samples, labels = jax.device_get((samples, labels))
        classes = np.asarray(class_and_condition(labels)[0], np.int32)
        slots = self.on_cpu(self.push_slots, bank.counters, classes)
        return banks.push_host(bank, slots, samples, labels)

    def next_batch(self, bank: banks.Bank, fresh: Any) -> tuple[banks.Bank, banks.Batch]:
        """Pushes `fresh`, (samples, labels) or None, and returns the bank and a step's batch."""
        if fresh is not None:
            bank = self.push(bank, *fresh)
        step, conditions = np.int32(self.step), bank.conditions
        plan = self.on_cpu(self.draw, bank.counters, self.seed, step, conditions)
        self.step += 1
        return bank, banks.batch_from_plan(bank, in_groups(plan, self.groups), self.sample_shape)

    def on_cpu(self, function: Callable, *args: Any) -> Any:
        """Returns function(*args), computed on the CPU, as NumPy arrays."""
        # The loop forbids transfers that nobody asked for; these are what is wanted here.
        with jax.default_device(self.cpu), jax.transfer_guard("allow"):
            return jax.device_get(function(*args))


class HostStep:
    """The step of a run whose bank is in host memory; called as if the bank were on the device.

    Args:
        parts: of the run.
        on_batch: the compiled program (state, batch, encoder_params) -> (state, metrics).
        first_step: the number of steps taken before the first call.
        seed: that of the state; None: that of the configuration.
    """

    def __init__(self, parts: DriftParts, on_batch: Any, first_step: int, seed: int | None):
        self.host = HostBank(parts, first_step, seed)
        self.on_batch = on_batch
        self.sharding = parts.layout.groups_sharding
        self.batch: Any = None  # the shapes of a batch

    def __call__(self, state, bank, fresh, encoder_params):
        """Returns (state, bank, metrics)."""
        bank, batch = self.host.next_batch(bank, fresh)
        batch = put(batch, self.sharding)
        self.batch = self.batch or jax.tree.map(jax.typeof, batch)
        state, metrics = self.on_batch(state, batch, encoder_params)
        return state, bank, metrics

    def trace(self, state, bank, fresh, encoder_params):
        """Returns the traced program, after a first call; see `jax.jit(...).trace`."""
        return self.on_batch.trace(state, self.batch, encoder_params)


def cpu_device():
    """Returns a CPU device, or where JAX_PLATFORMS leaves the CPU out, the first device."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]
