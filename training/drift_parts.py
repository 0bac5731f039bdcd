"""The parts of a generator's training, in the order in which they follow from the configuration.

    data and latents -> sizes of a step -> generator -> encoder -> numbers of the step -> bank

What the flags alone can tell is checked first, before weights are read. Each part is decided in a
file of its own, resolve_*.py.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

import data
from baselines.flow import Flow, FlowConfig
from drifting.bank import Bank, bank_bytes, empty_bank
from drifting.cache import remember
from drifting.config import DriftConfig
from evaluation.scoring import round_up
from models.build import build_generator
from models.encoders import load_encoder, set_weights
from models.latents import LatentSpace, latent_dataset
from training.job import Parts, check_batch_size
from training.optimizer import build_optimizer
from training.resolve_bank import image_row, is_on_host, resolve_bank
from training.resolve_encoder import Encoder, resolve_decoder, resolve_encoder, resolve_monitor
from training.resolve_field import resolve_field
from training.resolve_sizes import StepSizes, check_reals, resolve_sizes
from utils import sharding


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftParts(Parts):
    """What the training of a generator is made of. Its data are latents, if it learns those."""

    # The step: by drifting, or with --objective flow that of the baseline. One of them is None.
    drift: DriftConfig | None
    flow: FlowConfig | None = None

    # The frozen encoder: (params, images [B, H, W, C]) -> {name: [B, T, D]}.
    encode: Callable | None = None  # None in a dry run, which does not read it
    encoder_params: Any = None

    # The bank of real samples.
    stored: Any  # shape and dtype of what it stores of a sample, or a tree of them: its features
    per_class: int  # the length of its class queues
    pool: int  # the length of its queue of any class
    bank_on_host: bool

    # The VAE, if the generator learns latents and figures, scores or the data need it.
    space: LatentSpace | None = None

    # ---- the bank ----

    @property
    def whole_bank(self) -> bool:
        """Whether the bank holds all data, so that nothing is streamed."""
        return self.config.drift.bank_per_class == "all" and self.per_class > 0

    @property
    def cached(self) -> bool:
        """Whether the bank stores the features of samples, not the samples."""
        return isinstance(self.stored, dict)

    def empty_bank(self) -> Bank:
        """Returns the bank without samples, as NumPy arrays."""
        return empty_bank(self.dataset.n_classes, self.per_class, self.pool, self.stored)

    @property
    def bank_bytes(self) -> int:
        """The memory of the bank's samples."""
        return bank_bytes(self.dataset.n_classes, self.per_class, self.pool, self.stored)

    def store(self, encoder_params: Any, images: jax.Array) -> Any:
        """Returns what the bank stores of real images [S, H, W, C]."""
        if not self.cached:
            return images
        encode = functools.partial(self.encode, encoder_params)
        return remember(images, encode=encode, flip=self.drift.flip)

    # ---- the stream of real samples ----

    @property
    def makes_latents(self) -> bool:
        """Whether images become latents on their way to the bank."""
        return self.config.model.use_stable_vae

    @property
    def reals_per_step(self) -> int:
        """The new real samples of a step, where they are streamed."""
        if self.flow:
            return self.flow.batch_size
        return self.config.drift.bank_push

    # ---- where samples are ----

    @property
    def layout(self) -> sharding.MeshLayout:
        """Where the samples of a step are on the devices (utils/sharding.py)."""
        classes = self.drift.n_c // self.drift.groups
        return sharding.choose_layout(self.mesh, classes, self.drift.n_neg)

    @property
    def sampling(self) -> dict[str, Any]:
        """The arguments with which `models.sampling.generate` uses all devices of a process."""
        devices = sharding.local_sharding(self.mesh)
        return {"batch_size": round_up(256, devices.mesh.size), "sharding": devices}


def build(
    config: Any,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    load_encoder: Callable = load_encoder,
) -> DriftParts:
    """Returns all parts of a run, checked against the data and the devices.

    Nothing is compiled or allocated, but for the weights of frozen networks.

    Args:
        config: the whole configuration.
        dataset: what --dataset_name names.
        mesh: the devices.
        load_encoder: what reads the encoder, in the place of `models.encoders.load_encoder`.
    Raises:
        UserError: settings that do not fit together, with what would fit.
    """
    # ---- the data, as the generator sees it: pixels, or latents of a VAE ----
    dataset, space = latent_dataset(config, dataset, sharding.local_sharding(mesh))

    # ---- what the flags alone can tell ----
    check_reals(config.drift, dataset)
    field = resolve_field(config.drift)
    if config.objective == "flow":
        return build_flow(config, dataset, space, mesh)
    sizes = resolve_sizes(config, dataset, mesh)

    # ---- the networks: the generator, and the encoder that compares its samples ----
    model = build_generator(config.model, dataset.shape, dataset.n_classes)
    decoder = resolve_decoder(config, dataset, mesh, space)
    encoder = resolve_encoder(config, dataset, decoder, load_encoder)

    # ---- the numbers of a step, and the bank that it draws from ----
    drift = drift_config(config, dataset, field, sizes, model, encoder)
    config, stored, on_host = resolve_bank(config, dataset, sizes, drift, encoder, mesh)

    # ---- the optimiser ----
    schedule, optimizer = build_optimizer(config.optim, config.max_steps)
    return DriftParts(
        config=config,
        dataset=dataset,
        mesh=mesh,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        drift=drift,
        encode=encoder.encode,
        encoder_params=encoder.params,
        stored=stored,
        per_class=sizes.per_class,
        pool=sizes.pool,
        bank_on_host=on_host,
        space=space or decoder,
    )


def drift_config(
    config: Any,
    dataset: data.Dataset,
    field: dict[str, Any],
    sizes: StepSizes,
    model: Any,
    encoder: Encoder,
) -> DriftConfig:
    """Returns the numbers of a step, by the paper's names."""
    drift = config.drift
    return DriftConfig(
        n_classes=dataset.n_classes,
        n_c=sizes.n_c,
        n_neg=drift.n_neg,
        n_pos=sizes.n_pos,
        n_unc=drift.n_unc,
        alpha_min=drift.alpha_min,
        alpha_max=drift.alpha_max,
        alpha_power=drift.alpha_power,
        no_cfg_frac=drift.no_cfg_frac,
        temperatures=tuple(drift.temperatures),
        **field,
        monitor=resolve_monitor(drift.monitor, encoder, dataset.shape),
        set_weight=set_weights(config.encoder),
        style_shape=(model.noise_coords, model.noise_classes),
        class_dropout_prob=config.model.class_dropout_prob,
        flip=mirrors(config, dataset),
        sample_shape=tuple(dataset.shape),
        groups=config.optim.accumulate,
        exact_scales=drift.exact_scales,
    )


def mirrors(config: Any, dataset: data.Dataset) -> bool:
    """Returns whether real images are mirrored at random. A mirrored latent is no latent."""
    return config.data.flip and dataset.dtype == "uint8"


def build_flow(
    config: Any, dataset: data.Dataset, space: LatentSpace | None, mesh: jax.sharding.Mesh
) -> DriftParts:
    """Returns the parts of the baseline, a rectified flow (baselines/flow.py).

    Its bank holds all data, if it is asked to and they fit on the device. Otherwise it holds
    nothing, and each step takes a batch of the stream.
    """
    check_batch_size(config.batch_size, mesh)
    stored = image_row(dataset)
    per_class = 0
    if config.drift.bank_per_class == "all":
        largest = max(dataset.counts)
        size = bank_bytes(dataset.n_classes, largest, 0, stored)
        if not is_on_host(config.drift, size, cached=False):
            per_class = largest

    network = build_generator(config.model, dataset.shape, dataset.n_classes)
    model = Flow(network, config.denoise_timesteps)
    step = FlowConfig(
        batch_size=config.batch_size,
        n_classes=dataset.n_classes,
        class_dropout_prob=config.model.class_dropout_prob,
        t_sampler=config.flow.t_sampler,
        flip=mirrors(config, dataset),
        sample_shape=tuple(dataset.shape),
    )
    schedule, optimizer = build_optimizer(config.optim, config.max_steps)
    return DriftParts(
        config=config,
        dataset=dataset,
        mesh=mesh,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        drift=None,
        flow=step,
        encode=None,
        encoder_params={},
        stored=stored,
        per_class=per_class,
        pool=0,
        bank_on_host=False,
        space=space,
    )
