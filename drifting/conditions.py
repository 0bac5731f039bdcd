"""Conditions: vectors in the place of classes, such as embeddings of texts.

A class has many reals, and a condition has one. So the group that generated samples are compared
with is made anew in each step: some reals of the bank are drawn as anchors, samples are generated
from an anchor's condition, and their positives are the reals with the conditions nearest to it, by
the plain L2 distance.

With a weight W > 0 there are no such groups. The joint distributions of
features and conditions are compared (iRDM, arXiv 2607.02375): samples are told
apart by their features and W times their conditions. All those of a step are
one group, and its positives are the reals of the anchors.

Where a function takes the labels of samples, [S] int32, their conditions, [S, E] float32, may stand
in their place. All samples are then of class 0, and a condition of NaN is that of the null class.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from drifting.problems import pack, unpack

NULL = np.float32(np.nan)
LEAST = 1e-12  # of a variance, so that equal conditions divide nothing by 0


def class_and_condition(labels: Any) -> tuple[Any, Any]:
    """Returns the classes [S] of samples, and their conditions [S, E] or None."""
    if labels.ndim == 1:
        return labels, None
    return np.zeros(len(labels), np.int32), labels


def nearest_slots(
    key: jax.Array,
    conditions: jax.Array,
    anchors: jax.Array,
    filled: jax.Array,
    n: int,
) -> tuple[jax.Array, jax.Array]:
    """Finds the n samples with the conditions nearest to those of the anchors.

    An anchor is its own nearest. Of equal distances, random ones are taken.

    Args:
        key: a random key.
        conditions: [L, E], of the queue.
        anchors: [C], slots of the queue.
        filled: how many of the L slots hold samples.
        n: how many, less than L.

    Returns:
        The slots [C, n], the nearest first, and whether each holds a sample.
    """
    size = len(conditions)
    slots = jnp.arange(size)
    # Not by a matrix product, which rounds: equal conditions are at distance 0.
    difference = conditions[anchors][:, None] - conditions
    squared = jnp.sum(difference**2, -1)  # [C, L]
    squared = jnp.where(slots < filled, squared, jnp.inf)
    squared = jnp.where(slots == anchors[:, None], -1, squared)

    lots = jax.random.uniform(key, squared.shape)
    of_all = jnp.broadcast_to(slots, squared.shape)
    order = jax.lax.sort((squared, lots, of_all), num_keys=2)[2]
    present = jnp.arange(n) < filled
    return order[:, :n], jnp.broadcast_to(present, (len(anchors), n))


def one_joint_group(
    generated: Sequence[Any],
    phi_real: dict[str, jax.Array],
    weights: tuple[jax.Array, jax.Array],
    of_gen: jax.Array,
    of_groups: jax.Array,
    weight: float,
) -> tuple[list[Any], dict[str, jax.Array], tuple[jax.Array, ...]]:
    """Makes one group of all samples, told apart by features and conditions.

    Each sample gets its condition as E more features, in the unit of the
    feature set: among the reals the conditions are W times as far apart as the
    features, in the root mean square.

    Args:
        generated: feature sets {name: [C N, T, D]} of generated batches;
            None stays None.
        phi_real: {str(D): [C R, sum(T), D]}, packed, of reals, group by group.
        weights: of the positives, [C, P], and of unconditional reals, [C, 0]: there is no guidance.
        of_gen: conditions of the generated samples, [C N, E].
        of_groups: those of the C anchors, [C, E].
        weight: W.

    Returns:
        The first three: features of width D + E, float32, and weights of one
        group, [1, C P] and [1, 0].
    """
    reals = unpack(phi_real, next(phi for phi in generated if phi))
    n_reals = len(next(iter(reals.values())))
    of_reals = jnp.repeat(of_groups, n_reals // len(of_groups), 0)
    unit = {
        name: weight * spread(features) / spread(of_reals[:, None])
        for name, features in reals.items()
    }

    def joined(phi, conditions):
        sets = {}
        for name, features in phi.items():
            shape = (*features.shape[:2], conditions.shape[1])
            columns = jnp.broadcast_to(unit[name] * conditions[:, None], shape)
            sets[name] = jnp.concatenate([features.astype(jnp.float32), columns], 2)
        return sets

    together = [phi and joined(phi, of_gen) for phi in generated]
    of_one_group = tuple(of_class.reshape(1, -1) for of_class in weights)
    return together, pack(joined(reals, of_reals)), of_one_group


def spread(vectors: jax.Array) -> jax.Array:
    """Returns the root mean square distance of vectors [R, T, D] from their mean, over all T."""
    vectors = vectors.astype(jnp.float32)
    squared = jnp.sum(jnp.var(vectors, 0), -1)  # [T]
    return jnp.sqrt(jnp.mean(squared) + LEAST)
