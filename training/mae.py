"""Trains the paper's feature encoder, a masked autoencoder (A.3).

The step that matters is `models.mae_step.mae_step`; here it is compiled, fed and saved.
"""

import functools
import logging
import pathlib
from typing import Any

import jax
from absl import flags

from data import pipeline
from drifting.state import TrainState, init_state, named_key
from models.export import export_run
from models.mae import init_mae_params, mae_fields
from models.mae_step import mae_step
from training import program, state
from training.job import Job
from training.mae_evaluation import draw_curves, draw_grid, evaluate
from training.mae_parts import MAEParts, build
from training.optimizer import average_names
from training.reports import mae_report
from utils import config as config_lib
from utils import processes, sharding
from utils.logging import RunLog

log = logging.getLogger("train")


def main(flag_values: flags.FlagValues) -> None:
    """Runs the program pretrain_mae.py."""
    program.main(MAEJob, flag_values)


class MAEJob(Job):
    """The training of an encoder: its state, and the stream of images."""

    schema = config_lib.MAE_TRAINER
    folder_prefix = "mae_"
    # A run keeps the data, the seed, the network, and the averages that its checkpoints hold.
    fixed = (
        "dataset_name",
        "seed",
        "data.config",
        "optim.name",
        "optim.ema",
        "optim.ema_snapshots",
        "mae.base_channels",
        "mae.layers",
        "mae.input_patch_size",
        "mae.patch_size",
    )

    parts: MAEParts

    @classmethod
    def build(cls, config: Any, mesh: jax.sharding.Mesh) -> MAEParts:
        return build(config, mesh)

    @classmethod
    def shapes(cls, parts: MAEParts) -> TrainState:
        return state_shapes(parts)

    @classmethod
    def report(cls, parts: MAEParts) -> str:
        return mae_report(parts, state_shapes(parts))

    def begin(self) -> None:
        self.state = make_state(self.parts)
        self.position = 0

    def checkpoint_shapes(self) -> dict[str, Any]:
        return state.to_items(state_shapes(self.parts))

    def prepare(self, step: int) -> None:
        rank, ranks = jax.process_index(), jax.process_count()
        self.stream = pipeline.stream(
            self.parts.dataset,
            seed=self.config.seed,
            batch_size=self.config.batch_size // ranks,
            position=self.position,
            rank=rank,
            ranks=ranks,
            workers=self.config.data.workers,
        )
        self.take_step = make_step(self.parts)

    def fetch(self) -> tuple[jax.Array, jax.Array]:
        """Returns images [B, H, W, C] and labels [B], spread over all devices."""
        devices = sharding.batch_sharding(self.parts.mesh)
        images, labels = next(self.stream)
        return (
            jax.make_array_from_process_local_data(devices, images),
            jax.make_array_from_process_local_data(devices, labels),
        )

    def advance(self, batch: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        self.state, metrics = self.take_step(self.state, *batch)
        self.position += self.config.batch_size
        return metrics

    def trace_step(self, batch: tuple[jax.Array, jax.Array]) -> Any:
        return self.take_step.trace(self.state, *batch)

    def evaluate(self, step: int, run_log: RunLog) -> None:
        values = evaluate(self.parts, self.average())
        run_log.log(step, values)
        words = [f"{name} {value:.4g}" for name, value in values.items()]
        log.info("step %d: %s", step, ", ".join(words))

    def draw_figures(self, params: Any, path: pathlib.Path) -> None:
        draw_grid(self.parts, params, path)
        draw_curves(self.folder)

    def description(self) -> dict[str, Any]:
        model, dataset = self.parts.model, self.parts.dataset
        return {
            "mae": {name: getattr(model, name) for name in sorted(mae_fields())},
            "dataset": {
                "name": dataset.name,
                "shape": dataset.shape,
                "dtype": dataset.dtype,
            }
            | self.identity,
        }

    def after_training(self) -> None:
        """Writes the encoder in the published format, where the user asked for it."""
        folder = self.config.mae.export
        if folder and processes.is_first():
            with processes.alone():
                export_run(self.folder, folder)
            log.info("%s: the encoder in the published format, for --encoder.path", folder)


# ---- the state and the step ----


def first_state(parts: MAEParts) -> TrainState:
    """Returns the state before the first step. It depends on the seed alone."""
    config = parts.config
    params = init_mae_params(parts.model, named_key(config.seed, "init"))
    return init_state(params, parts.optimizer, average_names(config.optim), config.seed)


def make_state(parts: MAEParts) -> TrainState:
    """Returns the state before the first step, on the mesh."""
    return state.make_state(parts.mesh, functools.partial(first_state, parts))


def state_shapes(parts: MAEParts) -> TrainState:
    """Returns the state as shapes, dtypes and shardings; nothing is computed."""
    return state.state_shapes(parts.mesh, functools.partial(first_state, parts))


def make_step(parts: MAEParts) -> Any:
    """Returns the compiled step: (state, images, labels) -> (state, metrics).

    The state is donated: its memory is used for the new one.
    """
    step = functools.partial(
        mae_step,
        model=parts.model,
        optimizer=parts.optimizer,
        config=parts.step,
        all_gather=functools.partial(sharding.all_gather, parts.mesh),
    )
    return state.jit_step_of_run(step, parts.mesh, state_shapes(parts))
