"""The drifting loss (eq. 6) with the normalisations of A.6."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drifting.field import FIELDS, distance


def feature_scale(x, y, weight_y):
    """S sqrt(D) (A.6): the mean distance from x [B,N,D] to y [B,Y,D], whose first N are x, weighted by weight_y [B,Y]; one scalar over all B problems."""
    dist = distance(x, y, x.shape[1])  # [B, N, Y]
    return jnp.sum(dist * weight_y[:, None, :]) / (jnp.sum(weight_y) * x.shape[1])


def drift_loss(gen: Float[Array, "B N D"], pos: Float[Array, "B P D"], neg: Float[Array, "B M D"] | None = None, *,
               weight_gen=None, weight_pos=None, weight_neg=None, temperatures=(0.02, 0.05, 0.2), field="kernel"):
    """The loss of one feature set over B independent problems (a class, or one location of a class).

    gen: features of generated samples; the gradient flows through them and through nothing else.
    pos: features of real samples of the class. neg: of unconditional real samples (guidance, 3.5); the generated samples repel each other anyway.
    weight_gen [B,N] (of the generated samples as negatives), weight_pos [B,P], weight_neg [B,M]: >= 0, default 1; a negative or positive of weight 0 is absent. temperatures: tau > 0, in units of S sqrt(D).
    field: a name in `drifting.field.FIELDS`, or a function of that signature.

    Returns the loss [B] and `info`, scalars pooled over the batch: `scale` (mean distance), `drift_sq_norm_<tau>` (lambda^2, before normalisation), `perplexity` (how
    many positives share the attraction at the smallest tau).
    """
    neg = jnp.zeros_like(gen[:, :0]) if neg is None else neg
    ones = lambda weight, y: jnp.ones(y.shape[:2], jnp.float32) if weight is None else weight.astype(jnp.float32)
    weight_gen, weight_pos, weight_neg = ones(weight_gen, gen), ones(weight_pos, pos), ones(weight_neg, neg)
    gen, pos, neg = (a.astype(jnp.float32) for a in (gen, pos, neg))
    n, d = gen.shape[1:]

    x, pos, neg = jax.lax.stop_gradient((gen, pos, neg))
    y_neg, w_neg = jnp.concatenate([x, neg], 1), jnp.concatenate([weight_gen, weight_neg], 1)
    mean_dist = feature_scale(x, jnp.concatenate([y_neg, pos], 1), jnp.concatenate([w_neg, weight_pos], 1))
    scale = jnp.maximum(mean_dist / jnp.sqrt(d), 1e-3)  # S_j
    v_of = FIELDS[field] if isinstance(field, str) else field
    v_of = jax.vmap(functools.partial(v_of, self_neg=n), in_axes=(0, 0, 0, 0, 0, None))  # over the B problems
    v_of = jax.vmap(v_of, in_axes=(None,) * 5 + (0,))  # over the temperatures: distances are computed once
    tau = jnp.asarray(temperatures) * jnp.sqrt(d)
    v, perplexity = v_of(x, pos, y_neg, weight_pos, w_neg, tau * scale)  # [tau, B, N, D], [tau, B, N]
    v = v / scale  # phi~ = phi / S_j
    sq_norm = jnp.mean(v**2, axis=(1, 2, 3))  # lambda^2, before the floor
    v = jnp.sum(v / jnp.sqrt(jnp.maximum(sq_norm, 1e-8))[:, None, None, None], 0)

    loss = jnp.mean((gen / scale - (x / scale + v)) ** 2, axis=(1, 2))  # x is stopgrad(gen): eq. 6
    info = {"scale": mean_dist, "perplexity": jnp.mean(perplexity, (1, 2))[jnp.argmin(tau)]}
    return loss, info | {f"drift_sq_norm_{t}": s for t, s in zip(temperatures, sq_norm)}
