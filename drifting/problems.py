"""Feature sets of one width side by side: what is computed for all of them at once does not make the program grow with their number."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def by_width(phi: dict[str, Float[Array, "M T D"]]) -> dict[str, list[str]]:
    """{str(D): the names of the sets of width D, sorted}"""
    widths = {}
    for name, f in sorted(phi.items()):
        widths.setdefault(str(f.shape[2]), []).append(name)
    return widths


def pack(phi: dict[str, Float[Array, "M T D"]]) -> dict[str, Float[Array, "M sumT D"]]:
    """{str(D): the locations of all sets of width D, one set after the other, in the order of `by_width`}"""
    return {d: jnp.concatenate([phi[k] for k in names], 1) for d, names in by_width(phi).items()}


def unpack(
    packed: dict[str, Float[Array, "R sumT D"]], like: dict[str, Float[Array, "M T D"]]
) -> dict[str, Float[Array, "R T D"]]:
    """The sets that `pack` put side by side. like: sets of these names and shapes, of any samples."""
    out = {}
    for d, names in by_width(like).items():
        ends = [sum(like[k].shape[1] for k in names[: i + 1]) for i in range(len(names))]
        out |= {k: packed[d][:, end - like[k].shape[1] : end] for k, end in zip(names, ends)}
    return out
