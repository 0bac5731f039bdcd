"""What tells how training goes, since the loss hardly moves (A.6)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drifting.distances import distance
from drifting.fields import kernel_tiled
from drifting.loss import Stats


class Distances(NamedTuple):
    """Mean distances, in which every class counts the same."""

    gen_gen: Float[Array, ""]  # E||x - x'|| between two generated samples of a class
    real_real: Float[Array, ""]  # E||y - y'|| between two reals of it
    gen_real: Float[Array, ""]  # E||x - y|| between one and the other


def mean_distances(
    gen: Float[Array, "C N D"], pos: Float[Array, "C P D"], weight_pos: Float[Array, "C P"]
) -> Distances:
    """Returns the mean distances between the features of generated and of real samples.

    Of more than TILE positives, evenly spaced ones stand for all. A class with a single real has no
    distance between two: that to the generated samples stands for it.
    """
    stride = -(-pos.shape[1] // kernel_tiled.TILE)
    pos, weight_pos = pos[:, ::stride], weight_pos[:, ::stride]
    gen, pos, weight_pos = jax.lax.stop_gradient((gen, pos, weight_pos))
    (n_classes, n), p = gen.shape[:2], pos.shape[1]

    def of_classes(distances, weight):
        return jnp.sum(distances * weight, (1, 2)) / jnp.maximum(jnp.sum(weight, (1, 2)), 1)

    pairs_gen = jnp.broadcast_to(1 - jnp.eye(n), (n_classes, n, n))
    pairs_real = weight_pos[:, :, None] * weight_pos[:, None, :] * (1 - jnp.eye(p))
    pairs_both = jnp.broadcast_to(weight_pos[:, None, :], (n_classes, n, p))
    gen_gen = of_classes(distance(gen, gen, n), pairs_gen)
    gen_real = of_classes(distance(gen, pos), pairs_both)
    real_real = of_classes(distance(pos, pos, p), pairs_real)
    has_pairs = jnp.sum(weight_pos, 1) > 1
    real_real = jnp.where(has_pairs, real_real, gen_real)
    return Distances(jnp.mean(gen_gen), jnp.mean(real_real), jnp.mean(gen_real))


def measure(
    by_width: Sequence[Stats], distances: Distances, temperatures: Sequence[float]
) -> dict[str, Float[Array, ""]]:
    """Returns the metrics of a step.

    drift_rms_<tau>  root mean square of V before its normalisation; 0 at equilibrium
    feature_scale    S sqrt(D), a mean distance
    perplexity       over how many positives the attraction spreads

    and those of `spread`.

    Args:
        by_width: what the loss returned, an entry for each width of feature.
        distances: of the set that is watched.
        temperatures: tau, in the order of `drift_sq_norm`.
    """

    def mean(arrays):
        return jnp.mean(jnp.concatenate(arrays))

    metrics = {}
    for i, tau in enumerate(temperatures):
        sq_norm = mean([stats.drift_sq_norm[i] for stats in by_width])
        metrics[f"drift_rms_{tau}"] = jnp.sqrt(sq_norm)
    metrics["feature_scale"] = mean([stats.distance for stats in by_width])
    metrics["perplexity"] = mean([stats.perplexity for stats in by_width])

    return metrics | spread(distances)


def spread(distances: Distances) -> dict[str, Float[Array, ""]]:
    """Returns how far apart samples are, in units of the distance between two reals.

    energy_distance  (2 E||x-y|| - E||x-x'|| - E||y-y'||) / E||y-y'||: 0 when x and y are
                     independent draws of one distribution, and below when x repeats y
    diversity        E||x-x'|| / E||y-y'||: 0 when the generator has collapsed
    """
    gen_gen, real_real, gen_real = distances
    return {
        "energy_distance": (2 * gen_real - gen_gen - real_real) / real_real,
        "diversity": gen_gen / real_real,
    }
