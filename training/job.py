"""A training: what all trainers have in common, and what each of them adds.

`training.program` goes from the command line to a job, and `training.loop` drives it. There are two
kinds: `training.drift.DriftJob` learns generators, `training.mae.MAEJob` learns feature encoders.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import optax
from absl import flags

import data
from data.identity import identity
from drifting.state import TrainState
from training import run_folder
from training.optimizer import average_names
from training.own_data import Choice
from training.state import from_items, to_items
from utils import config as config_lib
from utils import processes, sharding
from utils.checkpoint import Checkpoints
from utils.errors import UserError
from utils.logging import RunLog
from utils.memory import bytes_on_a_device, device_memory, require_memory
from utils.sharding import round_up


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """What every run is made of. A trainer's own parts are added by a subclass.

    Two of them are equal if they are one object, so that what follows from one can be kept.
    """

    config: Any  # an ml_collections.ConfigDict: what the tables of configs/default.py say
    dataset: data.Dataset  # what the network sees of it
    mesh: jax.sharding.Mesh  # the devices, with axes "data" and "fsdp"
    model: Any  # the network that is trained, without its parameters
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule  # the learning rate by the steps taken so far

    @property
    def first_ema(self) -> str:
        """The decay of the average that samples and scores are made with, such as "0.999".

        It is the first that the user named. The first key of the state's averages would not do: a
        dict that went through `jit` is sorted.
        """
        return str(self.config.optim.ema[0])


def mirrors(config: Any, dtype: str) -> bool:
    """Returns whether real samples are mirrored at random. A mirrored latent is no latent."""
    return config.data.flip and dtype == "uint8"


def check_batch_size(batch_size: int, mesh: jax.sharding.Mesh) -> None:
    """Raises UserError for a batch that does not divide over the devices of the mesh."""
    if batch_size % mesh.size:
        raise UserError(
            f"--batch_size {batch_size} does not divide over {mesh.size} devices; "
            f"give --batch_size {round_up(batch_size, mesh.size)}"
        )


class Job:
    """One training. It owns the state that steps change; `training.loop.train` says when."""

    # ---- what the program is ----

    schema: config_lib.Schema  # its flags, and how they fit together
    folder_prefix: str = ""  # the usual run folder is runs/<prefix><dataset_name>
    # A run that goes on must keep these settings. A name that ends in . or _ stands for all that
    # begin so ...
    fixed: tuple[str, ...] = ()
    free: tuple[str, ...] = ()  # ... but for these.

    @classmethod
    def check_flags(cls, config: Any, flag_values: flags.FlagValues) -> None:
        """Raises UserError for flags that have no use in this configuration."""

    @classmethod
    def choose(cls, flag_values: flags.FlagValues) -> list[Choice]:
        """Returns settings for data without a recipe, each with its reason; [] for no choice."""
        return []

    @classmethod
    def build(cls, config: Any, mesh: jax.sharding.Mesh) -> Parts:
        """Returns the parts of a run, checked against the data and the devices."""
        raise NotImplementedError

    @classmethod
    def check_parts(cls, parts: Any) -> None:
        """Raises UserError for what is known to fail once the parts are there."""

    @classmethod
    def check_memory(cls, parts: Any) -> None:
        """Raises UserError where the state alone does not fit on a device."""
        require_memory(
            "the state of the training (parameters, optimiser, averages)",
            bytes_on_a_device(cls.shapes(parts)),
            device_memory(parts.mesh.devices.flat[0]),
            "give a smaller --model or --mae, fewer --optim.ema, or --mesh.fsdp over more devices",
        )

    @classmethod
    def shapes(cls, parts: Any) -> TrainState:
        """Returns the state as shapes, dtypes and shardings; nothing is computed."""
        raise NotImplementedError

    @classmethod
    def report(cls, parts: Any) -> str:
        """Returns what the run takes, known before it starts; a dry run prints it."""
        raise NotImplementedError

    @classmethod
    def open_run(cls, config: Any) -> pathlib.Path:
        """Returns the run folder, made and writable.

        Raises UserError when it holds a run of another data set or network.
        """
        folder = run_folder.run_folder(config, cls.folder_prefix)
        if run_folder.has_run(folder):
            before = config_lib.from_json(folder / "config.json", cls.schema).to_dict()
            if run_folder.has_checkpoint(folder):
                cls.check_same_run(before, config, folder)
            else:
                # Nothing depends on the settings yet, but the recipe was that of this data.
                run_folder.check_same_run(before, config, folder, ("dataset_name",), ())
        return run_folder.make_folder(folder)

    @classmethod
    def check_same_run(cls, before: Mapping[str, Any], config: Any, source: pathlib.Path) -> None:
        """Raises UserError where the run at `source`, with other settings, cannot go on."""
        run_folder.check_same_run(before, config, source, cls.fixed, cls.free)

    # ---- the training: what the loop calls, in this order ----

    state: TrainState
    position: int  # samples of the data stream that are used up
    rollbacks: int = 0  # how often the run has gone back, training/recovery.py
    began: bool = False  # whether a step has worked since the program started

    def __init__(self, parts: Any, folder: pathlib.Path):
        self.parts = parts
        self.folder = folder
        self.config = parts.config

    def start(self, checkpoints: Checkpoints | None) -> int:
        """Takes the state of the newest checkpoint, or with None makes the first one.

        Returns the number of steps that it has behind it.
        """
        if checkpoints is None:
            self.begin()
        else:
            self.restore(checkpoints)
        return int(self.state.step)

    def begin(self) -> None:
        """Makes the state before the first step."""
        raise NotImplementedError

    def restore(self, checkpoints: Checkpoints) -> None:
        """Takes the state of the newest readable checkpoint, on the mesh of this run."""
        source = checkpoints.folder.parent
        # First what has words for a difference: arrays tell only that they have another shape.
        metadata, step = checkpoints.look()
        self.check_metadata(metadata, source)
        items, metadata, restored = checkpoints.restore(self.checkpoint_shapes())
        if restored != step:
            self.check_metadata(metadata, source)
        self.take(items)
        self.position = metadata["position"]
        self.rollbacks = metadata.get("rollbacks", 0)

    def release(self) -> None:
        """Lets go of the arrays of the state, so that `restore` finds their memory free."""
        del self.state

    def checkpoint_shapes(self) -> dict[str, Any]:
        """Returns `items` as shapes, dtypes and shardings."""
        raise NotImplementedError

    def check_metadata(self, metadata: dict[str, Any], source: pathlib.Path) -> None:
        """Raises UserError for a checkpoint of the run at `source` from which this cannot go on."""
        before = config_lib.with_defaults(config_lib.flatten(metadata["config"]), self.schema)
        self.check_same_run(before, self.config, source)
        run_folder.check_same_data(metadata, self.identity, self.config, source)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What tells whether another data set is the same data, for the metadata."""
        return identity(self.parts.dataset)

    def take(self, items: dict[str, Any]) -> None:
        """Takes the arrays of a checkpoint; the inverse of `items`."""
        self.state = from_items(items)

    def prepare(self, step: int) -> None:
        """Opens the data and builds the step, which continues after `step`."""
        raise NotImplementedError

    def fetch(self) -> Any:
        """Returns the input of the next step. The time it takes is logged as waiting for data."""
        raise NotImplementedError

    def advance(self, batch: Any) -> dict[str, jax.Array]:
        """Takes one step and returns its metrics: scalars, still on the device."""
        raise NotImplementedError

    def trace_step(self, batch: Any) -> Any:
        """Returns the step as `jax.jit(step).trace` does, once it was taken. It runs nothing."""
        raise NotImplementedError

    def after_first_step(self) -> None:
        """Tries what would otherwise fail for the first time after hours."""

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate of the step that led to `step`."""
        return float(self.parts.schedule(step - 1))

    def after_log(self, step: int, values: dict[str, float]) -> None:
        """Looks at the numbers of a log line. Raises UserError to stop the run."""

    def evaluate(self, step: int, run_log: RunLog) -> None:
        """Scores what was learned so far; called every --eval_interval steps."""
        raise NotImplementedError

    def draw(self, step: int) -> pathlib.Path:
        """Draws the figures, every --sample_interval steps; returns the one that trackers show."""
        path = self.folder / "samples" / f"step_{step:08d}.png"
        params = self.average()
        if processes.is_first():
            self.draw_figures(params, path)
        return path

    def draw_figures(self, params: Any, path: pathlib.Path) -> None:
        """Draws samples of `params` at `path`, and the curves of the run."""
        raise NotImplementedError

    def average(self) -> Any:
        """Returns the first average of the parameters, for this process alone (`local_copy`)."""
        average = self.state.ema[self.parts.first_ema]
        return sharding.local_copy(self.parts.mesh, average)

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns what a checkpoint holds: arrays by item, and metadata for JSON."""
        metadata = self.description() | {
            "ema": average_names(self.config.optim),
            "position": self.position,
            "config": self.config.to_dict(),
        }
        if self.rollbacks:
            metadata["rollbacks"] = self.rollbacks
        return self.items(), metadata

    def items(self) -> dict[str, Any]:
        """Returns the arrays of a checkpoint, as items that can be read on their own."""
        return to_items(self.state)

    def description(self) -> dict[str, Any]:
        """Returns the network and the data set in JSON, enough to use the network again."""
        raise NotImplementedError

    def report_run(self) -> None:
        """Writes a page about the run, once its last step is taken and saved."""

    def after_training(self) -> None:
        """Called once, when the last step is saved."""
