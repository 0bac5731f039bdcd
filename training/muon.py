"""Muon for the weight matrices of hidden layers, AdamW for every other parameter.

Muon (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024) moves a matrix
W [in, out] along its momentum M after that was made orthogonal: with M = U S V^T it takes about
U V^T, found by five Newton-Schulz iterations. All directions of the matrix are then learned at one
speed, not only the few that dominate the gradient. As in arXiv 2502.16982, the update is scaled by
0.2 sqrt(max(in, out)), which gives it the root mean square of an update of AdamW, so that learning
rate and weight decay of AdamW serve both.

Which arrays are matrices, and of what shape:

    kernels of dense layers      [in, out]
    the same in stacked blocks   [depth, in, out]               one matrix for each block
    queries, keys and values     [depth, in, 3 out]             three matrices for each block
    kernels of convolutions      [height, width, in, out]       one of [height width in, out]

The first and the last layer, embeddings, positions, norms and biases are AdamW's: what goes in and
out of a network is no map between hidden vectors, as the authors of Muon say. What brings alpha or
a condition in is a matrix like the others here.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from einops import rearrange
from optax.contrib import MuonDimensionNumbers

MOMENTUM = 0.95  # of Muon's authors
CONSISTENT_RMS = 0.2  # of an update of AdamW, measured in arXiv 2502.16982, 2.2
# The first and the last of DiT, MLP and MAE, as their names end. All three convolutions come after
# the last layer of a DiT, and their small steps are made for Adam (models/refinement.py).
OUTER_LAYERS = (
    "patch_embedding",
    "noise_embedding",
    "output/linear",
    "encoder/conv1",
    "decoder/head",
    "refinement/conv1",
    "refinement/conv2",
    "refinement/conv3",
    "fc",
)


def muon(
    schedule: optax.Schedule, adamw: optax.GradientTransformation, weight_decay: float
) -> optax.GradientTransformation:
    """Returns Muon for the matrices of hidden layers, with `adamw` for all other parameters.

    Args:
        schedule: the learning rate by the steps taken so far.
        adamw: the transformation for the rest.
        weight_decay: decoupled, multiplied by the learning rate as that of AdamW is.
    """
    of_matrices = optax.contrib.muon(
        schedule,
        beta=MOMENTUM,
        weight_decay=weight_decay,
        muon_weight_dimension_numbers=matrix_axes,
        consistent_rms=CONSISTENT_RMS,
    )
    both = optax.partition({"muon": of_matrices, "adamw": adamw}, optimizer_of_each)
    return on_separate_matrices(both)


def on_separate_matrices(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Returns `inner`, shown the queries, keys and values of attention as three matrices each.

    They are one array for speed. Made orthogonal together, they would share what each has alone.
    """

    def init(params):
        return inner.init(_map_qkv(_apart, params))

    def update(updates, state, params=None):
        updates, state = inner.update(_map_qkv(_apart, updates), state, _map_qkv(_apart, params))
        return _map_qkv(_together, updates), state

    return optax.GradientTransformation(init, update)


def optimizer_of_each(params: Any) -> Any:
    """Returns a tree like that of the parameters: "muon" or "adamw" for each array."""

    def choose(path, array):
        return "adamw" if _axes(_name(path), array) is None else "muon"

    return jax.tree_util.tree_map_with_path(choose, params)


def matrix_axes(params: Any) -> Any:
    """Returns a tree like that of the parameters: which axes make matrices, None for AdamW's."""

    def axes(path, array):
        return _axes(_name(path), array)

    return jax.tree_util.tree_map_with_path(axes, params)


def _axes(name: str, array: Any) -> MuonDimensionNumbers | None:
    """Returns the axes (in, out) of an array's matrices; all other axes count them."""
    layer, _, kind = name.rpartition("/")
    if kind != "kernel" or layer.endswith(OUTER_LAYERS):
        return None
    if _is_qkv(name):
        return MuonDimensionNumbers(-3, -1)  # [..., in, 3, out]
    if array.ndim == 4:
        return MuonDimensionNumbers((0, 1, 2), 3)  # a convolution
    return MuonDimensionNumbers(-2, -1)


# ---- queries, keys and values ----


def _map_qkv(change: Callable[[jax.Array], jax.Array], tree: Any) -> Any:
    def changed(path, array):
        return change(array) if _is_qkv(_name(path)) else array

    return jax.tree_util.tree_map_with_path(changed, tree)


def _apart(kernel: jax.Array) -> jax.Array:
    return rearrange(kernel, "... (three out) -> ... three out", three=3)


def _together(kernel: jax.Array) -> jax.Array:
    return rearrange(kernel, "... three out -> ... (three out)")


def _is_qkv(name: str) -> bool:
    return name.endswith("qkv/kernel")


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
