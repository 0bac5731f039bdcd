"""The kernel field over more positives than fit beside one another: exact, one tile at a time.

The softmax over x needs a single y, so it is complete within a tile. The softmax over y needs
log sum_y k(x, y) for each x, which a first pass over the tiles adds up. A second pass then adds up
what the field is made of. Memory is that of N x TILE numbers, however many positives there are.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.scipy.special import logsumexp, xlogy
from jaxtyping import Array, Float

from drifting.distances import MASKED, affinity, distance, log_kernel

TILE = 2048  # positives


def tiles(
    y: Float[Array, "P D"], weight: Float[Array, " P"]
) -> tuple[Float[Array, "K TILE D"], Float[Array, "K TILE"]]:
    """Cuts y and its weights into tiles; the last is filled up with samples of weight 0."""
    short = -y.shape[0] % TILE
    y = jnp.pad(y, ((0, short), (0, 0)))
    weight = jnp.pad(weight, (0, short))
    y_tiles = rearrange(y, "(k tile) d -> k tile d", tile=TILE)
    return y_tiles, rearrange(weight, "(k tile) -> k tile", tile=TILE)


def kernel_field(
    x: Float[Array, "N D"],
    pos: Float[Array, "P D"],
    neg: Float[Array, "M D"],
    weight_pos: Float[Array, " P"],
    weight_neg: Float[Array, " M"],
    tau,
    self_neg: int,
    unit,
    *,
    kernel: str,
    normalize: str,
    absent: str,
    bias_correction: bool,
    attraction: float,
    repulsion: float,
) -> tuple[Float[Array, "N D"], Float[Array, " N"]]:
    """Returns what `drifting.fields.kernel.kernel_field` returns, to rounding."""
    centre = jnp.mean(x, 0)
    x, neg = x - centre, neg - centre
    pos_tiles = tiles(pos - centre, weight_pos)

    def masked_logit(y, has_share, self_neg):
        """Returns log k(x, y), MASKED for samples that have no share."""
        return jnp.where(has_share, log_kernel(x, y, kernel, tau, unit, self_neg), MASKED)  # [N, Y]

    neg_has_share = (weight_neg > 0) | (absent == "counted")

    # First pass: log sum_y k(x, y) of each x, over the negatives and then over every tile.
    def add_row_sums(log_sum, tile):
        y, weight = tile
        logit = masked_logit(y, weight > 0, self_neg=0)
        return jnp.logaddexp(log_sum, logsumexp(logit, 1)), None

    logit = masked_logit(neg, neg_has_share, self_neg)
    log_sum, _ = jax.lax.scan(add_row_sums, logsumexp(logit, 1), pos_tiles)  # [N]

    # Second pass: sum A, sum A (y - x), and sum A log A for the perplexity.
    def sum_of_forces(a, y):
        total = jnp.sum(a, 1)
        return total, jnp.matmul(a, y, precision=jax.lax.Precision.HIGHEST) - total[:, None] * x

    def forces(y, weight, has_share, self_neg):
        logit = masked_logit(y, has_share, self_neg)
        over_y = jnp.exp(logit - log_sum[:, None])
        over_x = jax.nn.softmax(logit, axis=0)
        a = affinity(logit, over_y, over_x, normalize) * weight  # [N, Y]
        total, pull = sum_of_forces(a, y)
        squares = sum_of_forces(a**2, y) if bias_correction else ()
        return total, pull, jnp.sum(xlogy(a, a), 1), squares

    def add_forces(sums, tile):
        y, weight = tile
        return jax.tree.map(jnp.add, sums, forces(y, weight, weight > 0, self_neg=0)), None

    of_neg = forces(neg, weight_neg, neg_has_share, self_neg)
    of_pos, _ = jax.lax.scan(add_forces, jax.tree.map(jnp.zeros_like, of_neg), pos_tiles)
    sum_neg, to_neg, _, squares_neg = of_neg
    sum_pos, to_pos, a_log_a, squares_pos = of_pos
    if bias_correction:
        to_neg = corrected_pull(sum_neg, to_neg, *squares_neg)
        to_pos = corrected_pull(sum_pos, to_pos, *squares_pos)

    # V = W+ y+ - W- y-, as in kernel.py.
    v = attraction * sum_neg[:, None] * to_pos - repulsion * sum_pos[:, None] * to_neg
    return v, jnp.exp(jnp.log(sum_pos) - a_log_a / sum_pos)


def corrected_pull(
    total: Float[Array, " N"],
    pull: Float[Array, "N D"],
    square_total: Float[Array, " N"],
    square_pull: Float[Array, "N D"],
) -> Float[Array, "N D"]:
    """Returns sum A' (y - x) for the A' that `drifting.distances.corrected` makes of A / sum A.

    Args:
        total: sum A.
        pull: sum A (y - x).
        square_total, square_pull: the same two of A^2.
    """
    # The square of 1e-18 is still a number of float32. XLA makes one of two divisions, so a smaller
    # bound would divide by 0 where every weight is 0.
    safe = jnp.maximum(total, 1e-18)[:, None]
    return pull + square_pull / safe - pull * (square_total[:, None] / safe**2)


def sum_of_distances(
    x: Float[Array, "B N D"],
    y: Float[Array, "B Y D"],
    weight_y: Float[Array, "B Y"],
    self_neg: int,
) -> Float[Array, " B"]:
    """Returns sum_{x,y} w_y ||x - y|| of each problem; the first self_neg of y are x itself."""

    def of_problem(x, y, weight):
        def add_tile(total, tile):
            y, weight = tile
            return total + jnp.sum(distance(x, y) * weight), None

        if self_neg:
            own = jnp.sum(distance(x, y[:self_neg], self_neg) * weight[:self_neg])
        else:
            own = jnp.float32(0.0)
        total, _ = jax.lax.scan(add_tile, own, tiles(y[self_neg:], weight[self_neg:]))
        return total

    return jax.vmap(of_problem)(x, y, weight_y)
