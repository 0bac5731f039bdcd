"""Weights on disk: reads generators and encoders, and writes generators.

The file format is that of `models/artifacts.py`; our own run folders are read by
`models/runs.py`.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util

from models import encoders
from models.artifacts import (
    METADATA_FILE,
    PARAMS_FILE,
    find_artifact,
    read_artifact_tensors,
    read_metadata,
    write_artifact,
)
from models.dit import DiT
from models.generator import GeneratorModel, init_params
from models.published_names import from_published, generator_names, to_published
from models.runs import describe_run, is_run, load_run
from utils.errors import UserError

# Fields that say how to start or to run a model, not what it is: artifacts do not hold them.
RUNTIME_FIELDS = ("zero_init_output", "attention", "unroll")


def load_generator(where: str | pathlib.Path) -> tuple[GeneratorModel, dict, dict]:
    """Reads a generator: (model, params, metadata).

    Args:
        where: one of our run folders, of which the newest checkpoint and the first EMA are taken
            (`models.runs.load_run` takes others); a folder in the published format; or
            `hf://NAME`.

    Returns:
        The model, its parameters under our names and in the file's dtypes, and what the run or
        the artifact says of itself.

    Raises:
        UserError: something is missing, broken, or of another kind or shape.
    """
    if is_run(where):
        return load_run(where)
    folder = find_artifact(where, "gen")
    metadata = read_metadata(folder, "gen")
    model = _dit_from_config(metadata["model_config"], folder / METADATA_FILE)
    tensors, names = read_artifact_tensors(folder), generator_names(model)
    params = from_published(tensors, names, generator_shapes(model), folder / PARAMS_FILE)
    return model, params, metadata


def describe_generator(where: str | pathlib.Path) -> GeneratorModel:
    """Returns the model of `load_generator`, without reading parameters."""
    if is_run(where):
        return describe_run(where)[0]
    folder = find_artifact(where, "gen")
    metadata = read_metadata(folder, "gen")
    return _dit_from_config(metadata["model_config"], folder / METADATA_FILE)


def load_encoder(where: str) -> tuple[encoders.Encode, Any, dict]:
    """Reads a feature encoder: (encode, params, metadata).

    encode(params, images) -> {name: [B, T, D]}. See `models.encoders`, which takes options too.
    """
    return encoders.load_encoder(where)


def save_generator(
    folder: str | pathlib.Path, model: GeneratorModel, params: Mapping, metadata: Mapping
) -> None:
    """Writes a generator in the published format.

    `load_generator` reads it, and the paper's own code where the model has no field that is ours
    alone, such as `refine_channels`.

    Args:
        folder: made if missing; the two files in it are replaced.
        model: a DiT.
        params: under our names.
        metadata: anything for JSON, such as `step` and `ema_decay`. `format`, `kind`, `backend`
            and `model_config` are filled in.

    Raises:
        UserError: `params` are not those of `model`, or `model` is no DiT, or takes conditions.
    """
    if not isinstance(model, DiT):
        raise UserError(
            f"the published format holds DiT generators, not {type(model).__name__}: keep its "
            "run folder"
        )
    if model.condition_width:
        raise UserError(
            "the published format has no place for the conditions of this generator "
            "(--data.condition_column): keep its run folder"
        )
    shapes = _shapes_by_name(dict(params))
    for name, shape in generator_shapes(model).items():
        if shapes.pop(name, None) != shape:
            raise UserError(
                f"params do not belong to this model: it expects {name} with shape {shape}"
            )
    if shapes:
        raise UserError(f"params do not belong to this model: it has no {min(shapes)}")
    tensors = to_published(params, generator_names(model))
    write_artifact(folder, "gen", tensors, _config_from_dit(model), metadata)


def generator_shapes(model: DiT) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter by our name "a/b/c"; nothing is computed."""
    model = model.clone(attention="xla")  # shapes are the same, and known without a GPU
    return _shapes_by_name(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))


def _shapes_by_name(tree: dict) -> dict[str, tuple[int, ...]]:
    leaves: dict[str, Any] = traverse_util.flatten_dict(tree, sep="/")
    return {name: leaf.shape for name, leaf in leaves.items()}


# ---- a DiT and its model_config ----


def _dit_fields() -> dict[str, dataclasses.Field]:
    """Returns the fields of a DiT by name, without those that every Flax module has."""
    fields = dataclasses.fields(DiT)  # ty: ignore[invalid-argument-type]
    return {field.name: field for field in fields if field.name not in ("parent", "name")}


def _dit_from_config(model_config: Mapping[str, Any], source: pathlib.Path) -> DiT:
    """Returns the DiT of a published `model_config`, which is read from the file `source`."""
    config: dict[str, Any] = {}
    for key, value in model_config.items():
        config["remat" if key == "use_remat" else key] = value
    unknown, missing = sorted(set(config) - set(_dit_fields())), []
    for name, field in sorted(_dit_fields().items()):
        if field.default is dataclasses.MISSING and name not in config:
            missing.append(name)
    if unknown or missing:
        raise UserError(
            f"{source}: model_config does not describe a DiT "
            f"(missing: {', '.join(missing) or 'none'}; "
            f"unknown: {', '.join(unknown) or 'none'}): correct it"
        )
    return DiT(**config)


def _config_from_dit(model: DiT) -> dict[str, Any]:
    """Returns the `model_config` of a DiT.

    Fields with a default are written only where they differ from it: other readers may not know
    them.
    """
    config = {}
    for name, field in _dit_fields().items():
        value = getattr(model, name)
        if name not in RUNTIME_FIELDS and value != field.default:
            config["use_remat" if name == "remat" else name] = value
    return config
