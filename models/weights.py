"""Weights on disk: the published artifact format, its parameter names and ours.

An artifact is a folder with `metadata.json` (kind, model_config, ...) and `ema_params.msgpack` (the parameter
tree, by `flax.serialization`). https://huggingface.co/Goodeat/drifting holds the paper's:
`models/gen/jax/<name>/` for generators and `models/mae/jax/<name>/` for encoders.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization, traverse_util

from models.dit import DiT, init_params
from models.runs import is_run, load_run
from utils.errors import UserError
from utils.weight_files import hub

HUB_REPO = "Goodeat/drifting"
METADATA, PARAMS = "metadata.json", "ema_params.msgpack"


def _linear(published: str, ours: str) -> list[tuple[str, str]]:
    return [(f"{published}/Dense_0/{leaf}", f"{ours}/{leaf}") for leaf in ("kernel", "bias")]


# (published name, our name). `{i}` counts tensors that we keep as one, stacked on axis 0.
GENERATOR_NAMES = [
    ("Embed_0/embedding", "conditioning/class_embedding"),
    ("noise_embeds_{i}/embedding", "conditioning/style_codebooks"),
    *_linear("TimestepEmbedder_0/TorchLinear_0", "conditioning/alpha_in"),
    *_linear("TimestepEmbedder_0/TorchLinear_1", "conditioning/alpha_out"),
    ("RMSNorm_0/weight", "conditioning/alpha_norm/scale"),
    *_linear("LightningDiT_0/TorchLinear_0", "patch_embedding"),
    ("LightningDiT_0/pos_embed", "positions"),
    *_linear("LightningDiT_0/TorchLinear_1", "context_projection"),
    ("LightningDiT_0/cls_embed", "context_positions"),
    *_linear("LightningDiT_0/blocks_{i}/TorchLinear_0", "blocks/modulation"),
    ("LightningDiT_0/blocks_{i}/RMSNorm_0/weight", "blocks/norm1/scale"),
    *_linear("LightningDiT_0/blocks_{i}/Attention_0/TorchLinear_0", "blocks/attention/qkv"),
    ("LightningDiT_0/blocks_{i}/Attention_0/q_norm/weight", "blocks/attention/q_norm/scale"),
    ("LightningDiT_0/blocks_{i}/Attention_0/k_norm/weight", "blocks/attention/k_norm/scale"),
    *_linear("LightningDiT_0/blocks_{i}/Attention_0/TorchLinear_1", "blocks/attention/out"),
    ("LightningDiT_0/blocks_{i}/RMSNorm_1/weight", "blocks/norm2/scale"),
    *_linear("LightningDiT_0/blocks_{i}/SwiGLUFFN_0/TorchLinear_0", "blocks/mlp/gate"),
    *_linear("LightningDiT_0/blocks_{i}/SwiGLUFFN_0/TorchLinear_1", "blocks/mlp/up"),
    *_linear("LightningDiT_0/blocks_{i}/SwiGLUFFN_0/TorchLinear_2", "blocks/mlp/down"),
    *_linear("LightningDiT_0/FinalLayer_0/TorchLinear_0", "output/modulation"),
    ("LightningDiT_0/FinalLayer_0/RMSNorm_0/weight", "output/norm/scale"),
    *_linear("LightningDiT_0/FinalLayer_0/TorchLinear_1", "output/linear"),
]

# The same with use_swiglu=False, where the MLP has two layers.
GELU_GENERATOR_NAMES = [pair for pair in GENERATOR_NAMES if "SwiGLUFFN_0" not in pair[0]] + [
    *_linear("LightningDiT_0/blocks_{i}/StandardMLP_0/TorchLinear_0", "blocks/mlp/up"),
    *_linear("LightningDiT_0/blocks_{i}/StandardMLP_0/TorchLinear_1", "blocks/mlp/down"),
]


def generator_names(model: DiT) -> list[tuple[str, str]]:
    """(published, ours) for every tensor that a generator like `model` may have."""
    return GENERATOR_NAMES if model.use_swiglu else GELU_GENERATOR_NAMES


# Generators.


def load_generator(where: str | pathlib.Path) -> tuple[nn.Module, dict, dict]:
    """Reads a generator: (model, params, metadata).

    where: one of our run folders (its newest checkpoint and first EMA; `models.runs.load_run` takes others), a folder in
    the published format, or `hf://<name>`. `params` has our names and the file's dtypes.
    Raises UserError when something is missing, broken, or of another kind or shape.
    """
    if is_run(where):
        return load_run(where)
    folder = find_artifact(where, "gen")
    metadata = read_metadata(folder, "gen")
    model = _dit_from_config(metadata["model_config"], folder / METADATA)
    params = from_published(
        read_tensors(folder), generator_names(model), expected_shapes(model), folder / PARAMS
    )
    return model, params, metadata


def load_encoder(where: str):
    """Reads a feature encoder: (encode, params, metadata), with encode(params, images) -> {name: [B,T,D]}. See `models.encoders`."""
    from models import encoders

    return encoders.load_encoder(where)


def save_generator(
    folder: str | pathlib.Path, model: nn.Module, params: Mapping, metadata: Mapping
) -> None:
    """Writes a generator in the published format, for `load_generator` and for the paper's own code.

    folder: made if missing; the two files in it are replaced. params: our names. metadata: anything for JSON,
    for example `step` and `ema_decay`; `format`, `kind`, `backend` and `model_config` are filled in.
    Raises UserError when `params` are not those of `model`, or when `model` is no DiT.
    """
    if not isinstance(model, DiT):
        raise UserError(
            f"the published format holds DiT generators, not {type(model).__name__}: keep its run folder"
        )
    shapes = {
        name: leaf.shape for name, leaf in traverse_util.flatten_dict(dict(params), sep="/").items()
    }
    for name, shape in expected_shapes(model).items():
        if shapes.pop(name, None) != shape:
            raise UserError(
                f"params do not belong to this model: it expects {name} with shape {shape}"
            )
    if shapes:
        raise UserError(f"params do not belong to this model: it has no {min(shapes)}")
    tensors = to_published(params, generator_names(model))
    write_artifact(folder, "gen", tensors, _config_from_dit(model), metadata)


# Fields that say how to start or to run a model, not what it is: artifacts do not hold them.
RUNTIME_FIELDS = ("zero_init_output", "attention", "unroll")


def _dit_from_config(config: Mapping, source: pathlib.Path) -> DiT:
    config = {"remat" if key == "use_remat" else key: value for key, value in config.items()}
    fields = {f.name: f for f in dataclasses.fields(DiT) if f.name not in ("parent", "name")}
    unknown = sorted(set(config) - set(fields))
    missing = sorted(
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and name not in config
    )
    if unknown or missing:
        raise UserError(
            f"{source}: model_config does not describe a DiT (missing: {', '.join(missing) or 'none'}; "
            f"unknown: {', '.join(unknown) or 'none'}): correct it"
        )
    return DiT(**config)


def _config_from_dit(model: DiT) -> dict:
    fields = {
        f.name: f
        for f in dataclasses.fields(DiT)
        if f.name not in ("parent", "name", *RUNTIME_FIELDS)
    }
    # Fields with a default are written only where they differ from it: other readers may not know them.
    config = {
        name: getattr(model, name)
        for name, f in fields.items()
        if getattr(model, name) != f.default
    }
    return {"use_remat" if key == "remat" else key: value for key, value in config.items()}


# Files. An encoder's loader uses the same functions with kind "mae".


def find_artifact(where: str | pathlib.Path, kind: str) -> pathlib.Path:
    """The folder that `where` means: itself, or the local copy of `hf://<name>`. kind: "gen" or "mae"."""
    if not str(where).startswith("hf://"):
        folder = pathlib.Path(where).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"{where} is not a folder: give a folder with {METADATA} and {PARAMS}, or hf://<name>"
            )
        return folder
    import huggingface_hub

    inside = f"models/{kind}/jax/{str(where).removeprefix('hf://')}"
    try:
        with hub.one_voice():
            snapshot = huggingface_hub.snapshot_download(HUB_REPO, allow_patterns=[f"{inside}/*"])
    except Exception as error:  # the hub's client raises the errors of several network libraries
        raise UserError(
            f"{where}: no answer from the Hugging Face hub ({type(error).__name__}). Offline, copy the "
            f"folder {inside} of https://huggingface.co/{HUB_REPO} from another machine and give its path"
        ) from error
    folder = pathlib.Path(snapshot) / inside
    if not folder.is_dir():
        raise UserError(
            f"{where}: https://huggingface.co/{HUB_REPO} has no folder {inside}: look there for the names"
        )
    return folder


def read_metadata(folder: pathlib.Path, kind: str) -> dict:
    """The artifact's metadata, checked to be of `kind` ("gen" or "mae") and to hold a model_config."""
    file = folder / METADATA
    if not file.is_file():
        raise UserError(
            f"{folder} has no {METADATA}: a published artifact holds {METADATA} and {PARAMS}"
        )
    try:
        metadata = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}): copy the file again") from error
    if not isinstance(metadata, dict) or not isinstance(metadata.get("model_config"), dict):
        raise UserError(f"{file} has no model_config: copy the file again")
    if metadata.get("kind") != kind:
        names = {"gen": "a generator", "mae": "an encoder"}
        given = names.get(metadata.get("kind"), f"of kind {metadata.get('kind')!r}")
        raise UserError(
            f"{folder} is {given}, but {names[kind]} is needed here: give another folder"
        )
    return metadata


def read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The artifact's tensors by their published names, `a/b/c`."""
    file = folder / PARAMS
    if not file.is_file():
        raise UserError(
            f"{folder} has no {PARAMS}: a published artifact holds {METADATA} and {PARAMS}"
        )
    try:
        tree = serialization.msgpack_restore(file.read_bytes())
        return traverse_util.flatten_dict(tree, sep="/")
    except Exception as error:  # msgpack and flax raise a dozen types for broken bytes
        raise UserError(
            f"{file} is broken or cut short ({type(error).__name__}): copy the file again"
        ) from error


def write_artifact(
    folder: str | pathlib.Path,
    kind: str,
    tensors: Mapping[str, np.ndarray],
    model_config: Mapping,
    metadata: Mapping,
) -> None:
    """Writes `tensors` (by published name) and the metadata as an artifact of `kind`."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tree = traverse_util.unflatten_dict(dict(sorted(tensors.items())), sep="/")
    (folder / PARAMS).write_bytes(serialization.msgpack_serialize(tree))
    facts = {
        "format": "flax.msgpack",
        "kind": kind,
        "backend": "jax",
        "model_config": dict(model_config),
    }
    (folder / METADATA).write_text(
        json.dumps({"path": PARAMS, **metadata, **facts}, indent=2) + "\n"
    )


# Names.


def expected_shapes(model: DiT) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of `model` by our name `a/b/c`; nothing is computed."""
    model = model.clone(attention="xla")  # shapes are the same, and known without a GPU
    tree = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    return {name: leaf.shape for name, leaf in traverse_util.flatten_dict(tree, sep="/").items()}


def from_published(
    tensors: Mapping[str, np.ndarray],
    names: list[tuple[str, str]],
    shapes: Mapping[str, tuple[int, ...]],
    source: object,
) -> dict:
    """Our parameter tree from published tensors.

    tensors: by published name. names: (published, ours). shapes: of our whole tree, by our name.
    source: the file, for messages.
    Raises UserError naming the tensor when one is missing, of another shape, or not of this model.
    """
    published_name = {ours: published for published, ours in names}
    used, flat = set(), {}
    for name, shape in shapes.items():
        pattern = published_name[name]
        stacked = "{i}" in pattern
        parts = []
        for i in range(shape[0]) if stacked else [0]:
            part = pattern.format(i=i)
            if part not in tensors:
                raise UserError(
                    f"{source} has no tensor {part}, which the model_config asks for: check both files"
                )
            expected = shape[1:] if stacked else shape
            if tensors[part].shape != expected:
                raise UserError(
                    f"{source}: tensor {part} has shape {tensors[part].shape}, but the model_config asks for "
                    f"{expected}: check both files"
                )
            used.add(part)
            parts.append(tensors[part])
        flat[name] = jnp.asarray(np.stack(parts) if stacked else parts[0])
    unused = sorted(set(tensors) - used)
    if unused:
        raise UserError(
            f"{source} has {len(unused)} tensors that the model_config does not ask for, the first is "
            f"{unused[0]}: check both files"
        )
    return traverse_util.unflatten_dict(flat, sep="/")


def to_published(params: Mapping, names: list[tuple[str, str]]) -> dict[str, np.ndarray]:
    """Published tensors by name from our parameter tree; the inverse of `from_published`."""
    published_name = {ours: published for published, ours in names}
    tensors = {}
    for name, value in traverse_util.flatten_dict(dict(params), sep="/").items():
        pattern, value = published_name[name], np.asarray(value)
        if "{i}" in pattern:
            tensors |= {pattern.format(i=i): part for i, part in enumerate(value)}
        else:
            tensors[pattern] = value
    return tensors
