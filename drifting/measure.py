"""What tells how training goes, since the loss hardly moves (A.6)."""

import jax
import jax.numpy as jnp

from drifting.kernel import distance


def measure(info, gen, pos, weight_pos):
    """The metrics of a step, from features gen [C,N,D], pos [C,P,D] with weight_pos [C,P], and `info` of `drift_loss`.

    drift_rms_<tau>: root mean square of V before its normalisation, 0 at equilibrium. feature_scale: S sqrt(D). perplexity: how many positives share the attraction.
    energy_distance: (2 E||x-y|| - E||x-x'|| - E||y-y'||) / E||y-y'||, 0 when x and y are independent draws of one distribution, and below when x repeats y; every class counts the same. diversity: E||x-x'|| / E||y-y'||, 0 when the generator collapsed.
    """
    gen, pos = jax.lax.stop_gradient((gen, pos))
    n, p, w = gen.shape[1], pos.shape[1], weight_pos
    mean = lambda dist, weight: jnp.sum(dist * weight, (1, 2)) / jnp.maximum(jnp.sum(weight, (1, 2)), 1)  # one number per class
    xx = mean(distance(gen, gen, n), jnp.broadcast_to(1 - jnp.eye(n), (len(gen), n, n)))
    yy = mean(distance(pos, pos, p), w[:, :, None] * w[:, None, :] * (1 - jnp.eye(p)))
    xy = mean(distance(gen, pos), jnp.broadcast_to(w[:, None, :], (len(gen), n, p)))
    xx, yy, xy = jnp.mean(xx), jnp.mean(yy), jnp.mean(xy)
    metrics = {"drift_rms_" + k.removeprefix("drift_sq_norm_"): jnp.sqrt(v) for k, v in info.items() if k.startswith("drift_sq_norm_")}
    return metrics | {"feature_scale": info["scale"], "perplexity": info["perplexity"],
                      "energy_distance": (2 * xy - xx - yy) / yy, "diversity": xx / yy}  # fmt: skip
