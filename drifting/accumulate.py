"""A step in K groups of classes, one after the other: the memory of one group.

The loss of a class depends on the other classes only through the pooled scalars of A.6, S_j and
lambda. Each group pools its own. With `exact`, two passes without gradients first pool them over
all groups; the result is then that of one group, to rounding, for twice the forward work more.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from drifting.loss import Scales


def in_groups(tree: Any, k: int) -> Any:
    """Cuts the leading axis of each array in K groups: [C, ...] -> [K, C / K, ...]."""
    return jax.tree.map(lambda a: a.reshape(k, a.shape[0] // k, *a.shape[1:]), tree)


def mean_over_groups(loss_fn: Callable, params: Any, groups: Any, exact: bool):
    """Returns ((loss, stats), gradient), each the mean over the groups.

    Args:
        loss_fn: (params, group, pooled) -> (loss, stats), where `stats.by_width` is a list of
            `drifting.loss.Stats`, and `pooled` is None or a list of `drifting.loss.Scales`.
        params: what the gradient is taken of.
        groups: a tree of arrays [K, ...].
        exact: whether to pool the scalars of the loss over all groups.
    """
    gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)
    first_group = jax.tree.map(lambda a: a[0], groups)
    n_groups = jax.tree.leaves(groups)[0].shape[0]
    if n_groups == 1:
        return gradient_fn(params, first_group, None)

    pooled = pool_scales(loss_fn, params, groups) if exact else None

    def add_group(total, group):
        return jax.tree.map(jnp.add, total, gradient_fn(params, group, pooled)), None

    shapes = jax.eval_shape(lambda group: gradient_fn(params, group, pooled), first_group)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    total, _ = jax.lax.scan(add_group, zeros, groups)
    return jax.tree.map(lambda a: a / n_groups, total)


def pool_scales(loss_fn: Callable, params: Any, groups: Any) -> list[Scales]:
    """Returns the scalars of A.6 pooled over all groups, one entry for each of `stats.by_width`."""

    def of_groups(pooled, pick):
        """Returns `pick` of the statistics of every group; leaves [K, ...]."""

        def of_group(group):
            _, stats = loss_fn(params, group, pooled)
            return [pick(of_sets) for of_sets in stats.by_width]

        return jax.lax.map(of_group, groups)

    # S_j first, since lambda is measured in its units.
    distances = of_groups(None, lambda stats: (stats.distance, stats.distance_weight))
    pooled = []
    for distance, weight in distances:
        pooled.append(Scales(jnp.sum(distance * weight, 0) / jnp.sum(weight, 0)))

    sq_norms = of_groups(pooled, lambda stats: stats.drift_sq_norm)
    return [
        scales._replace(drift_sq_norm=jnp.mean(sq_norm, 0))
        for scales, sq_norm in zip(pooled, sq_norms, strict=True)
    ]
