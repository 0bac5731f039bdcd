"""A field whose two sides are normalised apart."""

import jax
import jax.numpy as jnp

from drifting.distances import log_kernel, log_weight, perplexity


def uncoupled_field(
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
    """Attraction and repulsion each by its own kernel, with rows that sum to 1: V = W+ y+ - W- y-, W = A / sum_y(A), A = sqrt(softmax over y * softmax over x) or softmax over y."""

    def pull(y, weight, self_neg):
        logit = log_kernel(x, y, kernel, tau, unit, self_neg)
        if (
            normalize == "both"
        ):  # in logarithms, log A = (2 logit - LSE_y - LSE_x) / 2, and LSE_y does not outlive the division by the row's sum
            logit -= jax.nn.logsumexp(logit, axis=0, keepdims=True) / 2
        w = jax.nn.softmax(logit + log_weight(weight), axis=1)
        return jnp.matmul(w, y, precision=jax.lax.Precision.HIGHEST) - x, w

    (v_pos, share), (v_neg, _) = pull(pos, weight_pos, 0), pull(neg, weight_neg, self_neg)
    return attraction * v_pos - repulsion * v_neg, perplexity(share)
