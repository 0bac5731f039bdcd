"""Convolutions after the last layer of a generator of images.

The last layer is linear: a patch is a weighted sum of as many pictures as its token has numbers.
Such sums meet flat paper and sharp strokes only nearly, and two patches do not know of each other's
edges. A small network that sees 14 x 14 pixels (7 x 7 where a side is odd) adds what is missing:

    x  <-  x + c3(silu(c2(silu(c1(x)))))        c1, c2, c3: 3 x 3, over cells of 2 x 2 pixels

U-ViT (arXiv 2209.12152) ends with a convolution over its patches for the second of these reasons.
c3 starts at zero, so the first samples are those of the last layer.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float

CELL = 2  # pixels along a side; 1 where two do not divide the height and the width


class Refinement(nn.Module):
    """Adds to samples what their surroundings tell.

    Attributes:
        channels: of c1 and c2.
        dtype: of these two. The last is float32, as the last matrix product is.
    """

    channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, samples: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        side = CELL
        if samples.shape[1] % side or samples.shape[2] % side:
            side = 1
        x = rearrange(samples, "b (h p) (w q) c -> b h w (p q c)", p=side, q=side)
        n_outputs = x.shape[-1]
        x = nn.silu(Convolution(self.channels, self.dtype, name="conv1")(x))
        x = nn.silu(Convolution(self.channels, self.dtype, name="conv2")(x))
        x = Convolution(n_outputs, jnp.float32, zero_init=True, name="conv3")(x)
        return samples + rearrange(x, "b h w (p q c) -> b (h p) (w q) c", p=side, q=side)


class Convolution(nn.Module):
    """A convolution of 3 x 3 whose kernel is divided by the root of its inputs in every call.

    A step of Adam moves each number of a kernel alike. Every pixel moves these, so their steps have
    to be small beside those of a matrix: this is the equalised learning rate of arXiv 1710.10196.
    """

    features: int
    dtype: DTypeLike
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        shape = (3, 3, x.shape[-1], self.features)
        init = nn.initializers.zeros if self.zero_init else nn.initializers.normal(1.0)
        kernel = self.param("kernel", init, shape) / math.sqrt(9 * x.shape[-1])
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        axes = ("NHWC", "HWIO", "NHWC")
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=axes)
        return x + bias.astype(self.dtype)
