"""DINOv2 vision transformers (arXiv 2304.07193; registers: 2309.16588), inference only, with the tensor names of transformers' `Dinov2Model` ("*": the
layers, stacked)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from utils.errors import UserError


def cubic_matrix(size: int, new_size: int) -> np.ndarray:
    """[new_size, size]: bicubic interpolation as PyTorch does it without antialiasing: half-pixel centres, a = -0.75, clamped borders."""
    a = -0.75
    centre = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    first = np.floor(centre).astype(int) - 1
    matrix = np.zeros((new_size, size))
    for tap in range(4):
        d = np.abs(centre - (first + tap))
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * (d**3 - 5 * d**2 + 8 * d - 4)
        np.add.at(matrix, (np.arange(new_size), np.clip(first + tap, 0, size - 1)), np.where(d <= 1, near, far))
    return matrix


def resize_positions(positions: Float[Array, "P P D"], grid: tuple[int, int], antialias: bool) -> Float[Array, "h w D"]:
    """Position embeddings of a P x P grid for another one. antialias: PyTorch's antialiased bicubic, whose a is -0.5 as in JAX."""
    if antialias:
        return jax.image.resize(positions, (*grid, positions.shape[-1]), "cubic")
    rows, columns = (jnp.asarray(cubic_matrix(positions.shape[i], grid[i]), positions.dtype) for i in (0, 1))
    return jnp.einsum("hp,pqd,wq->hwd", rows, positions, columns, precision=jax.lax.Precision.HIGHEST)


class Layer(nn.Module):
    heads: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x, _):  # [B, T, D]; the signature of a scanned layer: (carry, nothing) -> (carry, output)
        b, t, d = x.shape
        norm = lambda name: nn.LayerNorm(1e-6, dtype=self.dtype, use_fast_variance=False, name=name)
        dense = lambda features, name: nn.Dense(features, dtype=self.dtype, name=name)
        layer_scale = lambda y, name: y * self.param(f"{name}.lambda1", nn.initializers.ones, (d,)).astype(y.dtype)

        y = norm("norm1")(x)
        q, k, v = (dense(d, f"attention.{n}_proj")(y).reshape(b, t, self.heads, -1) for n in "qkv")
        y = dense(d, "attention.o_proj")(jax.nn.dot_product_attention(q, k, v).reshape(b, t, d))
        x = x + layer_scale(y, "layer_scale1")
        y = nn.gelu(dense(4 * d, "mlp.fc1")(norm("norm2")(x)), approximate=False)
        x = x + layer_scale(dense(d, "mlp.fc2")(y), "layer_scale2")
        return x, x


class Dinov2(nn.Module):
    """hidden_size, num_layers: 384, 12 small; 768, 12 base; 1024, 24 large; heads of 64. patch_size: 14. grid: side of the trained position grid (37).
    registers: 0 or 4. dtype: of the computation; None: the input's."""

    hidden_size: int
    num_layers: int
    heads: int
    patch_size: int
    grid: int
    registers: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> dict[str, Array]:
        """Normalised images, H and W any multiples of patch_size -> {"layer1" ..: patch tokens [B,h,w,D] after each layer; "patches": the last, normalised;
        "cls" [B,1,D]: the normalised class token; "registers" [B,R,D], if any}."""
        p, d, extra = self.patch_size, self.hidden_size, 1 + self.registers
        b, height, width, _ = x.shape
        if height % p or width % p:
            raise UserError(f"DINOv2 got images of {height}x{width}: give an image_size that is a multiple of {p}")
        h, w = height // p, width // p
        token = lambda name, n: self.param(f"embeddings.{name}", nn.initializers.zeros, (1, n, d))
        positions = token("position_embeddings", 1 + self.grid**2)
        grid = resize_positions(positions[0, 1:].reshape(self.grid, self.grid, d), (h, w), antialias=self.registers > 0)

        x = nn.Conv(d, (p, p), p, padding="VALID", dtype=self.dtype, name="embeddings.patch_embeddings.projection")(x)
        x = (x + grid.astype(x.dtype)).reshape(b, h * w, d)
        first = [token("cls_token", 1) + positions[:, :1]]
        if self.registers:
            first.append(token("register_tokens", self.registers))  # registers have no position
        first = jnp.concatenate(first, 1).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (b, extra, d)), x], 1)  # [B, 1 + R + h w, D]

        layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.num_layers)
        x, hidden = layers(self.heads, self.dtype, name="encoder.layer.*")(x, None)
        x = nn.LayerNorm(1e-6, dtype=self.dtype, use_fast_variance=False, name="layernorm")(x)
        to_map = lambda tokens: tokens[:, extra:].reshape(b, h, w, d)
        maps = {f"layer{i + 1}": to_map(hidden[i]) for i in range(self.num_layers)}
        maps |= {"patches": to_map(x), "cls": x[:, :1]}
        return maps | ({"registers": x[:, 1:extra]} if self.registers else {})
