"""Frozen parameters in the type in which they are used."""

import jax
import jax.numpy as jnp

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
)  # whose operands are, one to one, those of their inner program


def narrow(f, params, *args):
    """`params` with each float32 array that f(params, *args) casts to bfloat16, and uses in no other way, in bfloat16: f returns the same bits, and they take half the memory.

    params, args: trees of arrays, or of shapes. f is traced, not run.
    """
    jaxpr = jax.make_jaxpr(f)(params, *args).jaxpr
    leaves, structure = jax.tree.flatten(params)
    halve = [a.dtype == jnp.float32 and _only_cast(jaxpr, v) for a, v in zip(leaves, jaxpr.invars)]
    cast = lambda a: (
        a.update(dtype=jnp.bfloat16)
        if isinstance(a, jax.ShapeDtypeStruct)
        else a.astype(jnp.bfloat16)
    )
    return structure.unflatten([cast(a) if yes else a for a, yes in zip(leaves, halve)])


def _only_cast(jaxpr, var) -> bool:
    """Whether `var` is used, and only to be cast to bfloat16."""
    if var in jaxpr.outvars:
        return False
    uses = [eqn for eqn in jaxpr.eqns if any(v is var for v in eqn.invars)]
    return bool(uses) and all(_casts(eqn, var) for eqn in uses)


def _casts(eqn, var) -> bool:
    if eqn.primitive.name == "convert_element_type":
        return eqn.params["new_dtype"] == jnp.bfloat16
    inner = next(
        (
            value
            for value in eqn.params.values()
            if hasattr(value, "eqns") or hasattr(value, "jaxpr")
        ),
        None,
    )
    if eqn.primitive.name not in CALLS or inner is None:
        return False
    inner, first = getattr(inner, "jaxpr", inner), eqn.params.get("num_consts", 0)
    carried = range(first, first + eqn.params.get("num_carry", 0))  # a scan's state keeps its type
    given = [i for i, v in enumerate(eqn.invars) if v is var]
    return all(i not in carried and _only_cast(inner, inner.invars[i]) for i in given)
