"""Feature sets as drifting problems (A.5).

This is the only file that knows of classes, samples and locations at once. The encoder gives each
image several feature sets. A set has T locations, each a vector of D numbers, so for all samples of
a step it is an array [C N, T, D]. Vectors are compared within one class and
one location, which makes C x T independent problems of N vectors each.

Sets of the same width D are put side by side and solved by one call. The compiled program then does
not grow with the number of sets.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from drifting.layout import Layout
from drifting.memory import NOTHING_RECALLED, Recalled

# ---------------------------------------------------------------- sets of one width, side by side


def by_width(phi: dict[str, Any]) -> dict[str, list[str]]:
    """Returns {str(D): the names of the sets [M, T, D] of width D, sorted}."""
    widths = {}
    for name, features in sorted(phi.items()):
        widths.setdefault(str(features.shape[2]), []).append(name)
    return widths


def pack(phi: dict[str, Any]) -> dict[str, Float[Array, "M sumT D"]]:
    """Returns {str(D): the locations of all sets of width D, one set after the other}.

    The sets are in the order of `by_width`.
    """
    widths = by_width(phi)
    return {d: jnp.concatenate([phi[name] for name in names], 1) for d, names in widths.items()}


def unpack(packed: dict[str, Any], like: dict[str, Any]) -> dict[str, Float[Array, "R T D"]]:
    """Returns the sets that `pack` put side by side.

    Args:
        packed: {str(D): [R, sum(T), D]}.
        like: sets [M, T, D] of the same names and sizes, of any samples.
    """
    sets = {}
    for d, names in by_width(like).items():
        first = 0
        for name in names:
            n_locations = like[name].shape[1]
            sets[name] = packed[d][:, first : first + n_locations]
            first += n_locations
    return sets


# ---------------------------------------------------------------- the problems of a step


class Problems(NamedTuple):
    """The feature sets of one width D, as B problems. Each is one location of one class."""

    gen: Float[Array, "B N D"]  # generated samples; the gradient flows through them alone
    pos: Float[Array, "B P D"]  # positives: reals of the class
    unc: Float[Array, "B M D"]  # unconditional reals, for guidance
    gen_neg: Float[Array, "B K D"]  # generated samples that repel: gen, or a second batch
    self_neg: int  # N where gen_neg are gen themselves, or 0
    weight_pos: Float[Array, "B P"]  # a sample of weight 0 is absent
    weight_unc: Float[Array, "B M"]
    weight_gen_neg: Float[Array, "B K"]
    set_of: np.ndarray  # [B]: the set 0, 1, ... that each problem belongs to
    loss_weight: np.ndarray  # [B]: its weight in the loss of the step
    recalled: Recalled = NOTHING_RECALLED  # what the field is told beside

    @property
    def n_sets(self) -> int:
        return int(self.set_of.max()) + 1


def make_problems(
    phi_gen: dict[str, Float[Array, "CN T D"]],
    phi_real: dict[str, Float[Array, "CR sumT D"]],
    phi_second: dict[str, Float[Array, "CN T D"]] | None,
    weight_pos: Float[Array, "C P"],
    weight_unc: Float[Array, "C M"],
    set_weight: Callable[[str], float],
    layout: Layout,
) -> list[Problems]:
    """Returns the problems of a step, one entry for each width of feature.

    Args:
        phi_gen: features of the generated samples.
        phi_real: packed features of R = M + P reals of each class, unconditional ones first.
        phi_second: features of a second generated batch, which then repels; or None.
        weight_pos: of the positives.
        weight_unc: of the unconditional reals.
        set_weight: the weight of a set in the loss, by its name.
        layout: where the samples are, see layout.py.
    """
    n_classes, n_unc = weight_unc.shape

    def generated(features):
        by_class = layout.split(features, n_classes)
        return rearrange(by_class, "c n t d -> (c t) n d")

    def real(features):
        by_class = layout.classes(rearrange(features, "(c r) t d -> c r t d", c=n_classes))
        return rearrange(by_class, "c r t d -> (c t) r d")

    packed = pack(phi_gen)
    packed_second = None if phi_second is None else pack(phi_second)
    problems = []
    for width, names in by_width(phi_gen).items():
        n_locations = np.array([phi_gen[name].shape[1] for name in names])

        def of_problems(values, n_locations=n_locations):
            """Spreads a value of each set over its problems, [B]."""
            return np.tile(np.repeat(values, n_locations), n_classes)

        gen, reals = generated(packed[width]), real(phi_real[width])
        gen_neg, self_neg = gen, gen.shape[1]
        if packed_second is not None:
            gen_neg, self_neg = generated(packed_second[width]), 0
        gen_neg = layout.classes(jax.lax.stop_gradient(gen_neg.astype(jnp.float32)))
        weights = np.array([set_weight(name) for name in names])
        problems.append(
            Problems(
                gen=gen,
                pos=reals[:, n_unc:],
                unc=reals[:, :n_unc],
                gen_neg=gen_neg,
                self_neg=self_neg,
                weight_pos=jnp.repeat(weight_pos, n_locations.sum(), 0),
                weight_unc=jnp.repeat(weight_unc, n_locations.sum(), 0),
                weight_gen_neg=jnp.ones(gen_neg.shape[:2]),
                set_of=of_problems(np.arange(len(names))),
                # Each set contributes the mean over its problems.
                loss_weight=of_problems(weights / (n_classes * n_locations)),
            )
        )
    return problems


def of_each_problem(
    of_sets: Float[Array, "C S ..."], names: list[str], phi: dict[str, Any]
) -> Float[Array, "B ..."]:
    """Returns the value of each problem of one width, from that of its class and set.

    Args:
        of_sets: values of C classes and the S sets `names`.
        names: the sets of one width, as `by_width` has them.
        phi: sets [M, T, D] by name, for their numbers of locations.
    """
    n_locations = np.array([phi[name].shape[1] for name in names])
    set_of_location = np.repeat(np.arange(len(names)), n_locations)
    return rearrange(of_sets[:, set_of_location], "c t ... -> (c t) ...")


def one_set_of_problems(
    gen: Float[Array, "B N D"],
    pos: Float[Array, "B P D"],
    neg: Float[Array, "B M D"] | None = None,
    second: Float[Array, "B K D"] | None = None,
    *,
    weight_gen: Float[Array, "B K"] | None = None,
    weight_pos: Float[Array, "B P"] | None = None,
    weight_neg: Float[Array, "B M"] | None = None,
) -> Problems:
    """Returns the problems of a single set, from the arguments of `drifting.loss.drift_loss`."""

    def ones_like(samples):
        return jnp.ones(samples.shape[:2], jnp.float32)

    unc = jnp.zeros_like(gen[:, :0]) if neg is None else neg
    gen_neg = gen if second is None else second
    return Problems(
        gen=gen,
        pos=pos,
        unc=unc,
        gen_neg=gen_neg,
        self_neg=gen.shape[1] if second is None else 0,
        weight_pos=ones_like(pos) if weight_pos is None else weight_pos,
        weight_unc=ones_like(unc) if weight_neg is None else weight_neg,
        weight_gen_neg=ones_like(gen_neg) if weight_gen is None else weight_gen,
        set_of=np.zeros(gen.shape[0], np.int32),
        loss_weight=np.ones(gen.shape[0]),
    )


def vectors_of_set(
    name: str,
    phi_gen: dict[str, Float[Array, "CN T D"]],
    phi_real: dict[str, Float[Array, "CR sumT D"]],
    n_classes: int,
    n_unc: int,
    layout: Layout,
) -> tuple[Float[Array, "C N D"], Float[Array, "C P D"]]:
    """Returns the vectors of generated samples and of positives of one set, at its first location.

    It serves the measures, which watch a set of one vector per image. Arguments: as above.
    """
    gen = layout.split(phi_gen[name], n_classes)[:, :, 0]
    real = unpack(phi_real, phi_gen)[name]
    real = layout.classes(rearrange(real, "(c r) t d -> c r t d", c=n_classes))
    return layout.classes(gen), real[:, n_unc:, 0]
