"""What tells how training goes, since the loss hardly moves (A.6)."""

import jax
import jax.numpy as jnp

from drifting.field import distance


def measure(info, gen, pos, weight_pos):
    """The metrics of a step, from features gen [C,N,D], pos [C,P,D] with weight_pos [C,P], and `info` of `drift_loss`.

    drift_rms_<tau>: root mean square of V before its normalisation, 0 at equilibrium. feature_scale: S sqrt(D). perplexity: how many positives share the attraction.
    energy_distance: (2 E||x-y|| - E||x-x'|| - E||y-y'||) / E||y-y'||, unbiased, 0 when p = q. diversity: E||x-x'|| / E||y-y'||, 0 when the generator collapsed.
    """
    gen, pos = jax.lax.stop_gradient((gen, pos))
    n, w = gen.shape[1], weight_pos
    pairs = w[:, :, None] * w[:, None, :] * (1 - jnp.eye(w.shape[1]))
    xx = jnp.sum(distance(gen, gen, n) * (1 - jnp.eye(n))) / (gen.shape[0] * n * max(n - 1, 1))
    yy = jnp.sum(distance(pos, pos, pos.shape[1]) * pairs) / jnp.maximum(jnp.sum(pairs), 1)
    xy = jnp.sum(distance(gen, pos) * w[:, None, :]) / (jnp.sum(w) * n)
    metrics = {"drift_rms_" + k.removeprefix("drift_sq_norm_"): jnp.sqrt(v) for k, v in info.items() if k.startswith("drift_sq_norm_")}
    return metrics | {"feature_scale": info["scale"], "perplexity": info["perplexity"],
                      "energy_distance": (2 * xy - xx - yy) / yy, "diversity": xx / yy}  # fmt: skip
