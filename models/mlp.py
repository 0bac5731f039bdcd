"""A residual MLP generator for vectors and small images, conditioned and called as the DiT is."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from drifting.images import clip
from models.conditioning import Conditioning
from models.generator import check_inputs, check_positive
from models.layers import Dense, OutputLayer, ZeroDense, modulate, normalisation, scan_blocks
from utils.errors import UserError


class MLPGenerator(nn.Module):
    """Residual MLP with adaLN-zero. Noise and sample have the same shape; it plays no role.

    Attributes:
        cond_dim, num_classes, noise_classes, noise_coords: as in `models.dit.DiT`.
        sample_shape: shape of one sample, (D,) or (H, W, C).
        hidden_size: width of the residual stream.
        depth: number of blocks.
        mlp_ratio: width inside a block / hidden_size.
        use_bf16: matrix products in bfloat16; parameters, norms and the output stay float32.
        remat, zero_init_output, null_class, unroll, from_flow, clip_output, clip_margin,
            condition_width: as in `models.dit.DiT`.
    """

    cond_dim: int
    num_classes: int
    noise_classes: int
    noise_coords: int
    sample_shape: tuple[int, ...]
    hidden_size: int
    depth: int
    mlp_ratio: float
    use_bf16: bool
    remat: bool = False
    zero_init_output: bool = False
    null_class: bool = False
    unroll: int = 1
    from_flow: bool = False
    clip_output: bool = False
    clip_margin: float = 0.0
    condition_width: int = 0

    def __post_init__(self):
        self.sample_shape = tuple(self.sample_shape)  # a list, read from JSON, cannot be hashed
        check_positive(self, "cond_dim num_classes noise_coords hidden_size depth")
        if not self.sample_shape or min(self.sample_shape) < 1:
            raise UserError(
                f"sample_shape is {self.sample_shape}: give (D,) for vectors or (H, W, C) for "
                "images"
            )
        super().__post_init__()

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """The shape of one noise is that of one sample."""
        return self.sample_shape

    @nn.compact
    def __call__(
        self,
        noise: Float[Array, " B *shape"],
        labels: Int[Array, " B"] | Float[Array, "B W"],
        cfg_scale: Float[Array, " B"],
        style_indices: Int[Array, "B S"],
    ) -> Float[Array, " B *shape"]:
        """Returns samples, float32. Arguments and errors are those of `models.dit.DiT`."""
        check_inputs(self, noise, labels, cfg_scale, style_indices)
        if self.from_flow:
            cfg_scale = cfg_scale - 1
        dtype = jnp.bfloat16 if self.use_bf16 else jnp.float32
        cond = Conditioning(
            self.cond_dim,
            self.num_classes,
            self.noise_classes,
            self.noise_coords,
            self.null_class,
            self.condition_width,
            name="conditioning",
        )(labels, cfg_scale, style_indices)
        cond = nn.silu(cond)  # [B, cond_dim]

        n_features = math.prod(self.sample_shape)
        x = noise.reshape(-1, n_features)
        x = Dense(self.hidden_size, dtype=dtype, name="noise_embedding")(x)  # [B, hidden_size]
        blocks = scan_blocks(MLPBlock, self.depth, n_inputs=1, remat=self.remat, unroll=self.unroll)
        mlp_width = int(self.hidden_size * self.mlp_ratio)
        x, _ = blocks(mlp_width, dtype, name="blocks")(x, cond)
        x = OutputLayer(n_features, True, self.zero_init_output, dtype, name="output")(x, cond)
        x = x.reshape(noise.shape)
        x = noise + x if self.from_flow else x
        return clip(x, self.clip_margin) if self.clip_output else x


class MLPBlock(nn.Module):
    """x + gate * down(silu(up(modulated norm of x))), with `mlp_width` numbers in between."""

    mlp_width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B D"], cond: Float[Array, "B K"]
    ) -> tuple[Float[Array, "B D"], None]:
        modulation = ZeroDense(3 * x.shape[-1], dtype=self.dtype, name="modulation")(cond)
        shift, scale, gate = jnp.split(modulation, 3, axis=-1)  # each [B, D]
        h = modulate(normalisation(True, "norm")(x), shift, scale, self.dtype)
        h = nn.silu(Dense(self.mlp_width, dtype=self.dtype, name="up")(h))
        return x + gate * Dense(x.shape[-1], dtype=self.dtype, name="down")(h), None
