"""What tells how training goes, since the loss hardly moves (A.6)."""

import jax
import jax.numpy as jnp

from drifting.distances import distance
from drifting.fields import kernel_tiled as tiled


def mean_distances(gen, pos, weight_pos):
    """Means over the classes of features gen [C,N,D], pos [C,P,D] with weight_pos [C,P]: "xx" E||x-x'||, "yy" E||y-y'||, "xy" E||x-y||.

    Of more than TILE positives, evenly spaced ones stand for all.
    """
    some = slice(None, None, -(-pos.shape[1] // tiled.TILE))
    gen, pos, weight_pos = jax.lax.stop_gradient((gen, pos[:, some], weight_pos[:, some]))
    n, p, w = gen.shape[1], pos.shape[1], weight_pos
    mean = lambda dist, weight: jnp.mean(
        jnp.sum(dist * weight, (1, 2)) / jnp.maximum(jnp.sum(weight, (1, 2)), 1)
    )  # every class counts the same
    return {
        "xx": mean(distance(gen, gen, n), jnp.broadcast_to(1 - jnp.eye(n), (len(gen), n, n))),
        "yy": mean(distance(pos, pos, p), w[:, :, None] * w[:, None, :] * (1 - jnp.eye(p))),
        "xy": mean(distance(gen, pos), jnp.broadcast_to(w[:, None, :], (len(gen), n, p))),
    }


def measure(sets, distances):
    """The metrics of a step, from the `info` of `drift_loss` of all feature sets, a list of {name: [sets]}, and `mean_distances`.

    drift_rms_<tau>: root mean square of V before its normalisation, 0 at equilibrium. feature_scale: S sqrt(D). perplexity: how many positives share the attraction.
    energy_distance: (2 E||x-y|| - E||x-x'|| - E||y-y'||) / E||y-y'||, 0 when x and y are independent draws of one distribution, and below when x repeats y; every class counts the same. diversity: E||x-x'|| / E||y-y'||, 0 when the generator collapsed.
    """
    info = jax.tree.map(lambda *a: jnp.mean(jnp.concatenate(a)), *sets)
    metrics = {
        "drift_rms_" + k.removeprefix("drift_sq_norm_"): jnp.sqrt(v)
        for k, v in info.items()
        if k.startswith("drift_sq_norm_")
    }
    xx, yy, xy = (distances[k] for k in ("xx", "yy", "xy"))
    return metrics | {
        "feature_scale": info["scale"],
        "perplexity": info["perplexity"],
        "energy_distance": (2 * xy - xx - yy) / yy,
        "diversity": xx / yy,
    }
