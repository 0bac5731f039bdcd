"""What the training of a generator is made of, by drifting or by the baseline."""

import dataclasses
import functools
from typing import Any

import jax

from drifting.bank import Bank, bank_bytes, empty_bank
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
    bank_on_host: bool

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
        return bank_bytes(*self._bank_shape)

    def empty_bank(self) -> Bank:
        """Returns the bank without samples, as NumPy arrays."""
        return empty_bank(*self._bank_shape)

    @property
    def _bank_shape(self) -> tuple[int, int, int, Any, int]:
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
        own = self.reals_per_step // jax.process_count()
        if self.makes_latents and self.space:
            params = jax.device_get(self.space.params)
            to_latents = functools.partial(latents_of_rows, self.space, self.config)
            return sharding.RowExchange(self.mesh, own, to_latents, params)
        if jax.process_count() > 1:
            return sharding.RowExchange(self.mesh, own)
        return None


def latents_of_rows(space: LatentSpace, config: Any, params: Any, rows: tuple) -> tuple:
    """Returns (images, labels, index in the stream) with latents for the images.

    params: of the VAE.
    """
    images, labels, index = rows
    latents = space.draw(params, images, index, config.seed, config.data.flip)
    return latents, labels, index
