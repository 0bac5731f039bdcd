"""The generator of a run folder or of a published artifact, on the devices."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding

from models.runs import describe_run, load_run
from models.weights import load_generator
from utils.checkpoint import Checkpoints
from utils.errors import UserError
from utils.sharding import replicated


@dataclasses.dataclass(frozen=True)
class Generator:
    """A generator whose parameters are read when they are first needed.

    A checkpoint whose scores are all known needs none.

    Attributes:
        model: the network, without parameters.
        metadata: what the run or the artifact says of itself.
        read_params: gives the parameters.
        sharding: over the devices that get the parameters.
    """

    model: Any
    metadata: dict
    read_params: Callable[[], Any]
    sharding: NamedSharding

    @functools.cached_property
    def params(self):
        """The parameters, whole on each device."""
        return jax.device_put(self.read_params(), replicated(self.sharding.mesh))


def open_run(
    folder: pathlib.Path, step: int | None, ema: str, sharding: NamedSharding
) -> Generator:
    """Returns the generator of a run.

    Args:
        folder: of the run.
        step: of the checkpoint; None = the newest.
        ema: a decay that the run keeps, such as "0.999", or "raw"; "" = the run's first decay.
        sharding: over the devices that get the parameters.
    """
    model, metadata = describe_run(folder, step, ema)

    def read_params():
        return load_run(folder, metadata["step"], ema)[1]

    return Generator(model, metadata, read_params, sharding)


def open_artifact(source: str, sharding: NamedSharding) -> Generator:
    """Returns the generator of a published artifact: a folder, or hf://NAME."""
    model, params, metadata = load_generator(source)

    def read_params():
        return params

    return Generator(model, metadata, read_params, sharding)


def checkpoint_steps(folder: pathlib.Path) -> list[int]:
    """Returns the steps of a run's checkpoints.

    Raises:
        UserError: there is none.
    """
    steps = Checkpoints(folder / "checkpoints").steps()
    if not steps:
        raise UserError(
            f"--all: no checkpoint in {folder}; give the folder of a run that has saved one"
        )
    return steps
