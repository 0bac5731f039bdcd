"""ConvNeXt-V2 (arXiv 2301.00808), inference only.

The tensor names are those of transformers' `ConvNextV2Model`; a "*" in a name stands for layers of
equal shape, whose tensors are stacked.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from models.encoders.contract import FrozenEncoder
from models.encoders.pretrained import (
    Published,
    compute_dtype,
    imagenet_encoder,
    published_key,
    read_pretrained,
)
from utils.weight_files.tensors import (
    Tensors,
    count,
    expected_shapes,
    match,
    rename,
    shape_of,
    strip_prefix,
)

PUBLISHED = {
    "base": Published("facebook/convnextv2-base-22k-224"),  # 355 MB
    "tiny": Published("facebook/convnextv2-tiny-22k-224"),  # 115 MB
}
SIZES = {  # depths, hidden_sizes
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
}


def load(name: str, source: str, bf16: bool | None, sha256: str) -> FrozenEncoder:
    tensors, described = read_pretrained(name, PUBLISHED, source, sha256)
    return _frozen(*from_tensors(tensors, described, compute_dtype(bf16)))


def load_shapes(name: str, source: str, bf16: bool | None) -> FrozenEncoder:
    size = SIZES[published_key(name, PUBLISHED, source, SIZES)]
    model = ConvNextV2(*size, compute_dtype(bf16))
    return _frozen(model, expected_shapes(model, (1, 32, 32, 3)))


def _frozen(model: "ConvNextV2", params: Any) -> FrozenEncoder:
    # As in the authors' release: locations are normalised over their channels, and those of the
    # first stage (56 x 56 at 224 pixels) are left out.
    return imagenet_encoder(
        model,
        params,
        names=("stage?", "pooled", "!stage1"),
        statistics=("map", "mean", "std"),
        patch_sizes=(),
        finish=standardise_maps,
    )


def standardise_maps(maps: dict[str, Array]) -> dict[str, Array]:
    """Gives each location of a map mean 0 and deviation 1 over its channels.

    Sets of vectors are left alone.
    """
    standardised = {}
    for name, x in maps.items():
        if x.ndim == 4:
            x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            deviation = jnp.std(x, -1, keepdims=True) + 1e-3
            x = (x - jnp.mean(x, -1, keepdims=True)) / deviation
        standardised[name] = x
    return standardised


# ---- the network ----


class ConvNextV2(nn.Module):
    """Four stages of convolutional blocks.

    Attributes:
        depths: blocks of the four stages (as in transformers' `config.json`).
        hidden_sizes: channels of the four stages.
        dtype: of the computation; None for the input's.
    """

    depths: tuple[int, ...]
    hidden_sizes: tuple[int, ...]
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> dict[str, Array]:
        """Returns the maps of normalised images; H and W are multiples of 32.

        {"embeddings", "stage1" .. "stage4": maps with strides 4, 4, 8, 16, 32,
        "pooled": the normalised mean of the last, [B, 1, D]}
        """
        x = self._reduce(self.hidden_sizes[0], 4, "embeddings.patch_embeddings")(x)
        x = layer_norm(self.dtype, "embeddings.layernorm")(x)
        maps = {"embeddings": x}
        for i, (channels, depth) in enumerate(zip(self.hidden_sizes, self.depths, strict=True)):
            stage = f"encoder.stages.{i}"
            if i > 0:
                x = layer_norm(self.dtype, f"{stage}.downsampling_layer.0")(x)
                x = self._reduce(channels, 2, f"{stage}.downsampling_layer.1")(x)
            blocks = nn.scan(Block, {"params": 0}, split_rngs={"params": True}, length=depth)
            x, _ = blocks(self.dtype, name=f"{stage}.layers.*")(x, None)
            maps[f"stage{i + 1}"] = x
        pooled = layer_norm(self.dtype, "layernorm", 1e-12)(jnp.mean(x, (1, 2)))
        return maps | {"pooled": pooled[:, None]}

    def _reduce(self, channels: int, size: int, name: str) -> nn.Conv:
        """Returns the convolution that makes each size x size patch one location."""
        return nn.Conv(channels, (size, size), size, padding="VALID", dtype=self.dtype, name=name)


class Block(nn.Module):
    """A depthwise 7x7 convolution, then an inverted bottleneck with GRN.

    [B, H, W, C] -> [B, H, W, C]. It has the signature of a scanned layer.
    """

    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], _: None):
        channels = x.shape[-1]
        y = nn.Conv(
            channels,
            (7, 7),
            padding=3,
            feature_group_count=channels,
            dtype=self.dtype,
            name="dwconv",
        )(x)
        y = layer_norm(self.dtype, "layernorm")(y)
        y = nn.Dense(4 * channels, dtype=self.dtype, name="pwconv1")(y)
        y = nn.gelu(y, approximate=False)
        y = GRN(name="grn")(y)
        y = nn.Dense(channels, dtype=self.dtype, name="pwconv2")(y)
        return x + y, None


class GRN(nn.Module):
    """Global response normalisation (section 3.2): channels compete by their norms over the image.

    [B, H, W, C] -> [B, H, W, C].
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        shape = (1, 1, 1, x.shape[-1])
        weight = self.param("weight", nn.initializers.zeros, shape).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, shape).astype(x.dtype)
        squares = x.astype(jnp.promote_types(x.dtype, jnp.float32)) ** 2
        # 1e-12: a channel may be zero everywhere, and the root has no gradient at 0.
        norm = jnp.sqrt(jnp.sum(squares, (1, 2), keepdims=True) + 1e-12)
        norm = norm / (jnp.mean(norm, -1, keepdims=True) + 1e-6)
        return weight * (x * norm.astype(x.dtype)) + bias + x


def layer_norm(dtype: jnp.dtype | None, name: str, epsilon: float = 1e-6) -> nn.LayerNorm:
    """Returns a LayerNorm whose variance is computed about the mean."""
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


# ---- weights ----


def from_tensors(tensors: Tensors, source: str, dtype: jnp.dtype | None) -> tuple[ConvNextV2, Any]:
    """Returns (model, params); the size is read from the tensors.

    Args:
        tensors: under transformers' names, old or new.
        source: where they are from, for messages.
        dtype: of the computation; None for that of the images.
    Raises:
        UserError: they are not those of a ConvNeXt-V2.
    """
    tensors = strip_prefix(tensors, "embeddings.patch_embeddings.weight", source)
    tensors = rename(tensors, {".grn.gamma": ".grn.weight", ".grn.beta": ".grn.bias"})
    depths, hidden_sizes = [], []
    for i in range(count(tensors, r"encoder\.stages\.(\d+)\.")):
        stage = rf"encoder\.stages\.{i}\.layers"
        depths.append(count(tensors, rf"{stage}\.(\d+)\."))
        bias = f"encoder.stages.{i}.layers.0.dwconv.bias"
        hidden_sizes.append(shape_of(tensors, bias, 1, source)[0])
    model = ConvNextV2(tuple(depths), tuple(hidden_sizes), dtype)
    return model, match(tensors, expected_shapes(model, (1, 32, 32, 3)), source)
