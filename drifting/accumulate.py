"""A step in K groups of classes, one after the other: the memory of one group for the gradient of all.

The loss of a class depends on the other classes through pooled scalars alone (A.6): S_j and lambda_j,tau. Each group pools its own; with `exact`, two passes
without gradients pool them over all groups first, and the result is that of one group, to rounding, for twice the forward work more.
"""

import jax
import jax.numpy as jnp


def in_groups(tree, k: int):
    """[C, ...] -> [K, C / K, ...]"""
    return jax.tree.map(lambda a: a.reshape(k, a.shape[0] // k, *a.shape[1:]), tree)


def mean_over_groups(loss_fn, params, groups, exact: bool):
    """((loss, info), gradient) of the mean over the groups.

    loss_fn: (params, group, pooled) -> (loss, info), where info["sets"] is a list of the `info` of `drift_loss`, and pooled a list of what it takes under that name.
    groups: a tree of [K, ...].
    """
    k = jax.tree.leaves(groups)[0].shape[0]
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    if k == 1:
        return gradient(params, jax.tree.map(lambda a: a[0], groups), None)
    pooled = pool(loss_fn, params, groups) if exact else None
    of_group = lambda group: gradient(params, group, pooled)
    first = jax.eval_shape(of_group, jax.tree.map(lambda a: a[0], groups))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), first)
    total, _ = jax.lax.scan(
        lambda total, group: (jax.tree.map(jnp.add, total, of_group(group)), None), zeros, groups
    )
    return jax.tree.map(lambda a: a / k, total)


def pool(loss_fn, params, groups):
    """S_j, then with it lambda_j,tau, of all groups together: for each entry of info["sets"] the `pooled` of `drift_loss`."""

    def sets(names, pooled):
        pick = lambda info: {k: v for k, v in info.items() if k.startswith(names)}
        return jax.lax.map(
            lambda group: [pick(info) for info in loss_fn(params, group, pooled)[1]["sets"]], groups
        )  # leaves [K, sets]

    mean = lambda info: (
        jnp.sum(info["scale"] * info["scale_weight"], 0) / jnp.sum(info["scale_weight"], 0)
    )
    pooled = [{"scale": mean(info)} for info in sets("scale", None)]
    norms = sets("drift_sq_norm", pooled)
    return [
        scale | {k: jnp.mean(v, 0) for k, v in norm.items()} for scale, norm in zip(pooled, norms)
    ]
