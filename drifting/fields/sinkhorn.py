"""Entropic optimal transport from the generated samples to a set, and the field made of it.

Sources: arXiv 2605.11755 (W-Flow) and 2603.12366.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drifting.distances import log_kernel, log_weight, perplexity


def log_plan(
    log_k: Float[Array, "N M"],
    log_a: Float[Array, " N"],
    log_b: Float[Array, " M"],
    iterations: float,
) -> Float[Array, "N M"]:
    """Returns log Pi = log u + log K + log v, the plan after some iterations of Sinkhorn.

    One iteration scales the rows and then the columns, all in logarithms:

        log u = log a - LSE_y(log K + log v)        log v = log b - LSE_x(log K + log u)

    After whole iterations Pi meets the marginal b exactly and a in the limit; after half an
    iteration more it is the other way round. u and v start from the marginals, so without an
    iteration Pi = a b K.

    Args:
        log_k: -c / eps.
        log_a, log_b: the logarithms of the two marginals, each of which sums to 1.
        iterations: a multiple of 1/2.
    """

    def scale_rows(log_v):
        return log_a - jax.nn.logsumexp(log_k + log_v, axis=1)

    def scale_columns(log_u):
        return log_b - jax.nn.logsumexp(log_k + log_u[:, None], axis=0)

    def iteration(_, scales):
        _, log_v = scales
        log_u = scale_rows(log_v)
        return log_u, scale_columns(log_u)

    log_u, log_v = jax.lax.fori_loop(0, int(iterations), iteration, (log_a, log_b))
    if iterations % 1:
        log_u = scale_rows(log_v)
    return log_u[:, None] + log_k + log_v


def sinkhorn_field(
    x: Float[Array, "N D"],
    pos: Float[Array, "P D"],
    neg: Float[Array, "M D"],
    weight_pos: Float[Array, " P"],
    weight_neg: Float[Array, " M"],
    tau,
    self_neg: int,
    unit=1.0,
    *,
    kernel: str = "laplace",
    iterations: float = 20.0,
    attraction: float = 1.0,
    repulsion: float = 1.0,
) -> tuple[Float[Array, "N D"], Float[Array, " N"]]:
    """V = T_{q->p}(x) - T_{q->q'}(x), where T = (Pi @ y) / rowsum(Pi).

    T(x) is the barycentre of what the plan Pi sends x to. The negatives should be q', a second
    batch that is independent of x: V is then 0 in expectation when p = q. The arguments are
    explained in `drifting.fields`.

    Args:
        kernel: "laplace" for the cost ||x - y||, "gaussian" for ||x - y||^2 / 2.
        iterations: of Sinkhorn's algorithm, a multiple of 1/2. With none, Pi is the kernel itself
            and stays unnormalised, V = sum_y b_y k(x, y) (y - x) on either side, which is the flow
            of a maximum mean discrepancy. Half an iteration is a softmax over y, which is the flow
            of a KL divergence.
    """

    def pull(y, weight, self_neg):
        """Returns T(x) - x, and the normalised plan."""
        log_a = jnp.full(x.shape[0], -jnp.log(x.shape[0]))
        log_k = log_kernel(x, y, kernel, tau, unit, self_neg)
        log_pi = log_plan(log_k, log_a, log_weight(weight), iterations)
        plan = jax.nn.softmax(log_pi, axis=1)  # Pi / rowsum(Pi), which does not underflow
        v = jnp.matmul(plan, y, precision=jax.lax.Precision.HIGHEST) - x
        if not iterations:
            row_sum = jnp.exp(jax.nn.logsumexp(log_pi - log_a[:, None], axis=1, keepdims=True))
            v = v * row_sum
        return v, plan

    v_pos, plan_pos = pull(pos, weight_pos, 0)
    v_neg, _ = pull(neg, weight_neg, self_neg)
    return attraction * v_pos - repulsion * v_neg, perplexity(plan_pos)
