"""What the training of a generator is made of, by drifting or by the baseline."""

import dataclasses
from typing import Any

from drifting.bank import Bank, bank_bytes, empty_bank
from models.latents import LatentSpace
from training.job import Parts
from utils import sharding
from utils.sharding import round_up


@dataclasses.dataclass(frozen=True, kw_only=True)
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
        return bank_bytes(self.dataset.n_classes, self.per_class, self.pool, self.stored)

    def empty_bank(self) -> Bank:
        """Returns the bank without samples, as NumPy arrays."""
        return empty_bank(self.dataset.n_classes, self.per_class, self.pool, self.stored)

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
