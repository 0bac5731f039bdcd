"""A step in parts, one after the other: the memory of one part.

There are two ways, for many classes and for few.

`mean_over_groups` takes K groups of classes, each with a loss and a gradient of its own. The loss
of a class depends on the other classes only through the pooled scalars of A.6, S_j and
lambda. Each group pools its own. With `exact`, two passes without gradients first pool them over
all groups; the result is then that of one group, to rounding, for twice the forward work more.

`in_parts` takes K parts of the rows, the samples of each class, and is exact. The field compares
all samples of a class, but only by their features. So these are computed first, part by part;
the field of the whole class gives the gradient of the features; and the networks run again, part
by part, for the gradient of the parameters (gradient caching, arXiv 2607.02375).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

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


# ---------------------------------------------------------------- the rows of a class


def in_parts(function: Callable, samples: Any, k: int) -> Any:
    """Returns function(samples), computed in K parts of the samples, one after the other.

    Nothing is kept of a part but its result. Its gradient computes the part again, so there too
    one part at a time is in memory.

    Args:
        function: trees of arrays [C, N, ...] -> the same; each sample by itself.
        samples: a tree of arrays [C, N, ...].
        k: K; 1 calls the function as it is. Where it does not divide N, the last row is repeated.
    """
    if k == 1:
        return function(samples)
    n = jax.tree.leaves(samples)[0].shape[1]

    # Part i has every K-th row from i on: rows that are spread stay on their devices.
    def cut(array):
        more = [(0, 0)] * array.ndim
        more[1] = (0, -n % k)
        padded = jnp.pad(array, more, mode="edge")
        return rearrange(padded, "c (n k) ... -> k c n ...", k=k)

    def join(array):
        return rearrange(array, "k c n ... -> c (n k) ...")[:, :n]

    parts = jax.tree.map(cut, samples)
    results = jax.lax.map(jax.checkpoint(function), parts)
    return jax.tree.map(join, results)
