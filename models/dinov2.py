"""DINOv2 vision transformers (arXiv 2304.07193; registers: 2309.16588), inference only, with the tensor names
of transformers' `Dinov2Model` ("*": the layers, stacked)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from utils.errors import UserError
from utils.weight_files.tensors import count, expected_shapes, match, rename, shape_of, strip_prefix


def cubic_matrix(size: int, new_size: int) -> np.ndarray:
    """[new_size, size]: bicubic interpolation as PyTorch does it without antialiasing: half-pixel centres,
    clamped borders, a = -0.75 (JAX's "cubic" has -0.5)."""
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


def resize_positions(
    positions: Float[Array, "P P D"], grid: tuple[int, int], antialias: bool
) -> Float[Array, "h w D"]:
    """Position embeddings of a P x P grid for another one. antialias: as transformers does with registers;
    PyTorch's antialiased bicubic has a = -0.5, as JAX's."""
    if antialias:
        return jax.image.resize(positions, (*grid, positions.shape[-1]), "cubic")
    rows, columns = (
        jnp.asarray(cubic_matrix(positions.shape[i], grid[i]), positions.dtype) for i in (0, 1)
    )
    return jnp.einsum(
        "hp,pqd,wq->hwd", rows, positions, columns, precision=jax.lax.Precision.HIGHEST
    )


class Layer(nn.Module):
    heads: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x, _):  # [B, T, D]; a scanned layer: (carry, nothing) -> (carry, output)
        b, t, d = x.shape
        norm = lambda name: nn.LayerNorm(1e-6, dtype=self.dtype, use_fast_variance=False, name=name)
        dense = lambda features, name: nn.Dense(features, dtype=self.dtype, name=name)
        scale = lambda name: self.param(f"{name}.lambda1", nn.initializers.ones, (d,)).astype(
            x.dtype
        )

        y = norm("norm1")(x)
        q, k, v = (dense(d, f"attention.{n}_proj")(y).reshape(b, t, self.heads, -1) for n in "qkv")
        logits = jnp.einsum("bqhc,bkhc->bhqk", q, k) * (d // self.heads) ** -0.5
        weights = nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
        y = jnp.einsum("bhqk,bkhc->bqhc", weights.astype(v.dtype), v)
        y = dense(d, "attention.o_proj")(y.reshape(b, t, d))
        x = x + y * scale("layer_scale1")
        y = nn.gelu(dense(4 * d, "mlp.fc1")(norm("norm2")(x)), approximate=False)
        x = x + dense(d, "mlp.fc2")(y) * scale("layer_scale2")
        return x, x


class Dinov2(nn.Module):
    """The sizes are small: hidden_size 384, num_layers 12; base: 768, 12; large: 1024, 24. A head has 64
    channels.

    patch_size  14
    grid        side of the trained grid of positions: 37
    registers   tokens beside the class token: 0 or 4
    dtype       of the computation; None: the input's
    """

    hidden_size: int
    num_layers: int
    heads: int
    patch_size: int
    grid: int
    registers: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> dict[str, Array]:
        """Normalised images, H and W any multiples of patch_size -> {"layer1" ..: patch tokens [B,h,w,D]
        after each layer; "patches": the last, normalised; "cls" [B,1,D]: the normalised class token;
        "registers" [B,R,D], if any}."""
        p, d, extra = self.patch_size, self.hidden_size, 1 + self.registers
        b, height, width, _ = x.shape
        if height % p or width % p:
            raise UserError(
                f"DINOv2 got images of {height}x{width}: give an image_size that is a multiple of {p}"
            )
        h, w = height // p, width // p
        token = lambda name, n: self.param(f"embeddings.{name}", nn.initializers.zeros, (1, n, d))
        positions = token("position_embeddings", 1 + self.grid**2)
        grid = positions[0, 1:].reshape(self.grid, self.grid, d)
        grid = resize_positions(grid, (h, w), antialias=self.registers > 0)

        name = "embeddings.patch_embeddings.projection"
        x = nn.Conv(d, (p, p), p, padding="VALID", dtype=self.dtype, name=name)(x)
        x = (x + grid.astype(x.dtype)).reshape(b, h * w, d)
        first = [token("cls_token", 1) + positions[:, :1]]
        if self.registers:
            first.append(token("register_tokens", self.registers))  # registers have no position
        first = jnp.concatenate(first, 1).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (b, extra, d)), x], 1)  # [B, 1 + R + h w, D]

        layers = nn.scan(Layer, {"params": 0}, split_rngs={"params": True}, length=self.num_layers)
        x, hidden = layers(self.heads, self.dtype, name="encoder.layer.*")(x, None)
        x = nn.LayerNorm(1e-6, dtype=self.dtype, use_fast_variance=False, name="layernorm")(x)
        to_map = lambda tokens: tokens[:, extra:].reshape(b, h, w, d)
        maps = {f"layer{i + 1}": to_map(hidden[i]) for i in range(self.num_layers)}
        maps |= {"patches": to_map(x), "cls": x[:, :1]}
        return maps | ({"registers": x[:, 1:extra]} if self.registers else {})


# Names in the published files -> names of transformers since version 5.
PUBLISHED_NAMES = {
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
}


def from_tensors(
    tensors: dict[str, np.ndarray], source: str, dtype: jnp.dtype | None
) -> tuple[Dinov2, dict]:
    """(model, params) from tensors under transformers' names, old or new; the size is read from them. Raises
    UserError."""
    tensors = strip_prefix(tensors, "embeddings.cls_token", source)
    tensors = rename(tensors, PUBLISHED_NAMES)
    hidden_size = shape_of(tensors, "embeddings.cls_token", 3, source)[2]
    positions = shape_of(tensors, "embeddings.position_embeddings", 3, source)[1]
    patch_size = shape_of(tensors, "embeddings.patch_embeddings.projection.weight", 4, source)[2]
    has_registers = "embeddings.register_tokens" in tensors
    model = Dinov2(
        hidden_size,
        num_layers=count(tensors, r"encoder\.layer\.(\d+)\."),
        heads=max(hidden_size // 64, 1),
        patch_size=patch_size,
        grid=round((positions - 1) ** 0.5),
        registers=shape_of(tensors, "embeddings.register_tokens", 3, source)[1]
        if has_registers
        else 0,
        dtype=dtype,
    )
    expected = expected_shapes(model, (1, patch_size, patch_size, 3))
    return model, match(tensors, expected, source, ignore=("embeddings.mask_token",))
