"""ConvNeXt-V2 (arXiv 2301.00808), inference only, with the tensor names of transformers' `ConvNextV2Model`
("*": layers of equal shape, stacked)."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from utils.weight_files.tensors import count, expected_shapes, match, rename, shape_of, strip_prefix


def layer_norm(dtype, name, epsilon=1e-6):
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


class GRN(nn.Module):
    """Global response normalisation (Sec. 3.2): channels compete by their norms over the image."""

    @nn.compact
    def __call__(self, x):  # [B, H, W, C]
        weight, bias = (
            self.param(name, nn.initializers.zeros, (1, 1, 1, x.shape[-1])).astype(x.dtype)
            for name in ("weight", "bias")
        )
        square = x.astype(jnp.promote_types(x.dtype, jnp.float32)) ** 2
        # 1e-12: a channel may be zero everywhere, and sqrt has no gradient at 0.
        norm = jnp.sqrt(jnp.sum(square, (1, 2), keepdims=True) + 1e-12)
        norm = norm / (jnp.mean(norm, -1, keepdims=True) + 1e-6)
        return weight * (x * norm.astype(x.dtype)) + bias + x


class Block(nn.Module):
    """Depthwise 7x7, then an inverted bottleneck with GRN. [B,H,W,C] -> [B,H,W,C]."""

    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x, _):  # the signature of a scanned layer
        c = x.shape[-1]
        y = nn.Conv(c, (7, 7), padding=3, feature_group_count=c, dtype=self.dtype, name="dwconv")(x)
        y = layer_norm(self.dtype, "layernorm")(y)
        y = nn.gelu(nn.Dense(4 * c, dtype=self.dtype, name="pwconv1")(y), approximate=False)
        y = nn.Dense(c, dtype=self.dtype, name="pwconv2")(GRN(name="grn")(y))
        return x + y, None


class ConvNextV2(nn.Module):
    """depths, hidden_sizes: blocks and channels of the four stages (`config.json`). dtype: of the
    computation; None: the input's."""

    depths: tuple[int, ...]
    hidden_sizes: tuple[int, ...]
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> dict[str, Array]:
        """Normalised images, H and W multiples of 32 -> {"embeddings", "stage1".."stage4": maps with strides
        4, 4, 8, 16, 32; "pooled" [B,1,D]: the normalised mean of the last}."""
        reduce = lambda x, channels, size, name: nn.Conv(
            channels, (size, size), size, padding="VALID", dtype=self.dtype, name=name
        )(x)
        x = reduce(x, self.hidden_sizes[0], 4, "embeddings.patch_embeddings")
        x = layer_norm(self.dtype, "embeddings.layernorm")(x)
        maps = {"embeddings": x}
        for i, (channels, depth) in enumerate(zip(self.hidden_sizes, self.depths)):
            stage = f"encoder.stages.{i}"
            if i > 0:
                x = layer_norm(self.dtype, f"{stage}.downsampling_layer.0")(x)
                x = reduce(x, channels, 2, f"{stage}.downsampling_layer.1")
            blocks = nn.scan(Block, {"params": 0}, split_rngs={"params": True}, length=depth)
            x, _ = blocks(self.dtype, name=f"{stage}.layers.*")(x, None)
            maps[f"stage{i + 1}"] = x
        pooled = layer_norm(self.dtype, "layernorm", 1e-12)(jnp.mean(x, (1, 2)))
        return maps | {"pooled": pooled[:, None]}


def from_tensors(
    tensors: dict[str, np.ndarray], source: str, dtype: jnp.dtype | None
) -> tuple[ConvNextV2, dict]:
    """(model, params) from tensors under transformers' names, old or new; the size is read from them. Raises
    UserError."""
    tensors = strip_prefix(tensors, "embeddings.patch_embeddings.weight", source)
    tensors = rename(tensors, {".grn.gamma": ".grn.weight", ".grn.beta": ".grn.bias"})
    stages = range(count(tensors, r"encoder\.stages\.(\d+)\."))
    depths = tuple(count(tensors, rf"encoder\.stages\.{i}\.layers\.(\d+)\.") for i in stages)
    first = [f"encoder.stages.{i}.layers.0.dwconv.bias" for i in stages]
    model = ConvNextV2(
        depths, tuple(shape_of(tensors, name, 1, source)[0] for name in first), dtype
    )
    return model, match(tensors, expected_shapes(model, (1, 32, 32, 3)), source)
