"""Layers that several networks of features have in common. Their weights are read, not trained."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float


class FrozenBatchNorm(nn.Module):
    """Batch normalisation by the recorded statistics. [B, H, W, C] -> [B, H, W, C].

    Attributes:
        epsilon: added to the variance.
    """

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        shape = x.shape[-1:]
        weight = self.param("weight", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = self.param("running_mean", nn.initializers.zeros, shape)
        var = self.param("running_var", nn.initializers.ones, shape)
        scale = weight * jax.lax.rsqrt(var + self.epsilon)
        return x * scale.astype(x.dtype) + (bias - mean * scale).astype(x.dtype)


def attend(
    queries: Float[Array, "B Q heads C"],
    keys: Float[Array, "B T heads C"],
    values: Float[Array, "B T heads C"],
) -> Float[Array, "B Q D"]:
    """Returns scaled dot-product attention, its heads side by side.

    The softmax is at least float32.
    """
    logits = jnp.einsum("bqhc,bkhc->bhqk", queries, keys) * queries.shape[-1] ** -0.5
    weights = nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    mixed = jnp.einsum("bhqk,bkhc->bqhc", weights.astype(values.dtype), values)
    return rearrange(mixed, "b q heads c -> b q (heads c)")
