"""Entropic optimal transport from the generated samples to a set, and the field made of it (arXiv 2605.11755, 2603.12366)."""

import jax
import jax.numpy as jnp

from drifting.distances import log_kernel, log_weight, perplexity


def log_plan(log_k, log_a, log_b, iterations):
    """log Pi [N, M] = log u + log K + log v after some iterations of Sinkhorn's algorithm, all in logarithms.

    log_k [N, M] = -c / eps. log_a [N], log_b [M]: the marginals, each summing to 1. iterations: a multiple of 1/2. One iteration scales the rows, then the columns:

        log u = log a - LSE_y(log K + log v)        log v = log b - LSE_x(log K + log u)

    so Pi meets b exactly and a in the limit; half an iteration more and it is the other way round. u and v start from the marginals: no iteration gives a b K.
    """
    scale_rows = lambda v: log_a - jax.nn.logsumexp(log_k + v, axis=1)
    scale_columns = lambda u: log_b - jax.nn.logsumexp(log_k + u[:, None], axis=0)

    def iteration(_, uv):
        u = scale_rows(uv[1])
        return u, scale_columns(u)

    u, v = jax.lax.fori_loop(0, int(iterations), iteration, (log_a, log_b))
    if iterations % 1:
        u = scale_rows(v)
    return u[:, None] + log_k + v


def sinkhorn_field(
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
    iterations=20.0,
    attraction=1.0,
    repulsion=1.0,
):
    """V = T_{q->p}(x) - T_{q->q'}(x), with T = (Pi @ y) / rowsum(Pi) the barycentre of what the plan Pi sends x to.

    neg should be q', a second batch independent of x: then V is 0 in expectation for p = q. kernel: laplace for the cost ||x - y||, gaussian for ||x - y||^2 / 2.
    Without iterations Pi is the kernel itself and stays unnormalised, V = sum_y b_y k(x, y) (y - x) of either set (the flow of a maximum mean discrepancy);
    half an iteration is a softmax over y (the flow of a KL divergence).
    """

    def pull(y, weight, self_neg):
        log_a = jnp.full(x.shape[0], -jnp.log(x.shape[0]))
        log_pi = log_plan(
            log_kernel(x, y, kernel, tau, unit, self_neg), log_a, log_weight(weight), iterations
        )
        w = jax.nn.softmax(log_pi, axis=1)  # Pi / rowsum(Pi), which does not underflow
        v = jnp.matmul(w, y, precision=jax.lax.Precision.HIGHEST) - x
        return (
            v
            if iterations
            else v * jnp.exp(jax.nn.logsumexp(log_pi - log_a[:, None], axis=1, keepdims=True))
        ), w

    (v_pos, share), (v_neg, _) = pull(pos, weight_pos, 0), pull(neg, weight_neg, self_neg)
    return attraction * v_pos - repulsion * v_neg, perplexity(share)
