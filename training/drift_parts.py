"""The parts of a generator's training, in the order in which they follow from the configuration.

    start -> data and latents -> sizes of a step -> generator -> encoder -> step -> bank

What the flags alone can tell is checked first, before weights are read. Each part is decided in a
file of its own, resolve_*.py.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

import data
from drifting.cache import remember
from drifting.config import DriftConfig
from models.build import build_generator
from models.encoders import load_encoder, make_set_weight
from models.latents import latent_dataset
from training.first_samples import check_output
from training.flow_parts import FlowParts, build_flow
from training.generator_parts import GeneratorParts
from training.job import mirrors
from training.moments_file import RealMoments, read_moments
from training.optimizer import build_optimizer
from training.resolve_bank import resolve_bank
from training.resolve_encoder import (
    Encoder,
    resolve_battery,
    resolve_decoder,
    resolve_encoder,
    resolve_monitor,
)
from training.resolve_field import resolve_field
from training.resolve_sizes import StepSizes, check_reals, resolve_sizes
from training.resolve_start import resolve_start
from utils import sharding


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DriftParts(GeneratorParts):
    """What the training of a generator by drifting is made of."""

    drift: DriftConfig  # the numbers of a step

    # The frozen encoder: (params, images [B, H, W, C]) -> {name: [B, T, D]}.
    encode: Callable | None  # None in a dry run, which does not read it
    encoder_params: Any

    real_moments: RealMoments | None  # of a file; None for those of the data

    def to_stored(self, encoder_params: Any, images: jax.Array) -> Any:
        """Returns what the bank stores of real images [S, H, W, C]."""
        if not self.cached:
            return images
        encode = functools.partial(self.encode, encoder_params)
        return remember(images, encode=encode, flip=self.drift.flip)

    @property
    def reals_per_step(self) -> int:
        return self.config.drift.bank_push

    @property
    def layout(self) -> sharding.MeshLayout:
        """Where the samples of a step are on the devices (utils/sharding.py)."""
        return layout_of_step(self.drift, self.mesh)

    @property
    def bank_axes(self) -> tuple[str, ...]:
        return self.layout.bank_axes


def build(
    config: Any,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    load_encoder: Callable = load_encoder,
) -> DriftParts | FlowParts:
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
    # ---- what the weights of another run ask for ----
    config, given = resolve_start(config)

    # ---- the data, as the generator sees it: pixels, or latents of a VAE ----
    dataset, space = latent_dataset(config, dataset, sharding.local_sharding(mesh))

    # ---- what the flags alone can tell ----
    check_reals(config.drift, dataset)
    field = resolve_field(config.drift)
    if config.objective == "flow":
        return build_flow(config, dataset, space, mesh, given)
    sizes = resolve_sizes(config, dataset, mesh)

    # ---- the networks: the generator, and the encoder that compares its samples ----
    classes, width = dataset.n_classes, dataset.condition_width
    model = build_generator(config.model, dataset.shape, classes, width)
    check_output(config, model, dataset)
    decoder = resolve_decoder(config, dataset, mesh, space)
    encoder = resolve_encoder(config, dataset, decoder, load_encoder)
    real_moments = read_moments(config, dataset, encoder)

    # ---- the numbers of a step, and the bank that it draws from ----
    drift = drift_config(config, dataset, field, sizes, model, encoder)
    layout = layout_of_step(drift, mesh)
    config, stored, place = resolve_bank(config, dataset, sizes, drift, encoder, layout)

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
        real_moments=real_moments,
        stored=stored,
        per_class=sizes.per_class,
        pool=sizes.pool,
        bank_place=place,
        space=space or decoder,
        given=given,
    )


def layout_of_step(drift: DriftConfig, mesh: jax.sharding.Mesh) -> sharding.MeshLayout:
    """Returns where the samples of a step are. `resolve_sizes` has checked that they divide."""
    classes, rows = drift.n_c // drift.groups, drift.n_neg // drift.row_parts
    return sharding.choose_layout(mesh, classes, rows)


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
        class_shares=sizes.class_shares,
        n_neg=drift.n_neg,
        n_pos=sizes.n_pos,
        n_unc=drift.n_unc,
        joint=drift.joint,
        alpha_min=drift.alpha_min,
        alpha_max=drift.alpha_max,
        alpha_power=drift.alpha_power,
        no_cfg_frac=drift.no_cfg_frac,
        **field,
        max_steps=config.max_steps,
        monitor=resolve_monitor(drift.monitor, encoder, dataset.shape),
        set_weight=make_set_weight(config.encoder),
        battery=resolve_battery(config.encoder),
        style_shape=(model.noise_coords, model.noise_classes),
        class_dropout_prob=config.model.class_dropout_prob,
        flip=mirrors(config, dataset.dtype),
        sample_shape=tuple(dataset.shape),
        groups=sizes.groups,
        exact_scales=drift.exact_scales,
        row_parts=sizes.row_parts,
    )
