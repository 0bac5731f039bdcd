"""The parts of an encoder's training: data, network, optimiser and the numbers of a step."""

import dataclasses
from typing import Any

import jax
import numpy as np

import data
from models.mae import MAE, mae_fields
from models.mae_step import MAEConfig
from training.job import Parts, check_batch_size, mirrors
from training.optimizer import build_optimizer
from utils.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MAEParts(Parts):
    """What the training of a masked autoencoder is made of."""

    held_out: data.Dataset  # the data set itself where nothing is held out
    step: MAEConfig


def build(config: Any, mesh: jax.sharding.Mesh) -> MAEParts:
    """Returns the parts of a run, checked against the data and the devices.

    Nothing is compiled or allocated. A dry run takes what is known of the data without reading it.
    Raises UserError for settings that do not fit together.
    """
    dataset = data.load(
        config.dataset_name, config.data.split, config.data, facts_only=config.dry_run
    )
    held_out = dataset
    if not config.dry_run:
        held_out = draw_once(data.load(config.dataset_name, "test", config.data))

    check_patches(config.mae, dataset)
    check_classes(config.mae, dataset)
    check_batch_size(config.batch_size, mesh)

    schedule, optimizer = build_optimizer(config.optim, config.max_steps)
    return MAEParts(
        config=config,
        dataset=dataset,
        mesh=mesh,
        model=build_network(config.mae, dataset),
        optimizer=optimizer,
        schedule=schedule,
        held_out=held_out,
        step=step_config(config, dataset),
    )


def build_network(mae: Any, dataset: data.Dataset) -> MAE:
    """Returns the network, by the group `mae` of the configuration and what the data asks for."""
    fields: dict[str, Any] = {
        "in_channels": dataset.shape[2],
        "num_classes": dataset.n_classes,
        "layers": tuple(int(blocks) for blocks in mae.layers.split(",")),
    }
    for name in mae_fields() - fields.keys():
        fields[name] = mae[name]
    return MAE(**fields)


def step_config(config: Any, dataset: data.Dataset) -> MAEConfig:
    """Returns the numbers of a step."""
    return MAEConfig(
        mask_prob=config.mae.mask_prob,
        crop_area=config.mae.crop_area,
        flip=mirrors(config, dataset.dtype),
        finetune_from=config.max_steps - config.mae.finetune_steps,
        class_weight=config.mae.class_weight,
        class_warmup=config.mae.class_warmup,
    )


# ---- what does not fit together ----


def check_patches(mae: Any, dataset: data.Dataset) -> None:
    """Raises UserError for images that do not divide into patches of cells."""
    height, width, _ = dataset.shape
    side = mae.input_patch_size * mae.patch_size
    if height % side or width % side:
        raise UserError(
            f"{dataset.name} is {height}x{width}, which does not divide into patches of "
            f"--mae.patch_size {mae.patch_size} x {mae.patch_size} cells "
            f"of --mae.input_patch_size {mae.input_patch_size}; give others, or --data.image_size"
        )


def check_classes(mae: Any, dataset: data.Dataset) -> None:
    """Raises UserError for a classifier of a single class."""
    if mae.finetune_steps and dataset.n_classes == 1:
        raise UserError(
            f"--mae.finetune_steps {mae.finetune_steps}: {dataset.name} has one class, "
            "there is nothing to classify; give --mae.finetune_steps 0"
        )


# ---- held-out samples ----


class DrawnOnce:
    """Random access to samples that are drawn once and for all.

    Some data sets draw each sample anew whenever it is read, such as cached latents, which are
    distributions. Here sample i always comes from a generator seeded with i, so that two
    evaluations see the same.
    """

    def __init__(self, samples, augment):
        self.samples = samples
        self.augment = augment

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.augment(self.samples[index], np.random.default_rng(int(index)))


def draw_once(dataset: data.Dataset) -> data.Dataset:
    """Returns the data set with each of its samples drawn once and for all."""
    if dataset.augment is None:
        return dataset
    samples = DrawnOnce(dataset.samples, dataset.augment)
    return dataclasses.replace(dataset, samples=samples, augment=None)
