"""The kernel field over more positives than fit beside one another: exact, a tile of them at a time.

Softmax over x needs one y alone, so it is complete within a tile. Softmax over y needs log sum_y k(x, y) of each x, which a first pass over the tiles sums up; a second pass
then sums what the field is made of. Memory is that of N x TILE numbers, whatever the number of positives.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp, xlogy

from drifting.distances import MASKED, distance, log_kernel

TILE = 2048  # positives


def tiles(y, weight):
    """y [P, D], weight [P] -> [K, TILE, D], [K, TILE], filled up with samples of weight 0, which are absent."""
    short = -y.shape[0] % TILE
    return jnp.pad(y, ((0, short), (0, 0))).reshape(-1, TILE, y.shape[1]), jnp.pad(
        weight, (0, short)
    ).reshape(-1, TILE)


def kernel_field(
    x,
    pos,
    neg,
    weight_pos,
    weight_neg,
    tau,
    self_neg,
    unit,
    *,
    kernel,
    normalize,
    attraction,
    repulsion,
):
    """`drifting.fields.kernel_field`, to rounding."""
    centre = jnp.mean(x, 0)
    x, neg, (pos, weight_pos) = x - centre, neg - centre, tiles(pos - centre, weight_pos)

    def logits(y, weight, self_neg):
        logit = log_kernel(x, y, kernel, tau, unit, self_neg)  # [N, Y]
        return logit, jnp.where(weight > 0, logit, MASKED)

    def add_row_sums(log_sum, tile):
        return jnp.logaddexp(log_sum, logsumexp(logits(*tile, 0)[1], 1)), None

    log_sum = logsumexp(
        logits(neg, weight_neg, self_neg)[1], 1
    )  # [N]: log sum_y k(x, y), complete after the last tile
    log_sum, _ = jax.lax.scan(add_row_sums, log_sum, (pos, weight_pos))

    def force(y, weight, self_neg):  # sum A, sum A (y - x), sum A log A
        logit, present = logits(y, weight, self_neg)
        over_y, over_x = jnp.exp(present - log_sum[:, None]), jax.nn.softmax(logit, axis=0)
        a_squared = {"both": over_y * over_x, "y": over_y**2, "none": jnp.exp(2 * logit)}[normalize]
        a = jnp.sqrt(jnp.maximum(a_squared, 1e-6)) * weight  # [N, Y]
        total = jnp.sum(a, 1)
        return (
            total,
            jnp.matmul(a, y, precision=jax.lax.Precision.HIGHEST) - total[:, None] * x,
            jnp.sum(xlogy(a, a), 1),
        )

    sum_neg, to_neg, _ = force(neg, weight_neg, self_neg)
    zero = (jnp.zeros_like(log_sum), jnp.zeros_like(x), jnp.zeros_like(log_sum))
    (sum_pos, to_pos, a_log_a), _ = jax.lax.scan(
        lambda sums, tile: (jax.tree.map(jnp.add, sums, force(*tile, 0)), None),
        zero,
        (pos, weight_pos),
    )
    v = (
        attraction * sum_neg[:, None] * to_pos - repulsion * sum_pos[:, None] * to_neg
    )  # V = W+ y+ - W- y-
    return v, jnp.exp(jnp.log(sum_pos) - a_log_a / sum_pos)


def sum_of_distances(x, y, weight_y, self_neg):
    """[B]: sum_{x,y} w_y ||x - y|| over x [B,N,D] and y [B,Y,D], whose first self_neg are x."""

    def of_problem(x, y, weight):
        add = lambda total, tile: (total + jnp.sum(distance(x, tile[0]) * tile[1]), None)
        itself = (
            jnp.sum(distance(x, y[:self_neg], self_neg) * weight[:self_neg]) if self_neg else 0.0
        )
        return jax.lax.scan(add, itself, tiles(y[self_neg:], weight[self_neg:]))[0]

    return jax.vmap(of_problem)(x, y, weight_y)
