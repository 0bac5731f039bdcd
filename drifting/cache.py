"""Features of real samples, which the bank can store in the place of the samples.

The encoder is frozen, so each real needs to be encoded only once. A step then encodes generated
samples alone.

A sample is stored as {str(D): [V, sum(T), D]}: its feature sets (A.5), packed by width
(problems.py), in V views. The first view is the sample as it is; where the step mirrors at random,
the second is the sample mirrored.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from drifting.accumulate import in_parts
from drifting.images import mirror, to_float
from drifting.layout import Layout
from drifting.problems import pack


def remember(images: jax.Array, *, encode: Callable, flip: bool) -> dict[str, jax.Array]:
    """Returns what the bank stores of real samples [S, H, W, channels].

    Args:
        images: uint8 in [0, 255], or latents.
        encode: as in `drifting.step.drift_step`.
        flip: whether the step mirrors reals at random.

    Returns:
        {str(D): [S, V, sum(T), D]}
    """
    images = to_float(images)
    views = [images]
    if flip:
        views.append(mirror(images, jnp.ones(images.shape[0], bool)))
    packed = [pack(encode(view)) for view in views]
    return jax.tree.map(lambda *view: jnp.stack(view, 1), *packed)


def recall(stored: dict[str, jax.Array], mirrored: jax.Array) -> dict[str, jax.Array]:
    """Returns the features {str(D): [C N, sum(T), D]} of stored samples.

    Args:
        stored: {str(D): [C, N, V, sum(T), D]}.
        mirrored: [C, N] bool: whether to take the mirrored view, where one is stored.
    """
    index = mirrored.astype(jnp.int32)[:, :, None, None, None]

    def take_view(features):
        if features.shape[2] > 1:
            features = jnp.take_along_axis(features, index, 2)
        return rearrange(features[:, :, 0], "c n t d -> (c n) t d")

    return jax.tree.map(take_view, stored)


def real_features(
    real: Any,
    mirrored: jax.Array,
    encode: Callable,
    flip: bool,
    layout: Layout,
    parts: int = 1,
) -> dict[str, jax.Array]:
    """Returns the packed features {str(D): [C N, sum(T), D]} of real samples.

    Args:
        real: samples [C, N, ...], or what the bank stores in their place.
        mirrored: [C, N] bool: which samples to mirror, where `flip` is set.
        encode: as in `drifting.step.drift_step`.
        flip: whether reals are mirrored.
        layout: where the samples are, see layout.py.
        parts: in how many parts of the samples of each class they are encoded.
    """
    if isinstance(real, dict):
        return recall(real, mirrored)

    def encode_part(part):
        images, mirrored = part
        images = to_float(images)
        if flip:
            images = mirror(images, mirrored)
        rows = rearrange(images, "c n ... -> (c n) ...")
        packed = pack(encode(layout.rows(rows)))
        return jax.tree.map(by_class, packed)

    def by_class(features):
        return rearrange(features, "(c n) t d -> c n t d", c=n_classes)

    def flat(features):
        return rearrange(features, "c n t d -> (c n) t d")

    n_classes = len(real)
    packed = in_parts(encode_part, (real, mirrored), parts)
    return jax.tree.map(flat, packed)
