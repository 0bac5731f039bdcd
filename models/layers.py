"""The layers that the generators are made of: adaLN-zero, norms, and how blocks are stacked.

adaLN-zero (Peebles and Xie, arXiv 2212.09748): the conditioning vector gives every block its own
shift, scale and gate. The layer that computes them starts at zero, so a block is the identity
at first.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

EPSILON = 1e-6  # of every RMSNorm and LayerNorm

small_normal = nn.initializers.normal(0.02)


class Dense(nn.Dense):
    """`nn.Dense` on [..., D], computed as one product of two matrices.

    With all leading axes merged the gradient of the kernel is a plain matrix product too, which
    is faster on a CPU.
    """

    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

    def __call__(self, inputs: Float[Array, "*B D"]) -> Float[Array, "*B F"]:
        rows = inputs.reshape(-1, inputs.shape[-1])
        return super().__call__(rows).reshape(*inputs.shape[:-1], self.features)


ZeroDense = functools.partial(Dense, kernel_init=nn.initializers.zeros)


def normalisation(use_rmsnorm: bool, name: str) -> nn.Module:
    """Returns a norm over the last axis, with a float32 result.

    It is an RMSNorm with a learned scale, or else a LayerNorm without parameters.
    """
    if use_rmsnorm:
        return nn.RMSNorm(epsilon=EPSILON, dtype=jnp.float32, name=name)
    return nn.LayerNorm(
        epsilon=EPSILON, dtype=jnp.float32, use_bias=False, use_scale=False, name=name
    )


def modulate(x: Array, shift: Array, scale: Array, dtype: DTypeLike) -> Array:
    """Returns x (1 + scale) + shift, as `dtype`."""
    return (x * (1 + scale) + shift).astype(dtype)


class OutputLayer(nn.Module):
    """The last norm, modulated, and the last matrix product.

    The product is float32: the steps of bfloat16 near 1 are half an 8-bit grey level.

    Attributes:
        features: the width of the result.
        use_rmsnorm: as in `normalisation`.
        zero_init: start with a kernel of zeros.
        dtype: of the product that gives the modulation.
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
        dense = ZeroDense if self.zero_init else Dense
        return dense(self.features, dtype=jnp.float32, name="linear")(x)


# ---- a stack of blocks ----


def scan_blocks(
    block: type[nn.Module], depth: int, n_inputs: int, *, remat: bool, unroll: int
) -> Any:
    """Returns the class of `depth` blocks, one after another, written as a loop.

    The parameters of all blocks are stacked on a first axis, and the block is compiled once, so
    that the time to compile does not depend on the depth.

    Args:
        block: called as (x, *inputs) -> (x, None).
        depth: the number of blocks.
        n_inputs: how many inputs, each the same for all blocks, are given beside x.
        remat: whether the backward pass computes a block again from its input. It otherwise keeps
            the block's matrix products, and computes again only the element-wise work between
            them, which is cheaper than keeping it in memory.
        unroll: blocks in one turn of the loop.
    """
    if remat:
        policy = None
    else:
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    # Within a loop nothing could be merged with the forward pass, so no need to prevent that.
    block = nn.remat(block, prevent_cse=False, policy=policy)
    axes: dict[str, Any] = {"in_axes": (nn.broadcast,) * n_inputs}
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=depth,
        unroll=unroll,
        **axes,
    )
