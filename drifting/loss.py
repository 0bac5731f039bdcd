"""The drifting loss (eq. 6) with the normalisations of A.6.

For a feature set j, with generated features x and a field V:

    S_j        = mean ||x - y|| / sqrt(D)
    phi~       = phi / S_j
    tau_j      = tau sqrt(D), in units of phi~
    lambda_tau = sqrt(mean V_tau^2)
    V~         = sum_tau V_tau / lambda_tau
    L_j        = mean (phi~(x) - stopgrad(phi~(x) + V~))^2

The mean in S_j is over all samples y by their weights; as in the authors' release it counts x among
them, at distance 0. S_j and lambda are pooled over all problems of the set: all classes and all
locations. As there, S_j is at least 1e-3, and lambda^2 at least 1e-8.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from drifting.distances import distance
from drifting.fields import find_field, kernel_tiled
from drifting.memory import NOTHING_RECALLED, Recalled
from drifting.problems import Problems, one_set_of_problems

# The arrays [B, ...] of `Problems`.
ARRAYS = ("gen", "pos", "unc", "gen_neg", "weight_pos", "weight_unc", "weight_gen_neg")


class Scales(NamedTuple):
    """The pooled scalars of A.6, where more problems than these decide them (accumulate.py)."""

    distance: Float[Array, " sets"]  # S_j sqrt(D), the mean distance
    drift_sq_norm: Float[Array, "tau sets"] | None = None  # lambda^2


class Stats(NamedTuple):
    """What the loss tells about each feature set, for the log and for pooling."""

    distance: Float[Array, " sets"]  # S_j sqrt(D), the mean distance
    distance_weight: Float[Array, " sets"]  # the sum of the weights in that mean
    drift_sq_norm: Float[Array, "tau sets"]  # lambda^2, the mean of V^2 before normalisation
    perplexity: Float[Array, " sets"]  # positives that the attraction spreads over, smallest tau
    loss: Float[Array, " sets"]  # L_j


def drift_loss(
    gen: Float[Array, "B N D"],
    pos: Float[Array, "B P D"],
    neg: Float[Array, "B M D"] | None = None,
    *,
    weight_gen: Float[Array, "B K"] | None = None,
    weight_pos: Float[Array, "B P"] | None = None,
    weight_neg: Float[Array, "B M"] | None = None,
    temperatures: Sequence[float] = (0.02, 0.05, 0.2),
    field: str | Callable = "kernel",
    second: Float[Array, "B K D"] | None = None,
    guidance: str = "negatives",
    recalled: Recalled = NOTHING_RECALLED,
) -> tuple[Float[Array, " B"], dict[str, Float[Array, ""]]]:
    """Returns the loss of one feature set over B independent problems.

    A problem is a class, or one location of a class.

    Args:
        gen: features of generated samples. The gradient flows through them and nothing else.
        pos: features of real samples of the class.
        neg: features of unconditional real samples, for guidance (Sec. 3.5). They are not all of
            the negatives: the generated samples repel each other in any case.
        weight_gen: >= 0, of the generated samples as negatives, which are `second` where it is
            given; 1 by default.
        weight_pos, weight_neg: >= 0, 1 by default. A sample of weight 0 is absent; the kernel field
            with `absent="counted"` lets those of neg keep a share, as the authors' release does.
        temperatures: tau > 0, in units of S sqrt(D).
        field: a name in `drifting.fields.FIELDS`, or a function; `drifting.fields` says which.
        second: features of a second, independent generated batch, which repels in the place of
            the first.
        guidance: "negatives": neg join the negatives (Sec. 3.5). "field": V += w V_{p,unc}, where w
            is their weight over that of the generated ones, alpha - 1.
        recalled: what the field is told beside, by its memory: of `frechet` the moments, of
            `learned` the parameters.

    Returns:
        The loss [B], and {"scale": the mean distance S sqrt(D), "scale_weight": the sum of its
        weights, "drift_sq_norm_<tau>": lambda^2, "perplexity": over how many positives the
        attraction spreads at the smallest tau}, pooled over the problems.
    Raises:
        ValueError: the field has to be told something, and is not.
    """
    check_recalled(field, recalled)
    weights = {"weight_gen": weight_gen, "weight_pos": weight_pos, "weight_neg": weight_neg}
    problems = one_set_of_problems(gen, pos, neg, second, **weights)
    problems = problems._replace(recalled=recalled)
    loss, stats = problem_losses(problems, temperatures, field, guidance)
    info = {"scale": stats.distance[0], "scale_weight": stats.distance_weight[0]}
    for tau, square in zip(temperatures, stats.drift_sq_norm, strict=True):
        info[f"drift_sq_norm_{tau}"] = square[0]
    return loss, info | {"perplexity": stats.perplexity[0]}


def check_recalled(field: str | Callable, recalled: Recalled) -> None:
    """Raises ValueError where a field is not told what it cannot do without."""
    told = recalled.shared | recalled.each | recalled.each_tau
    parameters = inspect.signature(find_field(field)).parameters.values()
    missing = [
        p.name
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name not in told
    ]
    if missing:
        name = field if isinstance(field, str) else getattr(field, "__name__", "that is given")
        raise ValueError(
            f"the field {name} has to be told {', '.join(missing)}: give recalled=..., which "
            "`look` of its memory returns (drifting/memory.py)"
        )


def problem_losses(
    problems: Problems,
    temperatures: Sequence[float] | Float[Array, " tau"],
    field: str | Callable,
    guidance: str = "negatives",
    pooled: Scales | None = None,
    together: int | None = None,
) -> tuple[Float[Array, " B"], Stats]:
    """Returns the loss of each problem, and what is pooled over the problems of each set.

    Args:
        problems: one or several feature sets of equal width.
        temperatures, field, guidance: as in `drift_loss`.
        pooled: scalars that take the place of those of these problems.
        together: how many problems are solved at once, C of B = C T; None for all.
    """
    # Float32 from here on. The gradient flows through gen alone; x are the same numbers without it.
    gen = problems.gen.astype(jnp.float32)
    p = _without_gradient(problems)
    x, d = p.gen, gen.shape[2]
    # Which problem is of which set.
    member = jnp.asarray(p.set_of)[:, None] == np.arange(p.n_sets)  # [B, sets]

    def add(values):
        """Sums values [..., B] over the problems of each set, [..., sets]."""
        return jnp.sum(jnp.where(member, values[..., None], 0), -2)

    def mean(values):
        return add(values) / add(jnp.ones(len(p.set_of)))

    # S_j sqrt(D): the mean distance from a generated sample to all samples y (A.6). The first
    # self_neg of y are x themselves: all N of them, or none where a second batch repels.
    y = jnp.concatenate([p.gen_neg, p.unc, p.pos], 1)
    weight_y = jnp.concatenate([p.weight_gen_neg, p.weight_unc, p.weight_pos], 1)
    distances = functools.partial(weighted_distances, self_neg=p.self_neg)
    total, weight = in_turn(distances, (x, y, weight_y), together)
    mean_distance, distance_weight = add(total) / add(weight), add(weight)
    if pooled is not None:
        mean_distance = pooled.distance
    s = jnp.maximum(mean_distance / jnp.sqrt(d), 1e-3)[p.set_of]  # S_j of each problem, [B]

    # V at every temperature (Alg. 2), measured as the features are.
    tau, unit = jnp.asarray(temperatures), s * jnp.sqrt(d)

    def field_of_some(arrays, unit, each, each_tau):
        some = p._replace(**arrays, recalled=Recalled(p.recalled.shared, each, each_tau))
        return guided_field(some, tau, unit, field, guidance)

    arrays = {name: getattr(p, name) for name in ARRAYS}
    # What the memory tells of each problem, and of each at each temperature (memory.py).
    told = (arrays, unit, p.recalled.each, p.recalled.each_tau)
    v, perplexity = in_turn(field_of_some, told, together)  # [B, tau, N, D], [B, tau, N]

    # V~ = sum_tau V_tau / lambda_tau, lambda_tau = sqrt(mean V_tau^2).
    # Both are in units of phi~: V / S_j is never written down, which would move it once more.
    # The mean over N and D is [B, tau];
    # `mean` wants B last.
    sq_norm = mean((jnp.mean(v**2, axis=(2, 3)) / s[:, None] ** 2).T)  # [tau, sets]
    if pooled is not None and pooled.drift_sq_norm is not None:
        sq_norm = pooled.drift_sq_norm
    v_sum = 0.0
    for index, square in enumerate(sq_norm):
        lambda_tau = jnp.sqrt(jnp.maximum(square, 1e-8))[p.set_of]
        v_sum = v_sum + v[:, index] / (s * lambda_tau)[:, None, None]

    # Eq. 6. The target is a constant, whatever parameters the field may have.
    s = s[:, None, None]
    target = jax.lax.stop_gradient(x / s + v_sum)
    loss = jnp.mean((gen / s - target) ** 2, axis=(1, 2))

    smallest = jnp.argmin(tau)
    spread = mean(jnp.mean(perplexity, 2).T)[smallest]
    return loss, Stats(mean_distance, distance_weight, sq_norm, spread, mean(loss))


def _without_gradient(problems: Problems) -> Problems:
    """Returns the problems with float32 arrays that no gradient flows through."""

    def freeze(array):
        return jax.lax.stop_gradient(array.astype(jnp.float32))

    return problems._replace(**{name: freeze(getattr(problems, name)) for name in ARRAYS})


def in_turn(function: Callable, of_problems: tuple, together: int | None) -> Any:
    """Returns function(*of_problems), computed for some of the problems after the others.

    The distances between all samples of a problem are large; so only some are in memory.

    Args:
        function: trees of arrays [B, ...] -> the same.
        of_problems: its arguments, of B = C T problems: C classes with T locations each.
        together: C, the problems of one location; None for all B at once.
    """
    if together is None:
        return function(*of_problems)

    def cut(array):
        return rearrange(array, "(c t) ... -> t c ...", c=together)

    def join(array):
        return rearrange(array, "t c ... -> (c t) ...")

    def of_location(arguments):
        return function(*arguments)

    results = jax.lax.map(of_location, jax.tree.map(cut, of_problems))
    return jax.tree.map(join, results)


@jax.named_scope("field")
def guided_field(
    p: Problems,
    tau: Float[Array, " tau"],
    unit: Float[Array, " B"],
    field: str | Callable,
    guidance: str,
) -> tuple[Float[Array, "B tau N D"], Float[Array, "B tau N"]]:
    """Returns V and its perplexity for every problem and temperature, with guidance.

    Args:
        p: the problems.
        tau: the temperatures.
        unit: S sqrt(D) of each problem.
        field, guidance: as in `drift_loss`.
    """
    field = find_field(field)
    shared, each, each_tau = p.recalled

    def field_against(neg, weight_neg, self_neg):
        def one_problem(x, pos, neg, weight_pos, weight_neg, unit, each, each_tau, tau):
            more = shared | each | each_tau
            problem = (x, pos, neg, weight_pos, weight_neg, tau)
            return field(*problem, self_neg=self_neg, unit=unit, **more)

        # Two maps around the field of one problem.
        # The inner one is over temperatures:
        # only each_tau and tau, the last two, differ.
        # So distances are computed only once.
        # The outer one is over the B problems,
        # which share the temperatures.
        all_taus = jax.vmap(one_problem, in_axes=(None,) * 7 + (0, 0))
        all_problems = jax.vmap(all_taus, in_axes=(0,) * 8 + (None,))
        problems = (p.gen, p.pos, neg, p.weight_pos, weight_neg, unit, each, each_tau)
        return all_problems(*problems, tau)

    if guidance == "field" and p.unc.shape[1]:
        v, perplexity = field_against(p.gen_neg, p.weight_gen_neg, p.self_neg)
        v_unc, _ = field_against(p.unc, p.weight_unc, 0)
        # A sample is not its own negative:
        # of N generated ones, N - 1 repel it.
        others = 1 - (p.self_neg > 0) / p.gen.shape[1]
        weight_gen = jnp.maximum(jnp.sum(p.weight_gen_neg, 1) * others, 1e-8)
        w = jnp.sum(p.weight_unc, 1) / weight_gen  # alpha - 1
        return v + w[:, None, None, None] * v_unc, perplexity

    # Sec. 3.5: unconditional reals are negatives beside the generated ones.
    neg = jnp.concatenate([p.gen_neg, p.unc], 1)
    weight_neg = jnp.concatenate([p.weight_gen_neg, p.weight_unc], 1)
    return field_against(neg, weight_neg, p.self_neg)


def weighted_distances(
    x: Float[Array, "B N D"],
    y: Float[Array, "B Y D"],
    weight_y: Float[Array, "B Y"],
    self_neg: int,
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Returns the weighted sum of the distances from x to y, and the sum of the weights.

    Their ratio is S sqrt(D) (A.6). The first self_neg of y are x themselves; their distances of 0
    are in the mean, as in the authors' release.
    """
    weight = jnp.sum(weight_y, 1) * x.shape[1]
    if y.shape[1] - self_neg > kernel_tiled.TILE:
        return kernel_tiled.sum_of_distances(x, y, weight_y, self_neg), weight
    return jnp.sum(distance(x, y, self_neg) * weight_y[:, None, :], (1, 2)), weight
