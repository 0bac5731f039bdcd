"""A group normalisation (Wu and He, arXiv 1803.08494) that sums each channel first."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class GroupNorm(nn.Module):
    """`nn.GroupNorm` of maps [B, H, W, C], with the same parameters and, but for rounding, result.

    Parameters are float32, and statistics at least. The variance is computed about the mean: as
    E[x^2] - E[x]^2, on a map of a few locations, it would leave a group nothing but rounding.

    Each channel is summed over its locations, and only then the few channels of a group are. XLA's
    code for a CPU sums long columns up to three times as fast as pieces of a few channels
    (docs/benchmarks.md, two settings of the step).

    Attributes:
        num_groups: it divides C.
        epsilon: added to the variance; this one is that of diffusers and of the published MAEs.
        dtype: of the result; None for what x and the parameters make together.
    """

    num_groups: int
    epsilon: float = 1e-6
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)

        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = self._mean(wide)
        # The variance is least about the mean, so its gradient by the mean is 0.
        variance = self._mean((wide - jax.lax.stop_gradient(mean)) ** 2)
        factor = jax.lax.rsqrt(variance + self.epsilon) * scale
        dtype = self.dtype or jnp.result_type(x, scale, bias)
        return ((wide - mean) * factor + bias).astype(dtype)

    def _mean(self, x: Float[Array, "B H W C"]) -> Float[Array, "B 1 1 C"]:
        """Returns for each channel the mean of its group."""
        of_channels = jnp.mean(x, (1, 2), keepdims=True)
        group_size = x.shape[-1] // self.num_groups
        groups = of_channels.reshape(*of_channels.shape[:3], self.num_groups, group_size)
        return jnp.repeat(jnp.mean(groups, -1), group_size, -1)
