"""DINOv2 vision transformers (arXiv 2304.07193; with registers: 2309.16588), inference only.

The tensor names are those of transformers' `Dinov2Model`; a "*" in a name stands for the layers,
whose tensors are stacked.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
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
from models.frozen_layers import attend
from utils.errors import UserError
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
    "small": Published("facebook/dinov2-small", "ae1e99fcefd534ed978cdeb8326f0803"),  # 88 MB
    "base": Published("facebook/dinov2-base", "d73036b56966966d07975d696bde3317"),  # 346 MB
    "large": Published("facebook/dinov2-large", "399fba97a95f22c36834418bc6937336"),  # 1.22 GB
    "small_registers": Published("facebook/dinov2-with-registers-small"),
    "base_registers": Published("facebook/dinov2-with-registers-base"),
    "large_registers": Published("facebook/dinov2-with-registers-large"),
}
SIZES = {  # hidden_size, num_layers, heads
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
HEAD_WIDTH = 64


def load(name: str, source: str, bf16: bool | None, sha256: str) -> FrozenEncoder:
    tensors, described = read_pretrained(name, PUBLISHED, source, sha256)
    return _frozen(*from_tensors(tensors, described, compute_dtype(bf16)))


def load_shapes(name: str, source: str, bf16: bool | None) -> FrozenEncoder:
    key = published_key(name, PUBLISHED, source, SIZES)
    hidden_size, num_layers, heads = SIZES[key.removesuffix("_registers")]
    model = Dinov2(
        hidden_size,
        num_layers,
        heads,
        patch_size=14,
        grid=37,
        registers=4 if key.endswith("_registers") else 0,
        dtype=compute_dtype(bf16),
    )
    return _frozen(model, expected_shapes(model, (1, 28, 28, 3)))


def _frozen(model: "Dinov2", params: Any) -> FrozenEncoder:
    return imagenet_encoder(
        model, params, names=("cls", "patches"), statistics=("mean", "std"), patch_sizes=()
    )


# ---- the network ----


class Dinov2(nn.Module):
    """A vision transformer. SIZES has those of the published ones.

    Attributes:
        hidden_size: width D of a token.
        num_layers: number of layers.
        heads: of the attention; a head has 64 channels.
        patch_size: side of a patch in pixels, 14.
        grid: side of the grid of positions that were trained, 37.
        registers: tokens beside the class token, 0 or 4.
        dtype: of the computation; None for the input's.
    """

    hidden_size: int
    num_layers: int
    heads: int
    patch_size: int
    grid: int
    registers: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"]) -> dict[str, Array]:
        """Returns the tokens of normalised images; H and W are multiples of patch_size.

        {"layer1" ..: the patch tokens [B, h, w, D] after each layer,
        "patches": the last of them, normalised,
        "cls": the normalised class token [B, 1, D],
        "registers": the normalised registers [B, R, D], if there are any}
        """
        x = self._embed(images)  # [B, 1 + R + h w, D]
        layers = nn.scan(Layer, {"params": 0}, split_rngs={"params": True}, length=self.num_layers)
        x, hidden = layers(self.heads, self.dtype, name="encoder.layer.*")(x, None)
        x = nn.LayerNorm(1e-6, dtype=self.dtype, use_fast_variance=False, name="layernorm")(x)

        first, rows = 1 + self.registers, images.shape[1] // self.patch_size

        def to_map(tokens: Float[Array, "B T D"]) -> Float[Array, "B h w D"]:
            return rearrange(tokens[:, first:], "b (h w) d -> b h w d", h=rows)

        maps = {f"layer{i + 1}": to_map(hidden[i]) for i in range(self.num_layers)}
        maps |= {"patches": to_map(x), "cls": x[:, :1]}
        if self.registers:
            maps["registers"] = x[:, 1:first]
        return maps

    def _embed(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B T D"]:
        """Returns the first tokens: the class, the registers, the patches row by row."""
        side, width = self.patch_size, self.hidden_size
        n, height, pixel_columns, _ = images.shape
        if height % side or pixel_columns % side:
            raise UserError(
                f"DINOv2 got images of {height}x{pixel_columns}: give an image_size that is a "
                f"multiple of {side}"
            )
        positions = self._token("position_embeddings", 1 + self.grid**2)
        grid = rearrange(positions[0, 1:], "(h w) d -> h w d", h=self.grid)
        size = (height // side, pixel_columns // side)
        grid = resize_positions(grid, size, antialias=self.registers > 0)

        name = "embeddings.patch_embeddings.projection"
        x = nn.Conv(width, (side, side), side, padding="VALID", dtype=self.dtype, name=name)(images)
        x = rearrange(x + grid.astype(x.dtype), "b h w d -> b (h w) d")
        first = [self._token("cls_token", 1) + positions[:, :1]]
        if self.registers:  # they have no position
            first.append(self._token("register_tokens", self.registers))
        first = jnp.concatenate(first, 1).astype(x.dtype)
        first = jnp.broadcast_to(first, (n, *first.shape[1:]))
        return jnp.concatenate([first, x], 1)

    def _token(self, name: str, n: int) -> Float[Array, "1 n D"]:
        return self.param(f"embeddings.{name}", nn.initializers.zeros, (1, n, self.hidden_size))


class Layer(nn.Module):
    """Attention and MLP, each scaled by a learned vector. [B, T, D] -> [B, T, D].

    It has the signature of a scanned layer: (carry, nothing) -> (carry, output).
    """

    heads: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], _: None):
        width = x.shape[-1]
        y = self._attention(self._norm("norm1", x))
        y = self._dense(width, "attention.o_proj")(y)
        x = x + y * self._scale("layer_scale1", x)
        y = self._dense(4 * width, "mlp.fc1")(self._norm("norm2", x))
        y = nn.gelu(y, approximate=False)
        y = self._dense(width, "mlp.fc2")(y)
        x = x + y * self._scale("layer_scale2", x)
        return x, x

    def _attention(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Returns the values that the tokens attend to."""
        width = x.shape[-1]
        heads = []
        for name in ("q", "k", "v"):
            y = self._dense(width, f"attention.{name}_proj")(x)
            heads.append(rearrange(y, "b t (heads c) -> b t heads c", heads=self.heads))
        return attend(*heads)

    def _norm(self, name: str, x: Array) -> Array:
        return nn.LayerNorm(1e-6, dtype=self.dtype, use_fast_variance=False, name=name)(x)

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, dtype=self.dtype, name=name)

    def _scale(self, name: str, x: Array) -> Array:
        scale = self.param(f"{name}.lambda1", nn.initializers.ones, x.shape[-1:])
        return scale.astype(x.dtype)


# ---- positions of another grid than the trained one ----


def resize_positions(
    positions: Float[Array, "P P D"], grid: tuple[int, int], antialias: bool
) -> Float[Array, "h w D"]:
    """Returns the position embeddings of a P x P grid for another grid.

    Args:
        grid: (h, w).
        antialias: as transformers does it with registers. PyTorch's antialiased bicubic
            interpolation has a = -0.5, as JAX's.
    """
    if antialias:
        return jax.image.resize(positions, (*grid, positions.shape[-1]), "cubic")
    rows, columns = (
        jnp.asarray(cubic_matrix(positions.shape[axis], grid[axis]), positions.dtype)
        for axis in (0, 1)
    )
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("hp,pqd,wq->hwd", rows, positions, columns, precision=exact)


def cubic_matrix(size: int, new_size: int) -> np.ndarray:
    """Returns [new_size, size]: bicubic interpolation as PyTorch does it without antialiasing.

    Centres are at half pixels, borders are repeated, and a = -0.75 (JAX's "cubic" has -0.5).
    """
    a = -0.75
    centre = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    first = np.floor(centre).astype(int) - 1
    matrix = np.zeros((new_size, size))
    for tap in range(4):
        d = np.abs(centre - (first + tap))
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * (d**3 - 5 * d**2 + 8 * d - 4)
        column = np.clip(first + tap, 0, size - 1)
        np.add.at(matrix, (np.arange(new_size), column), np.where(d <= 1, near, far))
    return matrix


# ---- weights ----

# Names in the published files -> names of transformers since version 5.
RENAMED = {
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
}


def from_tensors(tensors: Tensors, source: str, dtype: jnp.dtype | None) -> tuple[Dinov2, Any]:
    """Returns (model, params); the size is read from the tensors.

    Args:
        tensors: under transformers' names, old or new.
        source: where they are from, for messages.
        dtype: of the computation; None for that of the images.
    Raises:
        UserError: they are not those of a DINOv2.
    """
    tensors = strip_prefix(tensors, "embeddings.cls_token", source)
    tensors = rename(tensors, RENAMED)
    hidden_size = shape_of(tensors, "embeddings.cls_token", 3, source)[2]
    positions = shape_of(tensors, "embeddings.position_embeddings", 3, source)[1]
    patch_size = shape_of(tensors, "embeddings.patch_embeddings.projection.weight", 4, source)[2]
    registers = 0
    if "embeddings.register_tokens" in tensors:
        registers = shape_of(tensors, "embeddings.register_tokens", 3, source)[1]
    model = Dinov2(
        hidden_size,
        num_layers=count(tensors, r"encoder\.layer\.(\d+)\."),
        heads=max(hidden_size // HEAD_WIDTH, 1),
        patch_size=patch_size,
        grid=round((positions - 1) ** 0.5),
        registers=registers,
        dtype=dtype,
    )
    expected = expected_shapes(model, (1, patch_size, patch_size, 3))
    return model, match(tensors, expected, source, ignore=("embeddings.mask_token",))
