"""Reads a generator, or an encoder, out of one of our run folders: config.json and checkpoints/."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from models.artifacts import METADATA_FILE
from models.build import from_description
from models.generator import GeneratorModel, init_params
from models.mae import MAE, init_mae_params
from models.post_hoc import choices, name_of_width, read_average, tracked
from utils.checkpoint import Checkpoints
from utils.errors import UserError
from utils.paths import to_path

Folder = str | pathlib.Path
CONDITIONS = "conditions"  # the item of a checkpoint that holds those of the bank


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
        ema: a decay that the run keeps, such as "0.999"; "raw" for the parameters themselves; a
            width such as "0.12" of a run with snapshots (models/post_hoc.py); "" for the run's
            first decay.

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


def load_conditions(folder: Folder, metadata: dict[str, Any]) -> np.ndarray:
    """Returns the conditions that a run has learned from and keeps, float32 [S, E].

    metadata: of `describe_run`.
    """
    shape = metadata["dataset"]["conditions"]
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    array = jax.ShapeDtypeStruct(shape, np.float32, sharding=device)
    items = {CONDITIONS: {CONDITIONS: array}}
    tree, _, _ = _checkpoints(folder).restore(items, metadata["step"])
    conditions = np.asarray(tree[CONDITIONS][CONDITIONS])
    return conditions[np.isfinite(conditions).all(1)]  # NaN where the bank holds no sample


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
        average = _average(ema, metadata["ema"])
        if kind not in metadata or average is None:
            return []
        return _items(average, metadata["ema"])

    metadata, step = _checkpoints(folder).look(step, wanted)
    if kind not in metadata:
        (other,) = KINDS.keys() - {kind}
        raise UserError(
            f"{folder} is the run of {KINDS[other]}, but {KINDS[kind]} is needed here: give "
            "another folder"
        )
    kept = metadata["ema"]
    average = _average(ema, kept)
    if average is None:
        raise UserError(f"--ema {ema}: {folder} keeps {choices(kept)}")
    return metadata | {"step": step, "ema": average, "kept": kept}


def _average(ema: str, kept: list[str]) -> str | None:
    """Returns the name of the average that is meant, "raw" for parameters; None for no such one.

    kept: the names of those that the run keeps.
    """
    if not ema:
        return kept[0] if kept else "raw"
    if ema == "raw" or ema in kept:
        return ema
    return name_of_width(ema, kept)


def _items(average: str, kept: list[str]) -> list[str]:
    """Returns the items of a checkpoint that hold an average, or "raw" parameters.

    Where the run does not keep it, those are the averages that it is made of.
    """
    if average == "raw":
        return ["params"]
    names = [average] if average in kept else tracked(kept)
    return [f"ema_{name}" for name in names]


def _read_params(folder: Folder, init: Callable[[], Any], metadata: dict[str, Any]) -> Any:
    """Returns the parameters that the metadata mean, on the first device of this process.

    init: makes parameters of the right shapes; it is not run.
    """
    average, kept, step = metadata["ema"], metadata["kept"], metadata["step"]
    items = _items(average, kept)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def on_device(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)

    shapes = jax.tree.map(on_device, jax.eval_shape(init))
    if average not in ("raw", *kept):
        made = read_average(to_path(folder), average, step, items, shapes)
        return jax.device_put(made, device)
    tree, _, _ = _checkpoints(folder).restore({items[0]: shapes}, step)
    return tree[items[0]]


def _checkpoints(folder: Folder) -> Checkpoints:
    return Checkpoints(to_path(folder) / "checkpoints")
