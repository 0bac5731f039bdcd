"""Weights drawn from their own names, so that golden data needs no weight files; a tiny MAE."""

import zlib

import numpy as np
from flax.traverse_util import flatten_dict

from models.mae import MAE
from utils.weight_files.tensors import expected_shapes


def _normal(key, shape, seed):
    return np.random.Generator(
        np.random.PCG64(zlib.crc32(f"{seed}/{key}".encode()))
    ).standard_normal(shape)


def draw(key: str, shape: tuple[int, ...], seed: int, gain: float) -> np.ndarray:
    """The value of the tensor `key`, layout [out, in, ...], float32."""
    z = _normal(key, shape, seed)
    if key.endswith("num_batches_tracked"):
        value = np.zeros(shape)
    elif key.endswith("running_var"):
        value = 0.5 + np.abs(z)
    elif len(shape) >= 2:
        value = gain * z / np.sqrt(np.prod(shape[1:]))
    elif key.endswith(("weight", "gamma")) or "lambda" in key or "scale" in key:
        value = 1 + 0.1 * z
    else:
        value = 0.05 * z
    return np.asarray(value, np.float32)


def draw_flax(key: str, shape: tuple[int, ...], seed: int, gain: float = 1.4) -> np.ndarray:
    """The same for the MAE folders: Flax layout [..., in, out], `key` a path of spec.json."""
    z = _normal(key, shape, seed)
    if key.endswith("scale"):
        value = 1 + 0.1 * z
    elif len(shape) == 1:
        value = 0.05 * z
    else:
        value = gain * z / np.sqrt(np.prod(shape[:-1]))
    return np.asarray(value, np.float32)


def torch_tensors(model, image_size, seed=0):
    """Returns weights for `model` under PyTorch's names and layout, which `match` undoes."""
    shapes = expected_shapes(model, (1, image_size, image_size, 3))
    tensors = {}
    for path, leaf in flatten_dict(shapes).items():
        name = ".".join(path).replace(".kernel", ".weight").replace(".scale", ".weight")
        stacked = "*" in name
        shape = leaf.shape[1:] if stacked else leaf.shape
        if path[-1] == "kernel":
            shape = (shape[-1], shape[-2], *shape[:-2])
        for layer in range(leaf.shape[0] if stacked else 1):
            key = name.replace("*", str(layer))
            tensors[key] = draw(key, shape, seed, 1.0)
    return tensors


def tiny_mae(**changes) -> MAE:
    """An MAE of four blocks for small grey images. changes: other fields."""
    fields = {
        "in_channels": 1,
        "base_channels": 8,
        "patch_size": 2,
        "layers": (1, 1, 1, 1),
        "input_patch_size": 1,
        "dropout_prob": 0.0,
        "use_bf16": False,
        "num_classes": 10,
    }
    return MAE(**fields | changes)
