"""Images in [-1, 1]: as data, as a generator makes them, and mirrored."""

from functools import partial

import jax
import jax.numpy as jnp

LEAK = 0.1  # of what is beyond [-1, 1]


def to_float(images: jax.Array) -> jax.Array:
    """Returns images as float32: uint8 in [0, 255] becomes [-1, 1]; latents keep their values."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1
    return images.astype(jnp.float32)


def clip(images: jax.Array, margin: float = 0.0) -> jax.Array:
    """Returns images clipped to [-1, 1], but for a tenth of what is beyond.

    The gradient passes as if nothing were clipped. So a generator makes a
    background of -1 by any value below, and the tenth calls it back: with
    none of it, values go ever further and greys are lost.

    Args:
        images: any values.
        margin: how far beyond [-1, 1] a value goes before a tenth of it is
            left. Where a background varies less than the margin is wide, it
            becomes flat.
    """
    clipped = jnp.clip(images, -1, 1)
    within = jnp.clip(images, -1 - margin, 1 + margin)
    leaky = clipped + LEAK * (images - within)
    return images + jax.lax.stop_gradient(leaky - images)


def clip_around(images: jax.Array, margin: float, distance: float) -> jax.Array:
    """Returns images clipped between their pixels, for edges without steps.

    Each pixel becomes the mean of four points around it. Their values lie
    between those of its neighbours, and are clipped before the mean is taken.
    So a pixel through which an edge goes is grey, as in a picture of a sharp
    edge, and what is flat stays flat.

    Args:
        images: [..., H, W, channels], any values.
        margin: as of `clip`.
        distance: of the four points from the pixel, down and across, in
            pixels in [0, 1].
    """
    rows = _between(images, -3, distance)
    points = [point for row in rows for point in _between(row, -2, distance)]
    a, b, c, d = (clip(point, margin) for point in points)
    return (a + b + c + d) / 4


def _between(x: jax.Array, axis: int, distance: float) -> list[jax.Array]:
    """Returns the values a little before each one of an axis, and after it."""
    part = partial(jax.lax.slice_in_dim, x, axis=axis)
    before = jnp.concatenate([part(0, 1), part(0, -1)], axis)
    after = jnp.concatenate([part(1, None), part(-1, None)], axis)
    return [x + distance * (other - x) for other in (before, after)]


def mirror(images: jax.Array, mask: jax.Array) -> jax.Array:
    """Flips left to right those images [..., H, W, channels] that the mask [...] names."""
    return jnp.where(mask[..., None, None, None], images[..., ::-1, :], images)
