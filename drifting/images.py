"""What the step does to images before a network sees them."""

import jax.numpy as jnp


def to_float(images):
    """uint8 [0, 255] -> float32 [-1, 1]; other dtypes (latents) become float32 as they are."""
    return (
        images.astype(jnp.float32) / 127.5 - 1
        if images.dtype == jnp.uint8
        else images.astype(jnp.float32)
    )


def mirror(images, where):
    """images [..., H, W, ch] with those that `where` [...] names flipped left to right."""
    return jnp.where(where[..., None, None, None], images[..., ::-1, :], images)


def flat(a):
    """[C, N, ...] -> [C N, ...]"""
    return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])
