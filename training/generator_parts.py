"""What the training of a generator is made of, by drifting or by the baseline."""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

from drifting.bank import Bank, bank_bytes, bank_shapes, empty_bank
from models.generator import GeneratorModel
from models.latents import LatentSpace
from training.job import Parts
from utils import sharding
from utils.sharding import round_up


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GeneratorParts(Parts):
    """The parts that both objectives have: `DriftParts` and `FlowParts` add their own.

    `dataset` is what the generator sees: latents, if it learns those.
    """

    # The bank of real samples.
    stored: Any  # shape and dtype of what it stores of a sample; or a tree of them, its features
    per_class: int  # the length of its class queues
    pool: int  # the length of its queue of any class
    bank_place: str  # "device" whole on each, "divided" over them, or "host"

    # The VAE, where the generator learns latents, and data, scores or figures take images.
    space: LatentSpace | None

    # The generator whose weights --init_from gives. None: no weights, or they are not fetched yet.
    given: GeneratorModel | None

    @property
    def whole_bank(self) -> bool:
        """Whether the bank holds all data, so that nothing is streamed."""
        return self.config.drift.bank_per_class == "all" and self.per_class > 0

    @property
    def cached(self) -> bool:
        """Whether the bank stores the features of samples, and not the samples."""
        return isinstance(self.stored, dict)

    @property
    def bank_bytes(self) -> int:
        """The memory of the bank's samples."""
        return bank_bytes(*self._bank_arguments)

    @property
    def bank_on_host(self) -> bool:
        """Whether the bank is in host memory."""
        return self.bank_place == "host"

    @property
    def bank_shapes(self) -> Bank:
        """The arrays of the bank, as shapes, dtypes and shardings.

        A bank in host memory has no shardings: checkpoints then restore it as NumPy arrays.
        """
        bank = bank_shapes(*self._bank_arguments)
        if self.bank_on_host:
            return bank
        shardings = jax.tree.map(lambda _: sharding.replicated(self.mesh), bank)
        if self.bank_place == "divided":
            samples, pool = (
                self._within_samples(bank.samples, 2),
                self._within_samples(bank.pool, 1),
            )
            shardings = shardings.replace(samples=samples, pool=pool)
        return sharding.shapes_with_shardings(bank, shardings)

    @property
    def bank_axes(self) -> tuple[str, ...]:
        """The axes of the mesh over which a bank is divided."""
        return sharding.ALL_AXES

    def _within_samples(self, tree: Any, leading: int) -> Any:
        """Returns shardings that divide arrays within their samples."""

        def sharding_of(array):
            return sharding.within_samples(self.mesh, self.bank_axes, array.shape, leading)

        return jax.tree.map(sharding_of, tree)

    @functools.cached_property  # each step asks for it
    def new_reals(self) -> jax.ShapeDtypeStruct:
        """New real samples on their way into a step: shape, dtype and sharding.

        For a divided bank of samples they are rows [S, numbers], and divided likewise, so that
        each device takes its part alone. Otherwise, and where the bank stores features, they are
        whole samples [S, H, W, C] on every device.
        """
        dataset, n = self.dataset, self.reals_per_step
        shape, place = (n, *dataset.shape), sharding.replicated(self.mesh)
        if self.bank_place == "divided" and not self.cached:
            shape = (n, math.prod(dataset.shape))
            place = sharding.within_samples(self.mesh, self.bank_axes, shape, 1)
        return jax.ShapeDtypeStruct(shape, np.dtype(dataset.dtype), sharding=place)

    def empty_bank(self) -> Bank:
        """Returns the bank without samples, as NumPy arrays."""
        return empty_bank(*self._bank_arguments)

    @property
    def _bank_arguments(self) -> tuple[int, int, int, Any, int]:
        dataset = self.dataset
        width = dataset.condition_width
        return dataset.n_classes, self.per_class, self.pool, self.stored, width

    @property
    def makes_latents(self) -> bool:
        """Whether images become latents on their way to the bank."""
        return self.config.model.use_stable_vae

    @property
    def reals_per_step(self) -> int:
        """How many new real samples a step takes, where they are streamed."""
        raise NotImplementedError

    @property
    def sampling(self) -> dict[str, Any]:
        """The arguments with which `models.sampling.generate` uses all devices of a process."""
        devices = sharding.local_sharding(self.mesh)
        return {"batch_size": round_up(256, devices.mesh.size), "sharding": devices}

    @functools.cached_property
    def row_exchange(self) -> sharding.RowExchange | None:
        """What joins the parts of a batch of reals on the devices; None: NumPy arrays will do.

        It is kept: filling the bank and the steps after it use the same compiled program.
        """
        space = self.space if self.makes_latents else None
        if space is None and jax.process_count() == 1:
            return None
        reals, whole = self.new_reals, sharding.replicated(self.mesh)

        def to_new_reals(params, rows):
            if space is not None:
                rows = latents_of_rows(space, self.config, params, rows)
            images, labels, index = rows
            return images.reshape(-1, *reals.shape[1:]), labels, index

        params = None if space is None else jax.device_get(space.params)
        own = reals.shape[0] // jax.process_count()
        results = (reals.sharding, whole, whole)
        return sharding.RowExchange(self.mesh, own, to_new_reals, params, results)


def latents_of_rows(space: LatentSpace, config: Any, params: Any, rows: tuple) -> tuple:
    """Returns (images, labels, index in the stream) with latents for the images.

    params: of the VAE.
    """
    images, labels, index = rows
    latents = space.draw(params, images, index, config.seed, config.data.flip)
    return latents, labels, index
