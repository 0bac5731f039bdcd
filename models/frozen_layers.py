"""Layers that several networks of features have in common. Their weights are read, not trained."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

# Mean and standard deviation of red, green and blue in ImageNet, for images in [0, 1].
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise(
    images: Float[Array, "B H W C"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "B H W 3"]:
    """Returns images in [-1, 1] as a network was trained with them: (x - mean) / std of [0, 1].

    Grey images, of one channel, become three channels.
    """
    x = (images + 1) / 2
    return (x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)


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


class DepthwiseConv(nn.Module):
    """A convolution of each channel by itself, with TensorFlow's SAME padding and without bias.

    [B, H, W, C] -> [B, H / stride, W / stride, C].

    Attributes:
        size: side of the kernel.
        stride: in both directions.
        dtype: of the computation; None for the input's.
    """

    size: int
    stride: int
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        shape = (self.size, self.size, 1, x.shape[-1])
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        # On a CPU XLA's own takes 10 to 30 times as long, with its gradient too.
        return jax.lax.platform_dependent(
            x, kernel, cpu=self._sum_of_shifts, default=self._convolution
        )

    def _convolution(self, x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )

    def _sum_of_shifts(self, x: Array, kernel: Array) -> Array:
        """Adds up the shifted images, each times its number of the kernel: one fused loop."""
        size, stride = (self.size, self.size), (self.stride, self.stride)
        border = jax.lax.padtype_to_pads(x.shape[1:3], size, stride, "SAME")
        padded = jnp.pad(x, ((0, 0), *border, (0, 0)))
        rows, columns = (-(-side // self.stride) for side in x.shape[1:3])
        total = jnp.zeros((), x.dtype)
        for i in range(self.size):
            for j in range(self.size):
                row_end = i + (rows - 1) * self.stride + 1
                column_end = j + (columns - 1) * self.stride + 1
                shifted = padded[:, i : row_end : self.stride, j : column_end : self.stride]
                total = total + shifted * kernel[i, j, 0]
        return total


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
