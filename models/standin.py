"""Encoders without their weights: the shapes, or random numbers in their place, for plans and benchmarks."""

import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import convnext, dinov2, encoders, resnet
from models.mae import MAE
from utils.errors import UserError
from utils.weight_files.tensors import expected_shapes

MAES = {  # the published configurations (tests/golden/official_specs)
    "mae_latent_ablation_256": {"in_channels": 4, "base_channels": 256, "input_patch_size": 1},
    "mae_latent_640": {"in_channels": 4, "base_channels": 640, "input_patch_size": 1},
    "mae_pixel_640": {"in_channels": 3, "base_channels": 640, "input_patch_size": 8},
}
PUBLISHED = {
    "patch_size": 2,
    "layers": (3, 4, 6, 3),
    "dropout_prob": 0.0,
    "use_bf16": True,
    "num_classes": 1000,
}
CONVNEXTS = {
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
}
DINOV2S = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}


def mae(source: str, bf16: bool | None) -> encoders.Part:
    folder = pathlib.Path(source).expanduser()
    name = source.removeprefix("hf://")
    if name in MAES:
        model = MAE(**PUBLISHED | MAES[name])
    elif source and (file := folder / "metadata.json").is_file():
        model = encoders.mae_from_config(json.loads(file.read_text())["model_config"], str(file))
    else:
        raise UserError(
            f"--encoder.path {source or '(empty)'}: the size of this MAE is not known; give a folder with its metadata.json, or hf:// and one of {', '.join(MAES)}"
        )
    model = model if bf16 is None else model.clone(use_bf16=bf16)
    used = {
        "encoder": encoders.mae_shapes(model)["encoder"]
    }  # the decoder and the classifier are not
    maps = lambda params, x: model.apply({"params": params}, x, method="maps")
    return encoders.Part(
        maps, used, model.in_channels, None, ("*",), ("map", "mean", "std"), (2, 4)
    )


def known(sizes: dict, name: str, source: str):
    """The size that `source` names: a key, the repository of one, or nothing for the first that is published."""
    source = source or next(iter(encoders.HUB[name]))
    repositories = {repository: key for key, (repository, _) in encoders.HUB[name].items()}
    key = repositories.get(source.removeprefix("hf://"), source)
    if key.removesuffix("_registers") not in sizes:
        raise UserError(
            f"--encoder.path {source}: the size of this {name} is not known; give one of {', '.join(sizes)}"
        )
    return key, sizes[key.removesuffix("_registers")]


def convnextv2(source: str, bf16: bool | None) -> encoders.Part:
    model = convnext.ConvNextV2(
        *known(CONVNEXTS, "convnextv2", source)[1], encoders.compute_type(bf16)
    )
    return encoders.imagenet_part(
        model,
        expected_shapes(model, (1, 32, 32, 3)),
        ("stage?", "pooled", "!stage1"),
        ("map", "mean", "std"),
        (),
        encoders.standardise_maps,
    )


def vit(source: str, bf16: bool | None) -> encoders.Part:
    key, (width, layers, heads) = known(DINOV2S, "dinov2", source)
    registers = 4 if key.endswith("_registers") else 0
    model = dinov2.Dinov2(
        width,
        layers,
        heads,
        patch_size=14,
        grid=37,
        registers=registers,
        dtype=encoders.compute_type(bf16),
    )
    return encoders.imagenet_part(
        model, expected_shapes(model, (1, 28, 28, 3)), ("cls", "patches"), ("mean", "std"), ()
    )


def residual(name: str, source: str, bf16: bool | None) -> encoders.Part:
    model = resnet.RESNETS[name].clone(dtype=encoders.compute_type(bf16))
    return encoders.imagenet_part(
        model, expected_shapes(model, (1, 32, 32, 3)), ("layer*",), ("map", "mean", "std"), (2, 4)
    )


STAND_INS = {"mae": mae, "convnextv2": convnextv2, "dinov2": vit} | {
    name: functools.partial(residual, name) for name in resnet.RESNETS
}


def load_shapes(where: str, **options):
    """As `models.encoders.load_encoder`, with ShapeDtypeStructs for parameters: nothing is read, fetched or computed. Raises UserError where the size is not known."""
    loaders = {
        name: lambda source, bf16, sha256, make=make: make(source, bf16)
        for name, make in STAND_INS.items()
    }
    return encoders.load_encoder(where, loaders=encoders.ENCODERS | loaders, **options)


def load_random(where: str, **options):
    """As `load_encoder`, with random weights of the usual scale on the first device: the time and memory of a step do not depend on their values."""
    encode, shapes, metadata = load_shapes(where, **options)

    def draw(path, a):
        name = jax.tree_util.keystr(path).lower()
        if len(a.shape) < 2:
            return (jnp.zeros if name.endswith(("bias']", "mean']")) else jnp.ones)(
                a.shape, a.dtype
            )
        return (
            jax.random.normal(jax.random.key(0), a.shape, a.dtype)
            * float(np.prod(a.shape[:-1])) ** -0.5
        )

    params: Any = jax.tree_util.tree_map_with_path(draw, shapes)
    return encode, params, metadata
