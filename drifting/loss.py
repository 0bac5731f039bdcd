"""The drifting loss (eq. 6) with the normalisations of A.6."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from drifting.distances import distance
from drifting.fields import FIELDS
from drifting.fields import kernel_tiled as tiled


def weighted_distances(x, y, weight_y, self_neg):
    """Sum of the distances from x [B,N,D] to y [B,Y,D], whose first self_neg are x, weighted by weight_y [B,Y], and sum of the weights; [B] each. Their ratio is S sqrt(D) (A.6)."""
    weight = jnp.sum(weight_y, 1) * x.shape[1]
    if y.shape[1] - self_neg > tiled.TILE:
        return tiled.sum_of_distances(x, y, weight_y, self_neg), weight
    return jnp.sum(distance(x, y, self_neg) * weight_y[:, None, :], (1, 2)), weight


def drift_loss(
    gen: Float[Array, "B N D"],
    pos: Float[Array, "B P D"],
    neg: Float[Array, "B M D"] | None = None,
    *,
    weight_gen=None,
    weight_pos=None,
    weight_neg=None,
    temperatures=(0.02, 0.05, 0.2),
    field="kernel",
    second: Float[Array, "B K D"] | None = None,
    guidance="negatives",
    set_of=None,
    share=lambda y: y,
    pooled=None,
):
    """The loss of a feature set over B independent problems (a class, or one location of a class), or of several sets of equal D.

    gen: features of generated samples; the gradient flows through them and through nothing else.
    pos: features of real samples of the class. neg: of unconditional real samples (guidance, 3.5); the generated samples repel each other anyway.
    weight_gen [B,N] (of the generated samples as negatives), weight_pos [B,P], weight_neg [B,M]: >= 0, default 1; a negative or positive of weight 0 is absent. temperatures: tau > 0, in units of S sqrt(D).
    field: a name in `drifting.fields.FIELDS`, or a function of that signature.
    second: features of a second, independent batch of generated samples, which repel in the place of the first (weight_gen is then theirs, [B,K]).
    guidance: "negatives", neg are among the negatives (3.5), or "field", V += w V_{p,unc} with w = their weight / that of the generated ones, = alpha - 1.
    set_of: [B], the set 0, 1, .. that each problem belongs to; scalars are pooled within a set. None: all are one, and the values of `info` are scalars, not [sets].
    share: puts generated features where every sample of their problem can see them. pooled: values of `info` over more problems than these, for its own (accumulate.py).

    Returns the loss [B] and `info`, pooled over the batch: `scale` (mean distance), `scale_weight` (its weight), `drift_sq_norm_<tau>` (lambda^2, before
    normalisation), `perplexity` (how many positives share the attraction at the smallest tau).
    """
    neg = jnp.zeros_like(gen[:, :0]) if neg is None else neg
    ones = lambda weight, y: (
        jnp.ones(y.shape[:2], jnp.float32) if weight is None else weight.astype(jnp.float32)
    )
    self_neg, gen_neg = (
        (gen.shape[1], gen) if second is None else (0, second)
    )  # q: the samples themselves, or as many others
    weight_gen, weight_pos, weight_neg = (
        ones(weight_gen, gen_neg),
        ones(weight_pos, pos),
        ones(weight_neg, neg),
    )
    gen, gen_neg, pos, neg = (a.astype(jnp.float32) for a in (gen, gen_neg, pos, neg))

    x, gen_neg, pos, neg = jax.lax.stop_gradient((gen, gen_neg, pos, neg))
    gen_neg = share(gen_neg)
    y_neg, w_neg = jnp.concatenate([gen_neg, neg], 1), jnp.concatenate([weight_gen, weight_neg], 1)
    ids = np.zeros(len(gen), np.int32) if set_of is None else np.asarray(set_of)
    member = jnp.asarray(ids)[:, None] == np.arange(ids.max() + 1)  # [B, sets]
    add = lambda a: jnp.sum(jnp.where(member, a[..., None], 0), -2)  # [..., B] -> [..., sets]
    mean = lambda a: add(a) / add(jnp.ones(len(ids)))

    total, weight = weighted_distances(
        x, jnp.concatenate([y_neg, pos], 1), jnp.concatenate([w_neg, weight_pos], 1), self_neg
    )
    own, pooled = {"scale": add(total) / add(weight), "scale_weight": add(weight)}, pooled or {}
    scale = jnp.maximum(pooled.get("scale", own["scale"]) / jnp.sqrt(gen.shape[2]), 1e-3)[
        ids
    ]  # S_j, [B]
    tau, unit = jnp.asarray(temperatures), scale * jnp.sqrt(gen.shape[2])

    def v_of(pos, neg, weight_pos, weight_neg, self_neg):
        field_of = FIELDS[field] if isinstance(field, str) else field
        of_one = lambda x, pos, neg, w_pos, w_neg, unit, tau: field_of(
            x, pos, neg, w_pos, w_neg, tau, self_neg=self_neg, unit=unit
        )
        of_all = jax.vmap(
            of_one, in_axes=(None,) * 6 + (0,)
        )  # over the temperatures: distances are computed once
        of_all = jax.vmap(of_all, in_axes=(0,) * 6 + (None,))  # over the B problems
        return of_all(x, pos, neg, weight_pos, weight_neg, unit, tau)

    if guidance == "field" and neg.shape[1]:
        v, perplexity = v_of(
            pos, gen_neg, weight_pos, weight_gen, self_neg
        )  # [B, tau, N, D], [B, tau, N]
        w = jnp.sum(weight_neg, 1) / jnp.maximum(
            jnp.sum(weight_gen, 1) * (1 - (self_neg > 0) / gen.shape[1]), 1e-8
        )
        v += w[:, None, None, None] * v_of(pos, neg, weight_pos, weight_neg, 0)[0]
    else:
        v, perplexity = v_of(pos, y_neg, weight_pos, w_neg, self_neg)
    scale = scale[:, None, None]
    v = v / scale[:, None]  # phi~ = phi / S_j
    own |= {
        f"drift_sq_norm_{t}": s for t, s in zip(temperatures, mean(jnp.mean(v**2, axis=(2, 3)).T))
    }  # lambda^2, before the floor
    sq_norm = jnp.stack(
        [pooled.get(k, own[k]) for k in own if k.startswith("drift_sq_norm")]
    )  # [tau, sets]
    v = sum(
        v_tau / jnp.sqrt(jnp.maximum(square, 1e-8))[ids, None, None]
        for v_tau, square in zip(jnp.moveaxis(v, 1, 0), sq_norm)
    )

    target = jax.lax.stop_gradient(
        x / scale + v
    )  # eq. 6; a learned field has parameters, which this loss must not reach
    loss = jnp.mean((gen / scale - target) ** 2, axis=(1, 2))
    info = own | pooled | {"perplexity": mean(jnp.mean(perplexity, 2).T)[jnp.argmin(tau)]}
    return loss, {k: v[0] for k, v in info.items()} if set_of is None else info
