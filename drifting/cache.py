"""Features of real samples, kept in the bank in the place of the samples: the encoder is frozen, so each real is encoded once, and a step encodes generated samples alone.

A sample is kept as {str(D): [V, sum(T), D]}, its feature sets (A.5) packed by width (sets.py) in V views: as it is and, where the step mirrors at random, mirrored.
"""

import jax
import jax.numpy as jnp

from drifting.images import mirror, to_float
from drifting.problems import pack


def remember(images, *, encode, flip: bool):
    """What the bank keeps of real samples [S, H, W, ch]: {str(D): [S, V, sum(T), D]}. encode: as in `drift_step`. flip: whether the step mirrors."""
    images = to_float(images)
    views = [images, mirror(images, jnp.ones(images.shape[0], bool))] if flip else [images]
    return jax.tree.map(lambda *view: jnp.stack(view, 1), *(pack(encode(view)) for view in views))


def recall(kept, mirrored):
    """Features {str(D): [C N, sum(T), D]} of what the bank kept, {str(D): [C, N, V, sum(T), D]}: of the mirrored view, where one is kept and `mirrored` [C, N] says so."""
    view = mirrored.astype(jnp.int32)[:, :, None, None, None]
    pick = lambda f: jnp.take_along_axis(f, view, 2)[:, :, 0] if f.shape[2] > 1 else f[:, :, 0]
    return jax.tree.map(lambda f: pick(f).reshape(-1, *f.shape[3:]), kept)


def real_features(real, mirrored, encode, flip: bool, place):
    """{str(D): [C N, sum(T), D]}, packed features of the real samples [C, N, ...], or of what the bank kept in their place; with flip, of the mirrored ones where `mirrored` [C, N] says so."""
    if isinstance(real, dict):
        return recall(real, mirrored)
    real = to_float(real)
    real = mirror(real, mirrored) if flip else real
    return pack(encode(place.rows(real.reshape(-1, *real.shape[2:]))))
