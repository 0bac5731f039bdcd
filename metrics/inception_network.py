"""The layers of Inception-v3 (Szegedy et al. 2016, arXiv 1512.00567) as FID takes them.

They are those of TensorFlow's graph of 2015-12-05, which differs from the common network: average
pools do not count their padding, the last block pools by maximum, there are 1008 classes, and
images are scaled by (x - 128) / 128.

Submodules carry the names of the public weights file.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

IMAGE_SIZE = 299

# The outputs, and their numbers of features.
TAPS = {"64": 64, "192": 192, "768": 768, "2048": 2048, "logits_unbiased": 1008}


class InceptionV3(nn.Module):
    """From images with values 0 to 255 to the outputs in TAPS."""

    @nn.compact
    def __call__(self, images: Float[Array, "B 299 299 3"]) -> dict[str, Float[Array, "B _"]]:
        taps = {}
        x = (images - 128) / 128
        x = Conv(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)  # [B, 149, 149, 32]
        x = Conv(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = Conv(64, (3, 3), name="Conv2d_2b_3x3")(x)
        x = _max_pool(x)  # [B, 73, 73, 64]
        taps["64"] = _spatial_mean(x)
        x = Conv(80, (1, 1), name="Conv2d_3b_1x1")(x)
        x = Conv(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x)
        x = _max_pool(x)  # [B, 35, 35, 192]
        taps["192"] = _spatial_mean(x)
        x = BlockA(32, name="Mixed_5b")(x)
        x = BlockA(64, name="Mixed_5c")(x)
        x = BlockA(64, name="Mixed_5d")(x)
        x = BlockB(name="Mixed_6a")(x)  # [B, 17, 17, 768]
        x = BlockC(128, name="Mixed_6b")(x)
        x = BlockC(160, name="Mixed_6c")(x)
        x = BlockC(160, name="Mixed_6d")(x)
        x = BlockC(192, name="Mixed_6e")(x)
        taps["768"] = _spatial_mean(x)
        x = BlockD(name="Mixed_7a")(x)  # [B, 8, 8, 1280]
        x = BlockE(_average_pool, name="Mixed_7b")(x)
        x = BlockE(_max_pool_same, name="Mixed_7c")(x)
        x = _spatial_mean(x)  # [B, 2048]
        taps["2048"] = x
        kernel = self.param("fc", nn.initializers.zeros, (2048, 1008))
        # In 16 partial sums. In a single one, the rounding of float32 differs between batch sizes
        # by more than 1e-6.
        partial_sums = jnp.einsum(
            "bpd,pdk->bpk",
            rearrange(x, "b (p d) -> b p d", p=16),
            rearrange(kernel, "(p d) k -> p d k", p=16),
            precision=jax.lax.Precision.HIGHEST,
        )
        taps["logits_unbiased"] = partial_sums.sum(1)
        return taps


class Conv(nn.Module):
    """Convolution and ReLU.

    The batch normalisation between them is folded into kernel and bias when the weights are read.
    """

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        x = nn.Conv(
            self.features,
            self.kernel,
            self.stride,
            self.padding,
            kernel_init=nn.initializers.zeros,
            # The defaults, TF32 on a GPU and bfloat16 on a TPU, would be another network.
            precision=jax.lax.Precision.HIGHEST,
            name="conv",
        )(x)
        return nn.relu(x)


def _average_pool(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _max_pool(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


def _max_pool_same(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def _spatial_mean(x: Float[Array, "B H W C"]) -> Float[Array, "B C"]:
    return x.mean((1, 2))


# ---------------------------------------------------------------- blocks of parallel branches


class BlockA(nn.Module):
    """[B, 35, 35, C] -> [B, 35, 35, 224 + pool_features]."""

    pool_features: int

    @nn.compact
    def __call__(self, x):
        a = Conv(64, (1, 1), name="branch1x1")(x)
        b = Conv(48, (1, 1), name="branch5x5_1")(x)
        b = Conv(64, (5, 5), name="branch5x5_2")(b)
        c = Conv(64, (1, 1), name="branch3x3dbl_1")(x)
        c = Conv(96, (3, 3), name="branch3x3dbl_2")(c)
        c = Conv(96, (3, 3), name="branch3x3dbl_3")(c)
        d = Conv(self.pool_features, (1, 1), name="branch_pool")(_average_pool(x))
        return jnp.concatenate([a, b, c, d], -1)


class BlockB(nn.Module):
    """[B, 35, 35, 288] -> [B, 17, 17, 768]."""

    @nn.compact
    def __call__(self, x):
        a = Conv(384, (3, 3), 2, "VALID", name="branch3x3")(x)
        b = Conv(64, (1, 1), name="branch3x3dbl_1")(x)
        b = Conv(96, (3, 3), name="branch3x3dbl_2")(b)
        b = Conv(96, (3, 3), 2, "VALID", name="branch3x3dbl_3")(b)
        return jnp.concatenate([a, b, _max_pool(x)], -1)


class BlockC(nn.Module):
    """[B, 17, 17, 768] -> [B, 17, 17, 768]."""

    width: int

    @nn.compact
    def __call__(self, x):
        a = Conv(192, (1, 1), name="branch1x1")(x)
        b = Conv(self.width, (1, 1), name="branch7x7_1")(x)
        b = Conv(self.width, (1, 7), name="branch7x7_2")(b)
        b = Conv(192, (7, 1), name="branch7x7_3")(b)
        c = Conv(self.width, (1, 1), name="branch7x7dbl_1")(x)
        c = Conv(self.width, (7, 1), name="branch7x7dbl_2")(c)
        c = Conv(self.width, (1, 7), name="branch7x7dbl_3")(c)
        c = Conv(self.width, (7, 1), name="branch7x7dbl_4")(c)
        c = Conv(192, (1, 7), name="branch7x7dbl_5")(c)
        d = Conv(192, (1, 1), name="branch_pool")(_average_pool(x))
        return jnp.concatenate([a, b, c, d], -1)


class BlockD(nn.Module):
    """[B, 17, 17, 768] -> [B, 8, 8, 1280]."""

    @nn.compact
    def __call__(self, x):
        a = Conv(192, (1, 1), name="branch3x3_1")(x)
        a = Conv(320, (3, 3), 2, "VALID", name="branch3x3_2")(a)
        b = Conv(192, (1, 1), name="branch7x7x3_1")(x)
        b = Conv(192, (1, 7), name="branch7x7x3_2")(b)
        b = Conv(192, (7, 1), name="branch7x7x3_3")(b)
        b = Conv(192, (3, 3), 2, "VALID", name="branch7x7x3_4")(b)
        return jnp.concatenate([a, b, _max_pool(x)], -1)


class BlockE(nn.Module):
    """[B, 8, 8, C] -> [B, 8, 8, 2048]."""

    pool: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x):
        a = Conv(320, (1, 1), name="branch1x1")(x)
        b = Conv(384, (1, 1), name="branch3x3_1")(x)
        b1 = Conv(384, (1, 3), name="branch3x3_2a")(b)
        b2 = Conv(384, (3, 1), name="branch3x3_2b")(b)
        c = Conv(448, (1, 1), name="branch3x3dbl_1")(x)
        c = Conv(384, (3, 3), name="branch3x3dbl_2")(c)
        c1 = Conv(384, (1, 3), name="branch3x3dbl_3a")(c)
        c2 = Conv(384, (3, 1), name="branch3x3dbl_3b")(c)
        d = Conv(192, (1, 1), name="branch_pool")(self.pool(x))
        return jnp.concatenate([a, b1, b2, c1, c2, d], -1)
