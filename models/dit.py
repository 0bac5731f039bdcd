"""The DiT generator of Generative Modeling via Drifting (arXiv 2602.04770, section A.2).

One pass takes noise to a sample. `DiT.__call__` reads top to bottom as the paper tells it:

    conditioning    class embedding + style embeddings + guidance scale (models/conditioning.py)
    patches         the noise is cut into patches; their positions start as 2-D sin-cos
    context         16 in-context tokens, made of the conditioning, are put before the patches
    blocks          attention and MLP with adaLN-zero, RMSNorm, QK-norm, RoPE and SwiGLU
    output          the in-context tokens are dropped; each patch token becomes its patch

Our own, off in the paper's sizes: convolutions over the borders of patches, and clipped pixels.

The paper's sizes on ImageNet at 256x256 (B has 133M parameters, L 463M):

    name    hidden_size    depth    num_heads
    B               768       12           12
    L              1024       24           16

Latents 32x32x4 are cut with patch_size 2, pixels 256x256x3 with patch_size 16. All have cond_dim
= hidden_size, n_cls_tokens 16, noise_coords 32, noise_classes 64 and mlp_ratio 4.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from drifting.images import clip, clip_around
from models.conditioning import Conditioning
from models.fused_attention import fits, fused_attention
from models.generator import check_inputs, check_positive
from models.layers import (
    Dense,
    OutputLayer,
    ZeroDense,
    modulate,
    normalisation,
    scan_blocks,
    small_normal,
)
from models.positions import Rotation, rope_rotation, rotate, sincos_positions
from models.refinement import Refinement
from utils.errors import UserError
from utils.sharding import device_of_samples

AttentionKernel = Literal["auto", "xla", "cudnn", "pallas"]
# What "auto" takes a kernel for.
KIND_OF_PALLAS = "TPU v6 lite"  # JAX's name of the v6e
MOST_TOKENS_OF_PALLAS = 512  # the backward pass holds several weights of all pairs in the chip
WIDEST_HEAD_OF_CUDNN = 128  # on every GPU from Ampere on; newer ones take more


class DiT(nn.Module):
    """Diffusion transformer with adaLN-zero, used as a one-step generator.

    The attributes up to `attn_fp32` are the keys of `model_config` in the published artifacts.

    Attributes:
        cond_dim: width of the conditioning vector.
        num_classes: labels are 0 .. num_classes - 1.
        noise_classes: entries of each style codebook; 0 for no style embeddings.
        noise_coords: number of style codebooks.
        input_size: height and width of a sample: one number, or (height, width).
        in_channels: channels of the noise.
        n_cls_tokens: in-context tokens before the patches; 0 for none.
        patch_size: side of a patch; it divides the height and the width.
        hidden_size: width D of the residual stream.
        depth: number of blocks.
        num_heads: of the attention; it divides hidden_size.
        mlp_ratio: width of the MLP / hidden_size, see `mlp_width`.
        out_channels: channels of the sample.
        use_qknorm: RMSNorm on queries and keys.
        use_swiglu: a SwiGLU MLP, or else one with the exact GELU.
        use_rope: rotary positions over the whole sequence, in-context tokens included.
        use_rmsnorm: RMSNorm with a learned scale, or else LayerNorm without parameters.
        use_bf16: matrix products and the residual stream in bfloat16; parameters, norms and the
            output stay float32.
        attn_fp32: queries, keys and values enter the attention in float32, though with use_bf16
            they come from products in bfloat16.
        remat: the backward pass keeps only the input of each block, not also its matrix products.
        zero_init_output: start from a zero output layer. All samples then coincide, which is an
            equilibrium of the drifting loss: training may never leave it.
        null_class: one more class embedding, index num_classes: the unconditional class.
        attention: "xla"; "cudnn" (on a GPU, with bfloat16 attention only); "pallas" (on a TPU,
            see `models.fused_attention`; a CPU interprets it, slowly); or "auto", see
            `kernel_of_device`.
        unroll: blocks in one turn of the loop over the depth. More run a little faster on a CPU
            and compile slower.
        from_flow: the network is that of a rectified flow (baselines/flow.py), which takes one
            step: its velocity is added to the noise. The flow has its time in the place of
            alpha, so alpha - 1 enters: without guidance it is the time 0 of pure noise.
        clip_output: samples are clipped to [-1, 1], but for a tenth of what is beyond, and the
            gradient passes as if they were not (`drifting.images.clip`).
        clip_margin: how far beyond [-1, 1] that tenth begins. With convolutions samples are
            clipped twice, before them and after.
        refine_channels: channels of the convolutions after the last layer
            (`models.refinement`); 0 for none.
        antialias: with clip_output, how far around a pixel it is clipped in the end, in pixels
            (`drifting.images.clip_around`); its neighbours then get a part of its gradient. 0 for
            the pixel itself.
        condition_width: numbers of the conditions that are given in the place of labels; 0 for
            labels.
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
    attention: AttentionKernel = "xla"
    unroll: int = 1
    from_flow: bool = False
    clip_output: bool = False
    clip_margin: float = 0.0
    refine_channels: int = 0
    antialias: float = 0.0
    condition_width: int = 0

    def __post_init__(self):
        if not isinstance(self.input_size, int):
            self.input_size = tuple(self.input_size)  # a list, read from JSON, cannot be hashed
        check_dit(self)
        super().__post_init__()

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the noise of one sample."""
        height, width = _height_and_width(self.input_size)
        return height, width, self.in_channels

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one sample."""
        height, width = _height_and_width(self.input_size)
        return height, width, self.out_channels

    @property
    def dtype(self) -> DTypeLike:
        """The dtype of the matrix products."""
        return jnp.bfloat16 if self.use_bf16 else jnp.float32

    @property
    def mlp_width(self) -> int:
        """The width inside the MLP of a block.

        SwiGLU has three matrices where the plain MLP has two, so it takes 2/3 of the width,
        rounded up to a multiple of 32.
        """
        if self.use_swiglu:
            return -(-int(self.hidden_size * self.mlp_ratio * 2 / 3) // 32) * 32
        return int(self.hidden_size * self.mlp_ratio)

    def kernel_on(self, device: jax.Device) -> AttentionKernel:
        """Returns the attention kernel where samples are on such a device, never "auto"."""
        if self.attention != "auto":
            return self.attention
        rows, columns = self._grid()
        tokens = self.n_cls_tokens + rows * columns
        dtype = jnp.float32 if self.attn_fp32 else self.dtype
        return kernel_of_device(device, tokens, self.hidden_size, self.num_heads, dtype)

    @nn.compact
    def __call__(
        self,
        noise: Float[Array, "B H W C"],
        labels: Int[Array, " B"] | Float[Array, "B W"],
        cfg_scale: Float[Array, " B"],
        style_indices: Int[Array, "B S"],
    ) -> Float[Array, "B H W C_out"]:
        """Returns samples, float32.

        Args:
            noise: standard normal.
            labels: 0 .. num_classes - 1, and num_classes with `null_class`; or conditions, and NaN
                with `null_class`.
            cfg_scale: the guidance scale alpha; 1 is none.
            style_indices: 0 .. noise_classes - 1, one for each codebook, see
                `models.generator.draw_style_indices`.
        Raises:
            UserError: an input has a wrong shape or type. An index that is too large is not found
                out; it makes its sample NaN.
        """
        check_inputs(self, noise, labels, cfg_scale, style_indices)
        if self.from_flow:
            cfg_scale = cfg_scale - 1
        # Conditioning.
        cond = Conditioning(
            self.cond_dim,
            self.num_classes,
            self.noise_classes,
            self.noise_coords,
            self.null_class,
            self.condition_width,
            name="conditioning",
        )(labels, cfg_scale, style_indices)  # [B, cond_dim]

        # Patches and context.
        x = self._patches_to_tokens(noise)  # [B, N, D]
        x = self._prepend_context(x, cond)  # [B, T, D], T = n_cls_tokens + N

        # Blocks.
        cond = nn.silu(cond)  # adaLN reads silu(cond) everywhere; the context reads cond itself
        rotation = None
        if self.use_rope:
            rotation = rope_rotation(x.shape[1], self.hidden_size // self.num_heads)
        x = self._blocks()(x, cond, rotation)[0]  # [B, T, D]

        # Output.
        x = x[:, self.n_cls_tokens :]
        x = self._tokens_to_patches(x, cond)
        x = self._refine(x)
        x = noise + x if self.from_flow else x
        return self._clip(x)

    def _clip(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Returns the samples, clipped if they are to be."""
        if not self.clip_output:
            return x
        if self.antialias:
            return clip_around(x, self.clip_margin, self.antialias)
        return clip(x, self.clip_margin)

    def _patches_to_tokens(self, noise: Float[Array, "B H W C"]) -> Float[Array, "B N D"]:
        """Embeds the patches and adds the learned positions."""
        rows, columns = self._grid()
        patch = self.patch_size
        patches = rearrange(noise, "b (h p) (w q) c -> b (h w) (p q c)", p=patch, q=patch)
        positions = self.param("positions", sincos_positions, rows, columns, self.hidden_size)
        tokens = Dense(self.hidden_size, dtype=self.dtype, name="patch_embedding")(patches)
        return tokens + positions.astype(self.dtype)

    def _prepend_context(
        self, x: Float[Array, "B N D"], cond: Float[Array, "B K"]
    ) -> Float[Array, "B T D"]:
        """Puts the in-context tokens first: the projected conditioning + a learned position."""
        if not self.n_cls_tokens:
            return x
        context = Dense(self.hidden_size, dtype=self.dtype, name="context_projection")(cond)
        shape = (1, self.n_cls_tokens, self.hidden_size)
        positions = self.param("context_positions", small_normal, shape)
        context = context[:, None] + positions.astype(self.dtype)  # [B, n_cls_tokens, D]
        return jnp.concatenate([context, x], axis=1)

    def _blocks(self) -> nn.Module:
        """Returns the blocks, called as (x, cond, rotation) -> (x, None)."""
        blocks = scan_blocks(Block, self.depth, n_inputs=2, remat=self.remat, unroll=self.unroll)
        return blocks(
            num_heads=self.num_heads,
            mlp_width=self.mlp_width,
            use_qknorm=self.use_qknorm,
            use_swiglu=self.use_swiglu,
            use_rmsnorm=self.use_rmsnorm,
            attn_fp32=self.attn_fp32,
            attention=self.attention,
            dtype=self.dtype,
            name="blocks",
        )

    def _tokens_to_patches(
        self, x: Float[Array, "B N D"], cond: Float[Array, "B K"]
    ) -> Float[Array, "B H W C_out"]:
        """Turns each token into the numbers of its patch and puts the patches side by side."""
        rows, columns = self._grid()
        patch = self.patch_size
        features = patch**2 * self.out_channels
        x = OutputLayer(
            features, self.use_rmsnorm, self.zero_init_output, self.dtype, name="output"
        )(x, cond)
        grid = {"h": rows, "w": columns, "p": patch, "q": patch}
        return rearrange(x, "b (h w) (p q c) -> b (h p) (w q) c", **grid)

    def _refine(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Returns the samples, clipped as they are in the end, plus what convolutions add to them.

        Of a flow these are velocities, which are not clipped.
        """
        if not self.refine_channels:
            return x
        if self.clip_output and not self.from_flow:
            x = clip(x, self.clip_margin)
        return Refinement(self.refine_channels, self.dtype, name="refinement")(x)

    def _grid(self) -> tuple[int, int]:
        """The rows and columns of patches."""
        height, width = _height_and_width(self.input_size)
        return height // self.patch_size, width // self.patch_size


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the conditioning (adaLN-zero).

    Attributes are as in `DiT`; `dtype` is that of the matrix products.
    """

    num_heads: int
    mlp_width: int
    use_qknorm: bool
    use_swiglu: bool
    use_rmsnorm: bool
    attn_fp32: bool
    attention: AttentionKernel
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], cond: Float[Array, "B K"], rotation: Rotation | None
    ) -> tuple[Float[Array, "B T D"], None]:
        modulation = ZeroDense(6 * x.shape[-1], dtype=self.dtype, name="modulation")(cond)
        modulation = jnp.split(modulation[:, None], 6, axis=-1)  # each [B, 1, D]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation

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
    """Multi-head self-attention over all tokens, with QK-norm and RoPE.

    One matrix product gives queries, keys and values, laid out as [3, heads, head width].
    """

    num_heads: int
    use_qknorm: bool
    attn_fp32: bool
    attention: AttentionKernel
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], rotation: Rotation | None
    ) -> Float[Array, "B T D"]:
        width = x.shape[-1]
        qkv = Dense(3 * width, dtype=self.dtype, name="qkv")(x)
        dtype = jnp.float32 if self.attn_fp32 else self.dtype
        kernel = self.attention
        if kernel == "auto":
            device, tokens = device_of_samples(), x.shape[1]
            kernel = kernel_of_device(device, tokens, width, self.num_heads, dtype)
        if kernel == "pallas":
            with jax.named_scope("core"):
                scales = self._scales(width // self.num_heads)
                out = fused_attention(qkv, self.num_heads, scales, rotation, dtype)
        else:
            out = self._in_steps(qkv, rotation, dtype, kernel)
        return Dense(width, dtype=self.dtype, name="out")(out)

    @nn.nowrap  # its operations keep the name of the module alone
    def _in_steps(
        self,
        qkv: Float[Array, "B T three_D"],
        rotation: Rotation | None,
        dtype: DTypeLike,
        kernel: Literal["xla", "cudnn"],
    ) -> Float[Array, "B T D"]:
        """Norm, rotation, and the attention of JAX."""
        qkv = rearrange(
            qkv, "b t (three heads d) -> b t three heads d", three=3, heads=self.num_heads
        )
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # each [B, T, heads, d]
        if self.use_qknorm:
            q = normalisation(True, "q_norm")(q)
            k = normalisation(True, "k_norm")(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        q, k, v = q.astype(dtype), k.astype(dtype), v.astype(dtype)
        with jax.named_scope("core"):
            out = jax.nn.dot_product_attention(q, k, v, implementation=kernel)
        return rearrange(out, "b t heads d -> b t (heads d)")

    @nn.nowrap
    def _scales(self, head_width: int) -> tuple[Array, Array] | None:
        """The learned scales of the norms of queries and keys, for a kernel that has the norms."""
        if not self.use_qknorm:
            return None
        return Scale(head_width, name="q_norm")(), Scale(head_width, name="k_norm")()


def kernel_of_device(
    device: jax.Device, tokens: int, width: int, heads: int, dtype: DTypeLike
) -> Literal["xla", "cudnn", "pallas"]:
    """Returns the attention kernel that never stores the weights of all pairs of tokens.

    That is "pallas" on a TPU v6e, the chip that it has been compiled for, and "cudnn" on an NVIDIA
    GPU from Ampere on, where they take such heads; "xla" elsewhere. No chip has timed them yet.

    Args:
        device: one that holds samples. It need not be here: a step can be planned.
        tokens: of a sample.
        width: of all heads together.
        heads: their number.
        dtype: of queries, keys and values. cuDNN takes bfloat16 alone.
    """
    if device.device_kind == KIND_OF_PALLAS:
        return "pallas" if tokens <= MOST_TOKENS_OF_PALLAS and fits(width, heads) else "xla"
    capability = str(getattr(device, "compute_capability", ""))  # such as "9.0"; AMD's is "gfx90a"
    is_ampere = capability[:1].isdigit() and float(capability) >= 8
    if is_ampere and dtype == jnp.bfloat16 and fits_cudnn(width, heads):
        return "cudnn"
    return "xla"


def fits_cudnn(width: int, heads: int) -> bool:
    """Returns whether cuDNN takes attention of this width and number of heads on every GPU."""
    head = width // heads
    return head % 8 == 0 and head <= WIDEST_HEAD_OF_CUDNN


class Scale(nn.Module):
    """The parameter of an RMSNorm, without the norm."""

    width: int

    @nn.compact
    def __call__(self) -> Float[Array, " D"]:
        return self.param("scale", nn.initializers.ones, (self.width,))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), with `width` numbers in between."""

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        gate = Dense(self.width, dtype=self.dtype, name="gate")(x)
        up = Dense(self.width, dtype=self.dtype, name="up")(x)
        return Dense(x.shape[-1], dtype=self.dtype, name="down")(nn.silu(gate) * up)


class GeluMLP(nn.Module):
    """down(gelu(up(x))), with the exact GELU and `width` numbers in between."""

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        up = Dense(self.width, dtype=self.dtype, name="up")(x)
        return Dense(x.shape[-1], dtype=self.dtype, name="down")(nn.gelu(up, approximate=False))


# ---- checks ----


def check_dit(model: DiT) -> None:
    """Raises UserError where the fields of `model` contradict one another."""
    check_positive(model, "cond_dim num_classes noise_coords in_channels out_channels")
    check_positive(model, "patch_size hidden_size depth num_heads")
    _check_patches(model)
    _check_heads(model)
    kernels = get_args(AttentionKernel)
    if model.attention not in kernels:
        raise UserError(
            f"attention {model.attention!r} is unknown: use one of {', '.join(kernels)}"
        )
    if model.attention == "cudnn" and (not model.use_bf16 or model.attn_fp32):
        raise UserError(
            'attention "cudnn" works in bfloat16 only: set use_bf16=True and attn_fp32=False, '
            'or use "xla"'
        )
    if model.attention == "cudnn" and not fits_cudnn(model.hidden_size, model.num_heads):
        raise UserError(
            f'attention "cudnn" takes heads whose width is a multiple of 8, at most '
            f"{WIDEST_HEAD_OF_CUDNN}, not {model.num_heads} heads in {model.hidden_size}: "
            'use "xla"'
        )
    if model.attention == "pallas" and not fits(model.hidden_size, model.num_heads):
        raise UserError(
            'attention "pallas" takes heads whose width divides 128 or is a multiple of it, and a '
            f"hidden_size that is a multiple of 128, not {model.num_heads} heads in "
            f'{model.hidden_size}: use "xla"'
        )


def _check_patches(model: DiT) -> None:
    size = _height_and_width(model.input_size)
    if len(size) != 2 or any(side < 1 or side % model.patch_size for side in size):
        raise UserError(
            f"input_size {model.input_size} cannot be cut into patches of patch_size "
            f"{model.patch_size}: give a patch_size that divides the height and the width"
        )


def _check_heads(model: DiT) -> None:
    width, heads = model.hidden_size, model.num_heads
    if width % heads:
        raise UserError(f"hidden_size {width} is not a multiple of num_heads {heads}: change one")
    if width % 4:
        raise UserError(
            f"hidden_size {width} must be a multiple of 4 for the 2-D sin-cos positions"
        )
    if model.use_rope and (width // heads) % 2:
        raise UserError(
            f"use_rope needs an even head width, but hidden_size / num_heads is {width} / "
            f"{heads} = {width // heads}: change one"
        )


def _height_and_width(input_size: int | Sequence[int]) -> tuple[int, ...]:
    """Returns `input_size` as two numbers, if it is a size at all."""
    if isinstance(input_size, int):
        return input_size, input_size
    return tuple(input_size)
