"""Reads a generator, or an encoder, out of one of our run folders: config.json and checkpoints/."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax

from models.artifacts import METADATA_FILE
from models.build import from_description
from models.generator import GeneratorModel, init_params
from models.mae import MAE, init_mae_params
from utils.checkpoint import Checkpoints
from utils.errors import UserError
from utils.paths import to_path

Folder = str | pathlib.Path


def is_run(source: Folder) -> bool:
    """Returns whether `source` is the folder of a run, not of a published artifact.

    An artifact for the hub has a config.json too, but no checkpoints.
    """
    if str(source).startswith("hf://"):
        return False
    folder = to_path(source)
    is_artifact = (folder / METADATA_FILE).is_file() and not (folder / "checkpoints").is_dir()
    return (folder / "config.json").is_file() and not is_artifact


# ---- generators ----


def load_run(
    folder: Folder, step: int | None = None, ema: str = ""
) -> tuple[GeneratorModel, Any, dict[str, Any]]:
    """Reads the generator of a run: (model, params, metadata).

    Args:
        folder: of the run.
        step: of the checkpoint; None for the newest.
        ema: a decay that the run keeps, such as "0.999"; "raw" for the parameters themselves; ""
            for the run's first decay.

    Returns:
        The model, its parameters, and what the checkpoint says of itself, with `step` and `ema`
        added.

    Raises:
        UserError: the run of an encoder, or an average that it does not keep.
    """
    model, metadata = describe_run(folder, step, ema)
    params = _read_params(folder, lambda: init_params(model, jax.random.key(0)), metadata)
    return model, params, metadata


def describe_run(
    folder: Folder, step: int | None = None, ema: str = ""
) -> tuple[GeneratorModel, dict[str, Any]]:
    """Returns the model and the metadata of `load_run`, without reading parameters."""
    metadata = _read_metadata(folder, "generator", step, ema)
    return from_description(metadata["generator"]), metadata


# ---- encoders ----


def load_mae_run(
    folder: Folder, step: int | None = None, ema: str = ""
) -> tuple[MAE, Any, dict[str, Any]]:
    """Reads the masked autoencoder of a run of pretrain_mae.py, as `load_run` does."""
    metadata = _read_metadata(folder, "mae", step, ema)
    facts: dict[str, Any] = metadata["mae"] | {"layers": tuple(metadata["mae"]["layers"])}
    model = MAE(**facts)
    return model, _read_params(folder, lambda: init_mae_params(model), metadata), metadata


# ---- what both have in common ----

KINDS = {"generator": "a generator", "mae": "an encoder"}


def _read_metadata(folder: Folder, kind: str, step: int | None, ema: str) -> dict[str, Any]:
    """Returns what a checkpoint says of itself, with `step` and the average that is meant.

    kind: a key of KINDS, what the run must be of.
    """

    def wanted(metadata: dict[str, Any]) -> list[str]:
        decays = metadata["ema"]
        average = ema or _first(decays)
        is_there = kind in metadata and average in ("raw", *decays)
        return [_item(average)] if is_there else []

    metadata, step = _checkpoints(folder).look(step, wanted)
    if kind not in metadata:
        (other,) = KINDS.keys() - {kind}
        raise UserError(
            f"{folder} is the run of {KINDS[other]}, but {KINDS[kind]} is needed here: give "
            "another folder"
        )
    decays = metadata["ema"]
    ema = ema or _first(decays)
    if ema != "raw" and ema not in decays:
        raise UserError(
            f"--ema {ema}: {folder} keeps {', '.join(decays)} and raw; choose one of them"
        )
    return metadata | {"step": step, "ema": ema}


def _first(decays: list[str]) -> str:
    """Returns the average that is meant where none is named."""
    return decays[0] if decays else "raw"


def _item(ema: str) -> str:
    """Returns the item of a checkpoint that holds an average, or "raw" parameters."""
    return "params" if ema == "raw" else f"ema_{ema}"


def _read_params(folder: Folder, init: Callable[[], Any], metadata: dict[str, Any]) -> Any:
    """Returns the parameters that the metadata mean, on the first device of this process.

    init: makes parameters of the right shapes; it is not run.
    """
    item = _item(metadata["ema"])
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def on_device(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)

    shapes = jax.tree.map(on_device, jax.eval_shape(init))
    tree, _, _ = _checkpoints(folder).restore({item: shapes}, metadata["step"])
    return tree[item]


def _checkpoints(folder: Folder) -> Checkpoints:
    return Checkpoints(to_path(folder) / "checkpoints")
