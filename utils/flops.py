"""FLOPs of matrix products: those of a program, and how many a device does in a second."""

import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

# ---------------------------------------------------------------- FLOPs, from the traced program


def matmul_flops(jaxpr: Any) -> float:
    """Returns the FLOPs of the matrix products and convolutions of a traced program.

    A multiply-add counts as two. The number is that of all devices together. A scan counts as often
    as it turns, which XLA's own count does not do, and what is computed again in the backward pass
    counts again. Element-wise work is left out, since memory limits it and not arithmetic.

    jaxpr: of `jax.make_jaxpr(f)(...)` or `jax.jit(f).trace(...).jaxpr`.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    # What nobody uses the compiler leaves out too.
    used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _flops(used)


def _flops(jaxpr: Any) -> float:
    return sum(_flops_of(equation) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _flops_of(equation: Any) -> float:
    """Returns the FLOPs of one equation, those of the programs within it included."""
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _flops_of_product(equation)
    if name == "conv_general_dilated":
        return _flops_of_convolution(equation)
    if name == "cond":
        return max(_flops(branch) for branch in params["branches"])

    programs = [p for p in params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
    inner = sum(_flops(program) for program in programs)
    return inner * _turns(name, params)


def _turns(name: str, params: Any) -> int:
    """How often the programs within an equation run."""
    if name == "scan":
        return params["length"]
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    return 1


def _flops_of_product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    result = equation.outvars[0].aval.shape
    return 2.0 * math.prod(result) * math.prod(left[axis] for axis in contracted)


def _flops_of_convolution(equation: Any) -> float:
    params = equation.params
    kernel = equation.invars[1].aval.shape
    result = equation.outvars[0].aval.shape
    output_channels = kernel[params["dimension_numbers"].rhs_spec[0]]
    # The gradient of a convolution with strides puts zeros between its inputs: they are no work.
    zeros = math.prod(params["lhs_dilation"])
    return 2.0 * math.prod(result) * math.prod(kernel) / output_channels / zeros


# ---------------------------------------------------------------- FLOP/s, measured


@jax.jit
def _square(matrix: jax.Array) -> jax.Array:
    return matrix @ matrix


def matmul_rate(dtype: Any = jnp.float32) -> float:
    """Returns the FLOP/s of a matrix product that fills the units of one device.

    The cores of a machine are one device for it, however many devices JAX makes of them.
    """
    n = 1024 if jax.default_backend() == "cpu" else 8192
    matrix = jnp.ones((n, n), dtype)
    _square(matrix).block_until_ready()  # compiles it the first time
    products = 3
    begin = time.perf_counter()
    jax.block_until_ready([_square(matrix) for _ in range(products)])
    return products * 2 * n**3 / (time.perf_counter() - begin)
