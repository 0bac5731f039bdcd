"""The kernel field of the paper, Algorithm 2."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drifting.distances import MASKED, affinity, corrected, log_kernel, perplexity
from drifting.fields import kernel_tiled


def kernel_field(
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
    normalize: str = "both",
    absent: str = "masked",
    bias_correction: bool = False,
    attraction: float = 1.0,
    repulsion: float = 1.0,
) -> tuple[Float[Array, "N D"], Float[Array, " N"]]:
    """Algorithm 2: the kernel of eq. 12, normalised over y and over x.

    The arguments and results of every field are explained in `drifting.fields`.

    Args:
        kernel: "laplace", or "gaussian".
        normalize: "both"; or "y", over y alone; or "none" (Table 11).
        absent: what becomes of negatives of weight 0. "masked": they are as if they were not there.
            "counted": they keep their share of the softmax over y, and only then are multiplied by
            0, as in the authors' release. Positives of weight 0 fill up a class; they never count.
        bias_correction: correct the centroids of both sides for the number of samples.
    """
    # Very many positives take turns, with the same result. This function is the one to read, and
    # what changes here has to change in kernel_tiled.py too.
    if pos.shape[0] > kernel_tiled.TILE:
        problem = (x, pos, neg, weight_pos, weight_neg, tau, self_neg, unit)
        return kernel_tiled.kernel_field(
            *problem,
            kernel=kernel,
            normalize=normalize,
            absent=absent,
            bias_correction=bias_correction,
            attraction=attraction,
            repulsion=repulsion,
        )
    n_negatives = neg.shape[0]
    y = jnp.concatenate([neg, pos])  # [M+P, D]
    weight = jnp.concatenate([weight_neg, weight_pos])  # [M+P]
    is_neg = jnp.arange(y.shape[0]) < n_negatives
    has_share = (weight > 0) | (is_neg & (absent == "counted"))

    # A = sqrt(softmax over y * softmax over x), times the weight of each y.
    # An absent y has a column of its own in the softmax over x, which its weight removes.
    logit = log_kernel(x, y, kernel, tau, unit, self_neg)  # [N, M+P]
    logit = jnp.where(has_share, logit, MASKED)
    over_y = jax.nn.softmax(logit, axis=1)
    # Times 1 / sum: the TPU compiler would write a sum to divide by down for every pair.
    shifted = jnp.exp(logit - jnp.max(logit, 0))
    over_x = shifted * (1 / jnp.sum(shifted, 0))
    a = affinity(logit, over_y, over_x, normalize) * weight  # [N, M+P]

    # W+ = A+ sum(A-) and W- = A- sum(A+): each side is weighted by the mass of the other.
    # Both sums are one product, since a CPU is slow in sums of rows that are spread again.
    sides = jnp.stack([is_neg, ~is_neg], 1).astype(a.dtype)  # [M+P, 2]
    sums = jnp.matmul(a, sides, precision=jax.lax.Precision.HIGHEST)
    sum_neg, sum_pos = sums[:, :1], sums[:, 1:]
    pull = a
    if bias_correction:  # of the centroid of each side, whose weights are A+ / sum(A+)
        share_neg = jnp.where(is_neg, a, 0) / jnp.maximum(sum_neg, 1e-30)
        share_pos = jnp.where(is_neg, 0, a) / jnp.maximum(sum_pos, 1e-30)
        pull = sum_neg * corrected(share_neg) + sum_pos * corrected(share_pos)
    w = pull * jnp.where(is_neg, -repulsion * sum_pos, attraction * sum_neg)

    # V = W+ y+ - W- y-. Features are centred first: a common offset would cancel digits. It cancels
    # in V too, unless the two factors differ.
    centre = jnp.mean(y, 0)
    v = jnp.matmul(w, y - centre, precision=jax.lax.Precision.HIGHEST)
    surplus = attraction - repulsion
    if isinstance(surplus, jax.Array) or surplus:  # 0 (x - centre) would be written down
        v = v - surplus * sum_pos * sum_neg * (x - centre)
    return v, perplexity(a[:, n_negatives:])
