"""The paper's masked autoencoder as a feature encoder: its weights, read and written.

The network is in `models/mae.py`. The weights are those of a run of pretrain_mae.py, or an artifact
in the published format (`models/artifacts.py`).
"""

import pathlib
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array

from models.artifacts import (
    METADATA_FILE,
    find_artifact,
    read_artifact_tensors,
    read_metadata,
    write_artifact,
)
from models.encoders.contract import FrozenEncoder
from models.mae import MAE, mae_fields, mae_shapes
from models.runs import is_run, load_mae_run
from utils.errors import UserError
from utils.weight_files.tensors import match

# What the published encoders are, by their names on the hub. tests/golden/official_specs has the
# tensors of each; mae_latent_256 is the encoder of the ablation.
_PUBLISHED_ALIKE = {
    "patch_size": 2,
    "layers": (3, 4, 6, 3),
    "dropout_prob": 0.0,
    "use_bf16": True,
    "num_classes": 1000,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "mae_latent_256": _PUBLISHED_ALIKE
    | {"in_channels": 4, "base_channels": 256, "input_patch_size": 1},
    "mae_latent_640": _PUBLISHED_ALIKE
    | {"in_channels": 4, "base_channels": 640, "input_patch_size": 1},
    "mae_pixel_640": _PUBLISHED_ALIKE
    | {"in_channels": 3, "base_channels": 640, "input_patch_size": 8},
}


def load(name: str, source: str, bf16: bool | None, sha256: str) -> FrozenEncoder:
    if not source:
        raise UserError(
            "the encoder mae has no weights of its own: give --encoder.path, or as a library "
            "mae:FOLDER"
        )
    if is_run(source):
        model, params, metadata = load_mae_run(source)
    else:
        folder = find_artifact(source, "mae")
        metadata = read_metadata(folder, "mae")
        model = mae_from_config(metadata["model_config"], f"{folder}/{METADATA_FILE}")
        tensors = read_artifact_tensors(folder)
        tensors = {name.replace("/", "."): value for name, value in tensors.items()}
        params = match(tensors, mae_shapes(model), str(folder))
    return _frozen(model, params, bf16, metadata)


def load_shapes(name: str, source: str, bf16: bool | None) -> FrozenEncoder:
    """As `load`; the decoder and the classifier, which features do not need, are left out."""
    file = pathlib.Path(source).expanduser() / METADATA_FILE
    published = source.removeprefix("hf://")
    if published in PUBLISHED:
        model = MAE(**PUBLISHED[published])
    elif source and file.is_file():
        model = mae_from_config(read_metadata(file.parent, "mae")["model_config"], str(file))
    else:
        raise UserError(
            f"--encoder.path {source or '(empty)'}: the size of this MAE is not known; give a "
            f"folder with its {METADATA_FILE}, or hf:// and one of {', '.join(PUBLISHED)}"
        )
    return _frozen(model, used_params(mae_shapes(model)), bf16, {})


def _frozen(model: MAE, params: Any, bf16: bool | None, metadata: dict) -> FrozenEncoder:
    if bf16 is not None:
        model = model.clone(use_bf16=bf16)

    def maps(params: Any, images: Array) -> dict[str, Array]:
        found: Any = model.apply({"params": params}, images, method="maps")
        return found

    return FrozenEncoder(
        maps=maps,
        params=params,
        channels=model.in_channels,
        image_size=None,
        names=("*",),
        statistics=("map", "mean", "std"),
        patch_sizes=(2, 4),
        metadata=metadata,
    )


def used_params(params: Any) -> Any:
    """Returns the parameters that features depend on, of one encoder or of several by name.

    Half of an MAE is its decoder, which need not be on every device.
    """
    if {"encoder", "decoder", "fc"} <= set(params):
        return {"encoder": params["encoder"]}
    used = dict(params)
    if "mae" in used:
        used["mae"] = used_params(used["mae"])
    return used


# ---- the published format ----


def save_mae(folder: str | pathlib.Path, model: MAE, params: Any, metadata: dict) -> None:
    """Writes an MAE in the published format.

    `load_encoder(folder)` and the paper's own code read it.

    Args:
        folder: made if missing; the two files in it are replaced.
        metadata: anything for JSON, such as `step` and `ema_decay`.
    """
    config = {name: getattr(model, name) for name in mae_fields()}
    leaves: dict[str, Any] = flatten_dict(params, sep="/")
    tensors = {name: np.asarray(value) for name, value in leaves.items()}
    write_artifact(folder, "mae", tensors, config, metadata)


def mae_from_config(config: dict[str, Any], source: str) -> MAE:
    """Returns the MAE of a published `model_config`, which is read from the file `source`."""
    fields = mae_fields()
    if set(config) != fields:
        lacking, unknown = sorted(fields - set(config)), sorted(set(config) - fields)
        raise UserError(
            f"{source}: model_config lacks {lacking} and has the unknown {unknown}: it is not the "
            "configuration of a published MAE"
        )
    values: dict[str, Any] = config | {"layers": tuple(config["layers"])}
    return MAE(**values)
