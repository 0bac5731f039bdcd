"""What a step costs before it is compiled, FLOPs and bytes, and the rates of the devices that run it. Of the compiled program: hlo.py."""

import dataclasses
import math
import time

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval


@dataclasses.dataclass(frozen=True)
class Chip:
    """Per chip: bf16 FLOP/s, bytes of memory and bytes/s to it, bytes/s that it sends to all its neighbours together, cycles/s of the compiler's estimates (0: gives none)."""

    flops: float
    memory: float
    bandwidth: float
    network: float
    clock: float = 0


GIB = 2**30
# By jax's device_kind. A TPU's FLOP/s, bandwidth and network: Google Cloud's page of its version, of the network one way, half of what the page calls bidirectional; its memory: what
# its compiler calls available; its clock: the FLOP/s over those of a cycle, by the matrix units in jax's own table of TPUs, and half of that for v6e: so the compiler's estimate of a plain
# copy moves as much of the bandwidth, 81%, as on v5e. NVIDIA's: the data sheets of A100 SXM, H100 SXM and H200, dense.
CHIPS = {
    "TPU v4": Chip(275e12, 30.75 * GIB, 1228e9, 300e9, 1.05e9),
    "TPU v5 lite": Chip(197e12, 15.75 * GIB, 819e9, 200e9, 1.5e9),
    "TPU v5": Chip(459e12, 95.73 * GIB, 2765e9, 600e9, 1.75e9),
    "TPU v6 lite": Chip(918e12, 31.24 * GIB, 1600e9, 400e9, 1.75e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 80e9, 2039e9, 300e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 80e9, 3350e9, 450e9),
    "NVIDIA H200": Chip(989e12, 141e9, 4800e9, 450e9),
}


def matmul_rate(dtype) -> float:
    """FLOP/s of a square matrix product that fills the devices' units."""
    n = 8192 if jax.default_backend() != "cpu" else 1536
    a = jnp.ones((n, n), dtype)
    multiply = jax.jit(lambda a: a @ a)
    multiply(a).block_until_ready()
    begin = time.perf_counter()
    for _ in range(5):
        b = multiply(a)
    b.block_until_ready()
    return 5 * 2 * n**3 / (time.perf_counter() - begin)


# ---------------------------------------------------------------- FLOPs, from the traced program


def matmul_flops(jaxpr) -> float:
    """FLOPs (2 per multiply-add) of the matrix products and convolutions of a jaxpr, over all devices.

    A scan counts as often as it turns, which XLA's own count does not do, and recomputation counts as it is traced. Element-wise work is left out: it is bound by memory.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    jaxpr, _ = partial_eval.dce_jaxpr(
        jaxpr, [True] * len(jaxpr.outvars)
    )  # what nobody uses the compiler leaves out
    return _flops(jaxpr)


def _flops(jaxpr) -> float:
    return sum(_flops_of(eqn) for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _flops_of(eqn) -> float:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lhs = eqn.invars[0].aval.shape
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel, spec = eqn.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
        useful = math.prod(
            params["lhs_dilation"]
        )  # the zeros between inputs, in the gradient of a strided convolution, are no work
        return (
            2.0
            * math.prod(eqn.outvars[0].aval.shape)
            * math.prod(kernel)
            / kernel[spec[0]]
            / useful
        )
    if name == "cond":
        return max(_flops(branch) for branch in params["branches"])
    inner = sum(
        _flops(value)
        for value in params.values()
        if hasattr(value, "eqns") or hasattr(value, "jaxpr")
    )
    return inner * params["length"] if name == "scan" else inner


# ---------------------------------------------------------------- bytes, from shapes


def tree_bytes(tree) -> int:
    """Bytes of arrays or shapes on one device, by their shardings."""
    return sum(
        math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree)
    )
