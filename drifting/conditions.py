"""Conditions: vectors in the place of classes, such as embeddings of texts.

A class has many reals, and a condition has one. So the group that generated samples are compared
with is made anew in each step: some reals of the bank are drawn as anchors, samples are generated
from an anchor's condition, and their positives are the reals with the conditions nearest to it, by
the plain L2 distance.

Where a function takes the labels of samples, [S] int32, their conditions, [S, E] float32, may stand
in their place. All samples are then of class 0, and a condition of NaN is that of the null class.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NULL = np.float32(np.nan)


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
