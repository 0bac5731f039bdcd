"""The names of a generator's tensors in the published artifacts, and our own.

The release keeps each block's tensors apart, `blocks_0/..`, `blocks_1/..`; ours are stacked on a
first axis, as the blocks are a loop. Translated names are all that differs: every number is the
same.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from models.dit import DiT
from utils.errors import UserError

Names = list[tuple[str, str]]  # (published, ours)


def _dense(published: str, ours: str) -> Names:
    """Returns the names of a dense layer's two tensors."""
    return [(f"{published}/Dense_0/{leaf}", f"{ours}/{leaf}") for leaf in ("kernel", "bias")]


# "{i}" in a published name counts the tensors that we keep as one, stacked on the first axis.
_DIT, _BLOCK = "LightningDiT_0", "LightningDiT_0/blocks_{i}"
_CONDITIONING: Names = [
    ("Embed_0/embedding", "conditioning/class_embedding"),
    ("noise_embeds_{i}/embedding", "conditioning/style_codebooks"),
    *_dense("TimestepEmbedder_0/TorchLinear_0", "conditioning/alpha_in"),
    *_dense("TimestepEmbedder_0/TorchLinear_1", "conditioning/alpha_out"),
    ("RMSNorm_0/weight", "conditioning/alpha_norm/scale"),
]
_TOKENS: Names = [
    *_dense(f"{_DIT}/TorchLinear_0", "patch_embedding"),
    (f"{_DIT}/pos_embed", "positions"),
    *_dense(f"{_DIT}/TorchLinear_1", "context_projection"),
    (f"{_DIT}/cls_embed", "context_positions"),
]
_ATTENTION: Names = [
    *_dense(f"{_BLOCK}/TorchLinear_0", "blocks/modulation"),
    (f"{_BLOCK}/RMSNorm_0/weight", "blocks/norm1/scale"),
    *_dense(f"{_BLOCK}/Attention_0/TorchLinear_0", "blocks/attention/qkv"),
    (f"{_BLOCK}/Attention_0/q_norm/weight", "blocks/attention/q_norm/scale"),
    (f"{_BLOCK}/Attention_0/k_norm/weight", "blocks/attention/k_norm/scale"),
    *_dense(f"{_BLOCK}/Attention_0/TorchLinear_1", "blocks/attention/out"),
    (f"{_BLOCK}/RMSNorm_1/weight", "blocks/norm2/scale"),
]
_SWIGLU: Names = [
    *_dense(f"{_BLOCK}/SwiGLUFFN_0/TorchLinear_0", "blocks/mlp/gate"),
    *_dense(f"{_BLOCK}/SwiGLUFFN_0/TorchLinear_1", "blocks/mlp/up"),
    *_dense(f"{_BLOCK}/SwiGLUFFN_0/TorchLinear_2", "blocks/mlp/down"),
]
_GELU_MLP: Names = [
    *_dense(f"{_BLOCK}/StandardMLP_0/TorchLinear_0", "blocks/mlp/up"),
    *_dense(f"{_BLOCK}/StandardMLP_0/TorchLinear_1", "blocks/mlp/down"),
]
_OUTPUT: Names = [
    *_dense(f"{_DIT}/FinalLayer_0/TorchLinear_0", "output/modulation"),
    (f"{_DIT}/FinalLayer_0/RMSNorm_0/weight", "output/norm/scale"),
    *_dense(f"{_DIT}/FinalLayer_0/TorchLinear_1", "output/linear"),
]
# Our own, which the release does not have, under our names.
_REFINEMENT: Names = [
    (f"refinement/{layer}/{leaf}", f"refinement/{layer}/{leaf}")
    for layer in ("conv1", "conv2", "conv3")
    for leaf in ("kernel", "bias")
]


def generator_names(model: DiT) -> Names:
    """Returns (published, ours) for every tensor that a generator like `model` may have."""
    mlp = _SWIGLU if model.use_swiglu else _GELU_MLP
    return [*_CONDITIONING, *_TOKENS, *_ATTENTION, *mlp, *_OUTPUT, *_REFINEMENT]


def from_published(
    tensors: Mapping[str, np.ndarray],
    names: Names,
    shapes: Mapping[str, tuple[int, ...]],
    source: object,
) -> dict:
    """Returns our tree of parameters, made of published tensors.

    Args:
        tensors: by published name.
        names: (published, ours).
        shapes: those of our whole tree, by our names "a/b/c".
        source: the file, for messages.
    Raises:
        UserError: a tensor is missing, of another shape, or not of this model; it is named.
    """
    published_name = {ours: published for published, ours in names}
    used, leaves = set(), {}
    for name, shape in shapes.items():
        pattern = published_name[name]
        stacked = "{i}" in pattern
        shape_of_part = shape[1:] if stacked else shape
        parts = []
        for part_name in _part_names(pattern, shape[0] if stacked else 1):
            _check_tensor(tensors, part_name, shape_of_part, source)
            used.add(part_name)
            parts.append(tensors[part_name])
        leaves[name] = jnp.asarray(np.stack(parts) if stacked else parts[0])
    unused = sorted(set(tensors) - used)
    if unused:
        raise UserError(
            f"{source} has {len(unused)} tensors that the model_config does not ask for, the "
            f"first is {unused[0]}: check both files"
        )
    return traverse_util.unflatten_dict(leaves, sep="/")


def to_published(params: Mapping, names: Names) -> dict[str, np.ndarray]:
    """Returns published tensors by name; the inverse of `from_published`."""
    published_name = {ours: published for published, ours in names}
    leaves: dict[str, Any] = traverse_util.flatten_dict(dict(params), sep="/")
    tensors = {}
    for name, leaf in leaves.items():
        pattern, value = published_name[name], np.asarray(leaf)
        if "{i}" in pattern:
            tensors |= zip(_part_names(pattern, len(value)), value, strict=True)
        else:
            tensors[pattern] = value
    return tensors


def _part_names(pattern: str, count: int) -> Iterator[str]:
    return (pattern.format(i=i) for i in range(count))


def _check_tensor(
    tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], source: object
) -> None:
    if name not in tensors:
        raise UserError(
            f"{source} has no tensor {name}, which the model_config asks for: check both files"
        )
    if tensors[name].shape != shape:
        raise UserError(
            f"{source}: tensor {name} has shape {tensors[name].shape}, but the model_config asks "
            f"for {shape}: check both files"
        )
