"""The kernel field of Algorithm 2."""

import jax
import jax.numpy as jnp

from drifting.distances import MASKED, log_kernel, perplexity
from drifting.fields import kernel_tiled as tiled


def kernel_field(
    x,
    pos,
    neg,
    weight_pos,
    weight_neg,
    tau,
    self_neg,
    unit=1.0,
    *,
    kernel="laplace",
    normalize="both",
    attraction=1.0,
    repulsion=1.0,
):
    """Algorithm 2: the kernel (eq. 12) normalised over y and over x; over y alone, or not at all (Table 11)."""
    if pos.shape[0] > tiled.TILE:
        return tiled.kernel_field(
            x,
            pos,
            neg,
            weight_pos,
            weight_neg,
            tau,
            self_neg,
            unit,
            kernel=kernel,
            normalize=normalize,
            attraction=attraction,
            repulsion=repulsion,
        )
    y = jnp.concatenate([neg, pos])  # [M+P, D]
    weight = jnp.concatenate([weight_neg, weight_pos])  # [M+P]
    logit = log_kernel(x, y, kernel, tau, unit, self_neg)  # [N, M+P]
    over_y = jax.nn.softmax(jnp.where(weight > 0, logit, MASKED), axis=1)
    over_x = jax.nn.softmax(logit, axis=0)
    a_squared = {"both": over_y * over_x, "y": over_y**2, "none": jnp.exp(2 * logit)}[normalize]
    a = jnp.sqrt(jnp.maximum(a_squared, 1e-6)) * weight  # [N, M+P]
    is_neg = jnp.arange(y.shape[0]) < neg.shape[0]
    sum_neg, sum_pos = (
        jnp.sum(jnp.where(side, a, 0), 1, keepdims=True) for side in (is_neg, ~is_neg)
    )
    w = a * jnp.where(
        is_neg, -repulsion * sum_pos, attraction * sum_neg
    )  # W- = A- sum(A+), W+ = A+ sum(A-)

    centre = jnp.mean(y, 0)  # without a common offset, which would cancel away digits
    v = jnp.matmul(w, y - centre, precision=jax.lax.Precision.HIGHEST)  # V = W+ y+ - W- y-
    return v - (attraction - repulsion) * sum_pos * sum_neg * (x - centre), perplexity(
        a[:, neg.shape[0] :]
    )
