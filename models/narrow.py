"""Frozen parameters in the dtype in which they are used: half the memory, and the same bits."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Calls of an inner program whose inputs are, one to one, those of the call.
CALLS = (
    "pjit",
    "jit",
    "closed_call",
    "core_call",
    "remat2",
    "checkpoint",
    "scan",
    "custom_jvp_call",
    "custom_vjp_call",
)


def narrow(function: Callable, params: Any, *args: Any) -> Any:
    """Returns `params` with some of the float32 arrays in bfloat16.

    They are those that function(params, *args) casts to bfloat16 and uses in no other way. The
    function then returns the same bits, and they take half the memory.

    Args:
        function: traced, not run.
        params, args: trees of arrays, or of shapes.
    """
    program = jax.make_jaxpr(function)(params, *args).jaxpr
    leaves, structure = jax.tree.flatten(params)
    narrowed = []
    for leaf, variable in zip(leaves, program.invars, strict=False):  # invars go on with args
        if leaf.dtype == jnp.float32 and _is_only_cast(program, variable):
            leaf = _as_bfloat16(leaf)
        narrowed.append(leaf)
    return structure.unflatten(narrowed)


def _as_bfloat16(leaf: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(dtype=jnp.bfloat16)
    return leaf.astype(jnp.bfloat16)


def _is_only_cast(program: Any, variable: Any) -> bool:
    """Returns whether a variable is used, and only to be cast to bfloat16."""
    if variable in program.outvars:
        return False
    uses = []
    for equation in program.eqns:
        if any(given is variable for given in equation.invars):
            uses.append(equation)
    return bool(uses) and all(_casts(equation, variable) for equation in uses)


def _casts(equation: Any, variable: Any) -> bool:
    """Returns whether an equation does nothing with a variable but cast it to bfloat16."""
    if equation.primitive.name == "convert_element_type":
        return equation.params["new_dtype"] == jnp.bfloat16
    inner = _inner_program(equation)
    if equation.primitive.name not in CALLS or inner is None:
        return False
    first_carried = equation.params.get("num_consts", 0)
    end_carried = first_carried + equation.params.get("num_carry", 0)
    for i, given in enumerate(equation.invars):
        if given is not variable:
            continue
        if first_carried <= i < end_carried:  # the state of a scan keeps its dtype
            return False
        if not _is_only_cast(inner, inner.invars[i]):
            return False
    return True


def _inner_program(equation: Any) -> Any:
    """Returns the program that an equation calls, or None."""
    for value in equation.params.values():
        if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
            return getattr(value, "jaxpr", value)
    return None
