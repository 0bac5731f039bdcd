"""What the step does to images before a network sees them."""

import jax
import jax.numpy as jnp


def to_float(images: jax.Array) -> jax.Array:
    """Returns images as float32: uint8 in [0, 255] becomes [-1, 1]; latents keep their values."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1
    return images.astype(jnp.float32)


def mirror(images: jax.Array, mask: jax.Array) -> jax.Array:
    """Flips left to right those images [..., H, W, channels] that the mask [...] names."""
    return jnp.where(mask[..., None, None, None], images[..., ::-1, :], images)
