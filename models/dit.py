"""The DiT generator of Generative Modeling via Drifting (arXiv 2602.04770, section A.2).

The paper's sizes (ImageNet-256; B = 133M, L = 463M parameters):

    name  hidden_size  depth  num_heads
    B             768     12         12     latent 32x32x4: patch_size 2, pixel 256x256x3: patch_size 16
    L            1024     24         16     cond_dim = hidden_size, n_cls_tokens 16, noise_coords 32,
                                            noise_classes 64, mlp_ratio 4, SwiGLU, RoPE, RMSNorm, QK-norm

`Conditioning` and the functions at the end serve every generator; `models/mlp.py` uses them too.
"""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from utils.errors import UserError

EPS = 1e-6  # of every RMSNorm and LayerNorm
ALPHA_FREQUENCIES = 128  # the guidance scale enters as 128 cosines and 128 sines
ALPHA_WEIGHT = 0.02  # how loudly the guidance scale speaks beside the class embedding

small_normal = nn.initializers.normal(0.02)


class Dense(nn.Dense):
    """`nn.Dense` over [.., D] as one matrix: the gradient of the kernel is then a plain matrix product, which is faster on a CPU."""

    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B F"]:
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.features)


ZeroDense = functools.partial(Dense, kernel_init=nn.initializers.zeros)

Rotation = tuple[
    Float[Array, "T 1 half"], Float[Array, "T 1 half"]
]  # cos and sin of each token's angles


class DiT(nn.Module):
    """Diffusion transformer with adaLN-zero, used as a one-step generator.

    The fields up to `attn_fp32` are the keys of `model_config` in the published artifacts:

    cond_dim        width of the conditioning vector
    num_classes     labels are 0 .. num_classes - 1
    noise_classes   entries of each style codebook; 0: no style embeddings
    noise_coords    number of style codebooks
    input_size      height and width of a sample: one number, or (height, width)
    in_channels     channels of the noise
    n_cls_tokens    in-context tokens before the patches: projected conditioning + learned position;
                    dropped at the end
    patch_size      side of a patch; divides the height and the width
    hidden_size     width of the residual stream
    depth           number of blocks; they are scanned, so compile time does not depend on it
    num_heads       divides hidden_size
    mlp_ratio       MLP width / hidden_size; SwiGLU takes 2/3 of it, rounded up to a multiple of 32
    out_channels    channels of the sample
    use_qknorm      RMSNorm on queries and keys
    use_swiglu      SwiGLU MLP, or else exact GELU
    use_rope        rotary positions over the whole sequence, in-context tokens included
    use_rmsnorm     RMSNorm with a learned scale, or else LayerNorm without parameters
    use_bf16        matmuls in bfloat16; parameters, norms and the output stay float32
    attn_fp32       queries, keys and values enter the attention in float32
    remat           keep only the input of each block for the backward pass, not also its matrix products
    zero_init_output
                    start from a zero output layer. All samples then coincide, which is an equilibrium of
                    the drifting loss: training may never leave it
    null_class      one more class embedding, index num_classes: the unconditional class
    attention       "xla", or "cudnn" (GPU, bfloat16 attention only)
    unroll          blocks in one turn of the loop over depth: more run a little faster on a CPU and compile slower
    """

    cond_dim: int
    num_classes: int
    noise_classes: int
    noise_coords: int
    input_size: int | Sequence[int]
    in_channels: int
    n_cls_tokens: int
    patch_size: int
    hidden_size: int
    depth: int
    num_heads: int
    mlp_ratio: float
    out_channels: int
    use_qknorm: bool
    use_swiglu: bool
    use_rope: bool
    use_rmsnorm: bool
    use_bf16: bool
    attn_fp32: bool
    remat: bool = False
    zero_init_output: bool = False
    null_class: bool = False
    attention: str = "xla"
    unroll: int = 1

    def __post_init__(self):
        if not isinstance(self.input_size, int):
            self.input_size = tuple(self.input_size)  # a list, read from JSON, cannot be hashed
        check_dit(self)
        super().__post_init__()

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one noise."""
        return *_pair(self.input_size), self.in_channels

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one sample."""
        return *_pair(self.input_size), self.out_channels

    @nn.compact
    def __call__(
        self,
        noise: Float[Array, "B H W C"],
        labels: Int[Array, " B"],
        cfg_scale: Float[Array, " B"],
        style_indices: Int[Array, "B S"],
    ) -> Float[Array, "B H W C_out"]:
        """Samples, float32, for standard normal `noise`.

        labels: 0 .. num_classes - 1, and num_classes with `null_class`.
        cfg_scale: the guidance scale alpha, 1 = none.
        style_indices: 0 .. noise_classes - 1, one for each codebook, see `draw_style_indices`.
        Raises UserError for wrong shapes and types; an index too large makes its sample NaN.
        """
        check_inputs(self, noise, labels, cfg_scale, style_indices)
        dtype = jnp.bfloat16 if self.use_bf16 else jnp.float32
        patch, width = self.patch_size, self.hidden_size
        rows, columns = (size // patch for size in _pair(self.input_size))

        cond = Conditioning(
            self.cond_dim,
            self.num_classes,
            self.noise_classes,
            self.noise_coords,
            self.null_class,
            name="conditioning",
        )(labels, cfg_scale, style_indices)  # [B, cond_dim]

        patches = noise.reshape(-1, rows, patch, columns, patch, self.in_channels)
        patches = patches.swapaxes(2, 3).reshape(-1, rows * columns, patch**2 * self.in_channels)
        positions = self.param(
            "positions", _sincos_positions, rows, columns, width
        )  # [1, N, width]
        x = Dense(width, dtype=dtype, name="patch_embedding")(patches) + positions.astype(dtype)
        if self.n_cls_tokens:
            context = Dense(width, dtype=dtype, name="context_projection")(cond)[
                :, None
            ]  # [B, 1, width]
            positions = self.param("context_positions", small_normal, (1, self.n_cls_tokens, width))
            x = jnp.concatenate([context + positions.astype(dtype), x], axis=1)  # [B, T, width]

        # adaLN reads silu(cond) everywhere; the in-context tokens read cond itself.
        cond = nn.silu(cond)
        rotation = _rope_rotation(x.shape[1], width // self.num_heads) if self.use_rope else None
        blocks = nn.scan(
            rematerialised(Block, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=self.depth,
            unroll=self.unroll,
        )
        x, _ = blocks(
            num_heads=self.num_heads,
            mlp_width=self._mlp_width(),
            use_qknorm=self.use_qknorm,
            use_swiglu=self.use_swiglu,
            use_rmsnorm=self.use_rmsnorm,
            attn_fp32=self.attn_fp32,
            attention=self.attention,
            dtype=dtype,
            name="blocks",
        )(x, cond, rotation)

        x = x[:, self.n_cls_tokens :]
        x = OutputLayer(
            patch**2 * self.out_channels,
            self.use_rmsnorm,
            self.zero_init_output,
            dtype,
            name="output",
        )(x, cond)
        x = x.reshape(-1, rows, columns, patch, patch, self.out_channels)
        return x.swapaxes(2, 3).reshape(-1, *self.sample_shape)

    def _mlp_width(self) -> int:
        if self.use_swiglu:
            return -(-int(self.hidden_size * self.mlp_ratio * 2 / 3) // 32) * 32
        return int(self.hidden_size * self.mlp_ratio)


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the conditioning (adaLN-zero)."""

    num_heads: int
    mlp_width: int
    use_qknorm: bool
    use_swiglu: bool
    use_rmsnorm: bool
    attn_fp32: bool
    attention: str
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], cond: Float[Array, "B K"], rotation: Rotation | None
    ):
        modulation = ZeroDense(6 * x.shape[-1], dtype=self.dtype, name="modulation")(cond)
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(
            modulation[:, None], 6, axis=-1
        )  # each [B, 1, D]

        h = modulate(normalisation(self.use_rmsnorm, "norm1")(x), shift1, scale1, self.dtype)
        h = Attention(
            self.num_heads,
            self.use_qknorm,
            self.attn_fp32,
            self.attention,
            self.dtype,
            name="attention",
        )(h, rotation)
        x = x + gate1 * h

        h = modulate(normalisation(self.use_rmsnorm, "norm2")(x), shift2, scale2, self.dtype)
        mlp = SwiGLU if self.use_swiglu else GeluMLP
        x = x + gate2 * mlp(self.mlp_width, self.dtype, name="mlp")(h)
        return x, None


class Attention(nn.Module):
    """Multi-head self-attention; one matmul gives queries, keys and values as [3, heads, head width]."""

    num_heads: int
    use_qknorm: bool
    attn_fp32: bool
    attention: str
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], rotation: Rotation | None
    ) -> Float[Array, "B T D"]:
        batch, tokens, width = x.shape
        qkv = Dense(3 * width, dtype=self.dtype, name="qkv")(x)
        qkv = qkv.reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # each [B, T, heads, head width]
        if self.use_qknorm:
            q = normalisation(True, "q_norm")(q)
            k = normalisation(True, "k_norm")(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        dtype = jnp.float32 if self.attn_fp32 else self.dtype
        out = jax.nn.dot_product_attention(
            q.astype(dtype), k.astype(dtype), v.astype(dtype), implementation=self.attention
        )
        return Dense(width, dtype=self.dtype, name="out")(out.reshape(batch, tokens, width))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        gate = Dense(self.width, dtype=self.dtype, name="gate")(x)
        up = Dense(self.width, dtype=self.dtype, name="up")(x)
        return Dense(x.shape[-1], dtype=self.dtype, name="down")(nn.silu(gate) * up)


class GeluMLP(nn.Module):
    """down(gelu(up(x))), with the exact GELU."""

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        up = Dense(self.width, dtype=self.dtype, name="up")(x)
        return Dense(x.shape[-1], dtype=self.dtype, name="down")(nn.gelu(up, approximate=False))


class OutputLayer(nn.Module):
    """Modulated norm and the last matmul.

    The matmul is float32: the steps of bfloat16 near 1 are half an 8-bit grey level.
    """

    features: int
    use_rmsnorm: bool
    zero_init: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B *T D"], cond: Float[Array, "B K"]
    ) -> Float[Array, "B *T F"]:
        modulation = ZeroDense(2 * x.shape[-1], dtype=self.dtype, name="modulation")(cond)
        if x.ndim == 3:
            modulation = modulation[:, None]  # the same for every token
        shift, scale = jnp.split(modulation, 2, axis=-1)
        x = modulate(normalisation(self.use_rmsnorm, "norm")(x), shift, scale, jnp.float32)
        return (ZeroDense if self.zero_init else Dense)(
            self.features, dtype=jnp.float32, name="linear"
        )(x)


class Conditioning(nn.Module):
    """Class embedding + sum of style embeddings + 0.02 RMSNorm(MLP(sinusoids of alpha)) (section A.2)."""

    cond_dim: int
    num_classes: int
    noise_classes: int
    noise_coords: int
    null_class: bool

    @nn.compact
    def __call__(
        self,
        labels: Int[Array, " B"],
        cfg_scale: Float[Array, " B"],
        style_indices: Int[Array, "B S"],
    ) -> Float[Array, "B K"]:
        classes = self.num_classes + self.null_class
        embedding = self.param("class_embedding", small_normal, (classes, self.cond_dim))
        cond = jnp.asarray(embedding).at[labels].get(mode="fill", fill_value=jnp.nan)  # [B, K]
        if self.noise_classes:
            shape = (self.noise_coords, self.noise_classes, self.cond_dim)
            codebooks = self.param("style_codebooks", small_normal, shape)
            styles = jnp.asarray(codebooks).at[jnp.arange(self.noise_coords), style_indices]
            cond += styles.get(mode="fill", fill_value=jnp.nan).sum(axis=1)  # [B, S, K] -> [B, K]

        dense = functools.partial(nn.Dense, self.cond_dim, kernel_init=small_normal)
        frequencies = 10_000.0 ** (-np.arange(ALPHA_FREQUENCIES) / ALPHA_FREQUENCIES)
        angles = cfg_scale.astype(jnp.float32)[:, None] * frequencies.astype(np.float32)  # [B, 128]
        alpha = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        alpha = dense(name="alpha_out")(nn.silu(dense(name="alpha_in")(alpha)))
        return cond + ALPHA_WEIGHT * normalisation(True, "alpha_norm")(alpha)


def normalisation(use_rmsnorm: bool, name: str) -> nn.Module:
    """RMSNorm with a learned scale, or LayerNorm without parameters; over the last axis, float32 out."""
    if use_rmsnorm:
        return nn.RMSNorm(epsilon=EPS, dtype=jnp.float32, name=name)
    return nn.LayerNorm(epsilon=EPS, dtype=jnp.float32, use_bias=False, use_scale=False, name=name)


def modulate(x: Array, shift: Array, scale: Array, dtype: DTypeLike) -> Array:
    """x (1 + scale) + shift, as `dtype`."""
    return (x * (1 + scale) + shift).astype(dtype)


def rotate(x: Float[Array, "B T heads d"], rotation: Rotation) -> Float[Array, "B T heads d"]:
    """Rotary positions: the pair (x[i], x[i + d/2]) turns by the angle of token t; float32 out."""
    cos, sin = rotation  # each [T, 1, d/2]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _rope_rotation(tokens: int, head_width: int) -> Rotation:
    """cos and sin [T, 1, d/2] of t * 10000^(-2i/d); t counts along the whole sequence, row by row."""
    frequencies = 10_000.0 ** (-np.arange(0, head_width, 2) / head_width)
    angles = np.arange(tokens)[:, None, None] * frequencies
    return jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)


def _sincos_positions(
    key: Array | None, rows: int, columns: int, width: int
) -> Float[Array, "1 N D"]:
    """2-D sin-cos embedding: half of the width encodes the column, half the row."""
    del key  # nothing is random, but Flax gives every initialiser a key
    frequencies = 10_000.0 ** (-np.arange(width // 4) / (width // 4))
    row, column = np.divmod(np.arange(rows * columns), columns)
    angles = [axis[:, None] * frequencies for axis in (column, row)]  # each [N, D/4]
    embedding = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=-1)  # [N, D]
    return jnp.asarray(embedding[None], jnp.float32)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


# What every generator shares: what the backward pass keeps, checks, initial parameters, style draws.


def rematerialised(block: type[nn.Module], everything: bool) -> type[nn.Module]:
    """`block` with its element-wise work computed again in the backward pass, which is cheaper than keeping it in memory; with `everything`, its matrix products too."""
    policy = None if everything else jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return nn.remat(
        block, prevent_cse=False, policy=policy
    )  # within a scan, nothing could be merged with the forward pass


def check_dit(model: DiT) -> None:
    """Raises UserError where the fields of `model` contradict one another."""
    check_positive(model, "cond_dim num_classes noise_coords in_channels out_channels")
    check_positive(model, "patch_size hidden_size depth num_heads")
    size = _pair(model.input_size)
    if len(size) != 2 or any(s < 1 or s % model.patch_size for s in size):
        raise UserError(
            f"input_size {model.input_size} cannot be cut into patches of patch_size {model.patch_size}: "
            "give a patch_size that divides the height and the width"
        )
    if model.hidden_size % model.num_heads:
        raise UserError(
            f"hidden_size {model.hidden_size} is not a multiple of num_heads {model.num_heads}: change one"
        )
    if model.hidden_size % 4:
        raise UserError(
            f"hidden_size {model.hidden_size} must be a multiple of 4 for the 2-D sin-cos positions"
        )
    head_width = model.hidden_size // model.num_heads
    if model.use_rope and head_width % 2:
        raise UserError(
            f"use_rope needs an even head width, but hidden_size / num_heads is {model.hidden_size} / "
            f"{model.num_heads} = {head_width}: change one"
        )
    if model.attention not in ("xla", "cudnn"):
        raise UserError(f'attention {model.attention!r} is unknown: use "xla" or "cudnn"')
    if model.attention == "cudnn" and (not model.use_bf16 or model.attn_fp32):
        raise UserError(
            'attention "cudnn" works in bfloat16 only: set use_bf16=True and attn_fp32=False, or use "xla"'
        )


def check_positive(model: nn.Module, fields: str) -> None:
    """Raises UserError for the first of the space-separated `fields` below 1, or a negative noise_classes."""
    for field in fields.split():
        if getattr(model, field) < 1:
            raise UserError(f"{field} is {getattr(model, field)}: it must be at least 1")
    if model.noise_classes < 0:
        raise UserError(
            f"noise_classes is {model.noise_classes}: it must be 0 (no style embeddings) or more"
        )


def check_inputs(model: nn.Module, noise, labels, cfg_scale, style_indices) -> None:
    """Raises UserError where a generator's inputs have another shape or type than `model` takes."""
    batch = noise.shape[0] if noise.ndim else 0
    expected = {
        "noise": (noise, (batch, *model.noise_shape), jnp.floating),
        "labels": (labels, (batch,), jnp.integer),
        "cfg_scale": (cfg_scale, (batch,), jnp.floating),
        "style_indices": (style_indices, (batch, model.noise_coords), jnp.integer),
    }
    for name, (array, shape, kind) in expected.items():
        if array.shape != shape:
            raise UserError(
                f"{name} has shape {array.shape}, but this {type(model).__name__} expects {shape}"
            )
        if not jnp.issubdtype(array.dtype, kind):
            raise UserError(
                f"{name} is {array.dtype}, but {kind.__name__} numbers are expected: convert it"
            )
    backend = jax.default_backend()
    if getattr(model, "attention", None) == "cudnn" and backend != "gpu":
        raise UserError(
            f'attention "cudnn" needs a GPU, but JAX runs on {backend}: use attention "xla"'
        )


def init_params(model: nn.Module, key: Array) -> dict:
    """Initial parameters of any generator, a float32 tree; `jax.eval_shape` of it costs nothing."""
    return jax.jit(model.init)(
        key,
        jnp.zeros((1, *model.noise_shape)),
        jnp.zeros((1,), jnp.int32),
        jnp.ones((1,)),
        jnp.zeros((1, model.noise_coords), jnp.int32),
    )["params"]


def draw_style_indices(model: nn.Module, key: Array, batch: int) -> Int[Array, "B S"]:
    """Uniform random style indices [B, noise_coords], int32; zeros for a model without style embeddings."""
    return jax.random.randint(
        key, (batch, model.noise_coords), 0, max(model.noise_classes, 1), jnp.int32
    )


def count_parameters(params) -> int:
    """Number of scalars in a tree of arrays or of `jax.ShapeDtypeStruct`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
