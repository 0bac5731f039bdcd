"""Self-attention with QK-norm and RoPE as one kernel of a TPU, forward and backward.

Written in JAX's Pallas. A sample's queries, keys and values come into the chip's memory once; the
norm, the rotation, the softmax and both products happen there, and only the result goes back. The
backward pass does the same work again in the place of reading it. Attention as XLA compiles it
writes each of these steps to main memory, the weights of every pair of tokens included.

The lanes of a TPU come in groups of 128. Heads that are narrower share a group: a mask leaves one
head of it, and the product over the whole group is then the product of this head alone.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from models.layers import EPSILON
from models.positions import Rotation
from utils.sharding import sharding_of_samples

LANES = 128
# Of the chip's memory, whose usual share is too small for a backward pass of 272 tokens.
MEMORY_LIMIT = 64 * 2**20


def fits(width: int, heads: int) -> bool:
    """Returns whether the kernel takes attention of this width and number of heads."""
    head = width // heads
    return width % LANES == 0 and (LANES % head == 0 or head % LANES == 0)


def fused_attention(
    qkv: Float[Array, "B T three_D"],
    heads: int,
    scales: tuple[Float[Array, " d"], Float[Array, " d"]] | None,
    rotation: Rotation | None,
    dtype: DTypeLike,
) -> Float[Array, "B T D"]:
    """Returns the attention of all heads, side by side.

    Args:
        qkv: queries, keys and values, each of all heads side by side.
        heads: their number.
        scales: of the RMSNorm of queries and of keys; None for no norm.
        rotation: of `rope_rotation`; None for no rotation.
        dtype: of the operands of the products; sums, norm and softmax are float32.
    """
    tokens, width = qkv.shape[1], qkv.shape[2] // 3
    plan = Plan(
        heads,
        width,
        jnp.dtype(dtype).name,
        norm=scales is not None,
        rope=rotation is not None,
        sharding=sharding_of_samples(),
    )
    return _attention(plan, qkv, _angles(plan, tokens, rotation), _scales(plan, scales))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a kernel is compiled for."""

    heads: int
    width: int  # D, of all heads
    dtype: str  # of the operands of the products
    norm: bool
    rope: bool
    sharding: NamedSharding | None  # how samples are divided over devices

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def lanes(self) -> int:
        """The lanes of a group: one wide head, or several narrow ones."""
        return max(LANES, self.head_width)


def _angles(plan: Plan, tokens: int, rotation: Rotation | None) -> Float[Array, "2 T L"]:
    """Returns cosine and signed sine for each lane of a group.

    With them, a rotation is x cos + partner sin, where the partner of a lane is the other half of
    its pair. The sine of the first half is negative.
    """
    if rotation is None:
        return jnp.zeros((2, tokens, plan.lanes), jnp.float32)
    cos, sin = (jnp.squeeze(angles, 1) for angles in rotation)  # [T, d / 2]
    one_head = jnp.stack([jnp.tile(cos, 2), jnp.concatenate([-sin, sin], axis=-1)])
    return jnp.tile(one_head, plan.lanes // plan.head_width)


def _scales(plan: Plan, scales: tuple[Array, Array] | None) -> Float[Array, "2 L"]:
    if scales is None:
        return jnp.ones((2, plan.lanes), jnp.float32)
    return jnp.tile(jnp.stack(scales).astype(jnp.float32), plan.lanes // plan.head_width)


# ---- forward and backward, as JAX sees them ----


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan: Plan, qkv: Array, angles: Array, scales: Array) -> Array:
    return _by_samples(plan, partial(_forward_call, plan), (qkv, angles, scales))


def _attention_forward(plan: Plan, qkv: Array, angles: Array, scales: Array) -> tuple[Array, Any]:
    return _attention(plan, qkv, angles, scales), (qkv, angles, scales)


def _attention_backward(plan: Plan, inputs: Any, gradient: Array) -> tuple[Array, Array, Array]:
    arrays = (*inputs, gradient)
    of_qkv, of_scales = _by_samples(plan, partial(_backward_call, plan), arrays)
    return of_qkv, jnp.zeros_like(inputs[1]), of_scales.sum(0)


_attention.defvjp(_attention_forward, _attention_backward)


def _forward_call(plan: Plan, interpret: bool, qkv: Array, angles: Array, scales: Array) -> Array:
    batch, tokens, _ = qkv.shape
    return pl.pallas_call(
        partial(_forward_kernel, plan),
        grid=(batch,),
        in_specs=[_sample(qkv), _whole(angles), _whole(scales)],
        out_specs=pl.BlockSpec((1, tokens, plan.width), lambda sample: (sample, 0, 0)),
        out_shape=jax.ShapeDtypeStruct((batch, tokens, plan.width), qkv.dtype),
        compiler_params=_parameters(),
        interpret=interpret,
        name="fused_attention",
    )(qkv, angles, scales)


def _backward_call(
    plan: Plan, interpret: bool, qkv: Array, angles: Array, scales: Array, gradient: Array
) -> list[Array]:
    """Returns the gradients of qkv, and those of the scales for each sample."""
    of_scales = jax.ShapeDtypeStruct((qkv.shape[0], *scales.shape), jnp.float32)
    return pl.pallas_call(
        partial(_backward_kernel, plan),
        grid=(qkv.shape[0],),
        in_specs=[_sample(qkv), _whole(angles), _whole(scales), _sample(gradient)],
        out_specs=[_sample(qkv), _sample(of_scales)],
        out_shape=[jax.ShapeDtypeStruct(qkv.shape, qkv.dtype), of_scales],
        compiler_params=_parameters(),
        interpret=interpret,
        name="fused_attention_backward",
    )(qkv, angles, scales, gradient)


def _by_samples(plan: Plan, call: Any, arrays: tuple[Array, ...]) -> Any:
    """Returns call(interpret, *arrays), of which each device does its own samples.

    XLA cannot divide a kernel that it did not write.

    Args:
        plan: knows how the samples lie on the devices.
        call: takes first whether the kernel is interpreted, as it is on a CPU.
        arrays: qkv, angles, scales, and maybe more arrays of samples.
    """

    def by_platform(*arrays):
        compiled, interpreted = partial(call, False), partial(call, True)
        return jax.lax.platform_dependent(*arrays, cpu=interpreted, default=compiled)

    if plan.sharding is None:
        return by_platform(*arrays)
    samples = P(*plan.sharding.spec[:1])
    specs = [samples] * len(arrays)
    specs[1] = specs[2] = P()  # angles and scales
    divided = jax.shard_map(
        by_platform,
        mesh=plan.sharding.mesh,
        in_specs=tuple(specs),
        out_specs=samples,
        check_vma=False,
    )
    return divided(*arrays)


def _sample(array: Any) -> pl.BlockSpec:
    """A sample of [B, T, D] for each turn of the grid."""
    return pl.BlockSpec((1, *array.shape[1:]), lambda sample: (sample, 0, 0))


def _whole(array: Array) -> pl.BlockSpec:
    return pl.BlockSpec(array.shape, lambda sample: (0,) * array.ndim)


def _parameters() -> Any:
    return pltpu.CompilerParams(dimension_semantics=("parallel",), vmem_limit_bytes=MEMORY_LIMIT)


# ---- the kernels: one sample, a group of lanes after another ----


def _forward_kernel(plan: Plan, qkv_ref, angles_ref, scales_ref, out_ref):
    for start in range(0, plan.width, plan.lanes):
        q, k, v = _group(plan, qkv_ref, start)
        q = _prepare(plan, q, angles_ref, scales_ref[0:1])[0]
        k = _prepare(plan, k, angles_ref, scales_ref[1:2])[0].astype(plan.dtype)
        v = v.astype(plan.dtype)
        out = jnp.zeros_like(q)
        for mask in _masks(plan, q.shape):
            weights = _softmax(plan, _only(mask, q), k)
            out += _only(mask, _product(weights.astype(plan.dtype), v, (1, 0)))
        out_ref[0, :, start : start + plan.lanes] = out.astype(out_ref.dtype)


def _backward_kernel(
    plan: Plan, qkv_ref, angles_ref, scales_ref, gradient_ref, of_qkv_ref, of_scales_ref
):
    of_scales_ref[...] = jnp.zeros_like(of_scales_ref)
    for start in range(0, plan.width, plan.lanes):
        q, k, v = _group(plan, qkv_ref, start)
        q, q_before = _prepare(plan, q, angles_ref, scales_ref[0:1])
        k, k_before = _prepare(plan, k, angles_ref, scales_ref[1:2])
        k, v = k.astype(plan.dtype), v.astype(plan.dtype)
        gradient = gradient_ref[0, :, start : start + plan.lanes].astype(jnp.float32)

        of_q, of_k, of_v = jnp.zeros_like(q), jnp.zeros_like(q), jnp.zeros_like(q)
        for mask in _masks(plan, q.shape):
            q_head = _only(mask, q)
            of_out = _only(mask, gradient).astype(plan.dtype)
            weights = _softmax(plan, q_head, k)
            of_v += _product(weights.astype(plan.dtype), of_out, (0, 0))
            of_weights = _product(of_out, v, (1, 1))
            inner = jnp.sum(of_weights * weights, axis=1, keepdims=True)
            of_logits = weights * (of_weights - inner) * plan.head_width**-0.5
            of_logits = of_logits.astype(plan.dtype)
            of_q += _only(mask, _product(of_logits, k, (1, 0)))
            of_k += _product(of_logits, q_head.astype(plan.dtype), (0, 0))

        of_q, of_q_scale = _prepare_backward(plan, of_q, angles_ref, scales_ref[0:1], q_before)
        of_k, of_k_scale = _prepare_backward(plan, of_k, angles_ref, scales_ref[1:2], k_before)
        of_scales_ref[0, 0:1] += of_q_scale
        of_scales_ref[0, 1:2] += of_k_scale
        for place, value in enumerate((of_q, of_k, of_v)):
            first = place * plan.width + start
            of_qkv_ref[0, :, first : first + plan.lanes] = value.astype(of_qkv_ref.dtype)


def _group(plan: Plan, qkv_ref: Any, start: int) -> Iterator[Float[Array, "T L"]]:
    """Yields the queries, keys and values of a group of lanes."""
    for place in range(3):
        first = place * plan.width + start
        yield qkv_ref[0, :, first : first + plan.lanes].astype(jnp.float32)


def _softmax(plan: Plan, q: Float[Array, "T L"], k: Float[Array, "T L"]) -> Float[Array, "T T"]:
    """Returns the attention weights of the one head that `q` has."""
    logits = _product(q.astype(plan.dtype), k, (1, 1)) * plan.head_width**-0.5
    weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def _product(a: Array, b: Array, axes: tuple[int, int]) -> Array:
    """Returns the product over an axis of each, added up in float32."""
    left, right = axes
    dimensions = (((left,), (right,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


# ---- norm and rotation ----


def _prepare(
    plan: Plan, x: Float[Array, "T L"], angles_ref: Any, scale: Float[Array, "1 L"]
) -> tuple[Float[Array, "T L"], tuple[Float[Array, "T L"], Float[Array, "T L"]]]:
    """Returns x with norm and rotation, and what the backward pass needs of it.

    These are x without its length, and one over its length, for each head.
    """
    unit, inverse = x, jnp.ones_like(x)
    if plan.norm:
        inverse = jax.lax.rsqrt(_mean_of_heads(plan, x * x) + EPSILON)
        unit = x * inverse
        x = unit * scale
    if plan.rope:
        x = x * angles_ref[0] + _partner(plan, x) * angles_ref[1]
    return x, (unit, inverse)


def _prepare_backward(
    plan: Plan,
    gradient: Float[Array, "T L"],
    angles_ref: Any,
    scale: Float[Array, "1 L"],
    before: tuple[Float[Array, "T L"], Float[Array, "T L"]],
) -> tuple[Float[Array, "T L"], Float[Array, "1 L"]]:
    """Returns the gradients of what `_prepare` was given: of x, and of the scale."""
    unit, inverse = before
    if plan.rope:
        gradient = gradient * angles_ref[0] + _partner(plan, gradient * angles_ref[1])
    of_scale = jnp.sum(gradient * unit, axis=0, keepdims=True)
    if plan.norm:
        gradient = gradient * scale
        along = _mean_of_heads(plan, gradient * unit)
        gradient = (gradient - unit * along) * inverse
    return gradient, of_scale


def _partner(plan: Plan, x: Float[Array, "T L"]) -> Float[Array, "T L"]:
    """Swaps the halves of each head: lane i of its first half with i + d / 2."""
    half = plan.head_width // 2
    from_right = pltpu.roll(x, plan.lanes - half, 1)
    from_left = pltpu.roll(x, half, 1)
    lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    return jnp.where(lane % plan.head_width < half, from_right, from_left)


def _mean_of_heads(plan: Plan, x: Float[Array, "T L"]) -> Float[Array, "T L"]:
    """Puts the mean of each head in the place of its numbers."""
    mean = jnp.zeros_like(x)
    for mask in _masks(plan, x.shape):
        total = jnp.sum(_only(mask, x), axis=1, keepdims=True)
        mean += _only(mask, jnp.broadcast_to(total / plan.head_width, x.shape))
    return mean


def _masks(plan: Plan, shape: tuple[int, ...]) -> Iterator[Any]:
    """Yields for each head of a group which lanes are its own; None where it has all of them."""
    if plan.head_width == plan.lanes:
        yield None
        return
    lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    for head in range(plan.lanes // plan.head_width):
        yield lane // plan.head_width == head


def _only(mask: Any, x: Array) -> Array:
    return x if mask is None else jnp.where(mask, x, 0.0)
