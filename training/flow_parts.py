"""The parts of the baseline, a rectified flow (baselines/flow.py)."""

import dataclasses
from typing import Any

import jax

import data
from baselines.flow import Flow, FlowConfig
from drifting.bank import bank_bytes
from models.build import build_generator
from models.generator import GeneratorModel
from models.latents import LatentSpace
from training.generator_parts import GeneratorParts
from training.job import check_batch_size, mirrors
from training.optimizer import build_optimizer
from training.resolve_bank import image_row, part_of_a_device, place_of_bank
from training.resolve_sizes import counts_unknown
from utils.sharding import ALL_AXES


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FlowParts(GeneratorParts):
    """What the training of a flow is made of. It compares no features, so it has no encoder."""

    flow: FlowConfig  # the numbers of a step

    @property
    def encoder_params(self) -> dict:
        return {}

    @property
    def reals_per_step(self) -> int:
        return self.flow.batch_size


def build_flow(
    config: Any,
    dataset: data.Dataset,
    space: LatentSpace | None,
    mesh: jax.sharding.Mesh,
    given: GeneratorModel | None,
) -> FlowParts:
    """Returns the parts of a run with --objective flow; they are explained in `GeneratorParts`.

    The bank holds all data, if it is asked to and they are within its budget. Otherwise it holds
    nothing, and each step takes a batch of the stream.
    """
    check_batch_size(config.batch_size, mesh)
    stored = image_row(dataset)
    per_class, place = 0, "device"
    if config.drift.bank_per_class == "all":
        if dataset.counts is None:
            raise counts_unknown(dataset)
        largest = max(dataset.counts)
        part = part_of_a_device(mesh, ALL_AXES, stored)
        size, divided = (
            bank_bytes(dataset.n_classes, largest, 0, sample) for sample in (stored, part)
        )
        # Whether it holds them does not depend on the devices, as the bank is in the checkpoint.
        if place_of_bank(config.drift, size, size, cached=False) != "host":
            per_class = largest
            place = place_of_bank(config.drift, size, divided, cached=False)

    network = build_generator(config.model, dataset.shape, dataset.n_classes)
    step = FlowConfig(
        batch_size=config.batch_size,
        n_classes=dataset.n_classes,
        class_dropout_prob=config.model.class_dropout_prob,
        t_sampler=config.flow.t_sampler,
        flip=mirrors(config, dataset.dtype),
        sample_shape=tuple(dataset.shape),
    )
    schedule, optimizer = build_optimizer(config.optim, config.max_steps)
    return FlowParts(
        config=config,
        dataset=dataset,
        mesh=mesh,
        model=Flow(network, config.denoise_timesteps),
        optimizer=optimizer,
        schedule=schedule,
        stored=stored,
        per_class=per_class,
        pool=0,
        bank_place=place,
        space=space,
        given=given,
        flow=step,
    )
