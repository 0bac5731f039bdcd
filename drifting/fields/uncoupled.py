"""A field whose attraction and repulsion are normalised apart from each other."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drifting.distances import corrected, log_kernel, log_weight, perplexity


def uncoupled_field(
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
    bias_correction: bool = False,
    attraction: float = 1.0,
    repulsion: float = 1.0,
) -> tuple[Float[Array, "N D"], Float[Array, " N"]]:
    """V = W+ y+ - W- y-, each side with its own kernel and rows that sum to 1.

    On either side W = A / sum_y(A), where A is sqrt(softmax over y * softmax over x), or, with
    normalize "y", the softmax over y alone. The arguments are explained in `drifting.fields`.

    Args:
        kernel: "laplace", or "gaussian".
        normalize: "both" or "y".
        bias_correction: correct the centroids W y for the number of samples.
    """

    def pull(y, weight, self_neg):
        """Returns W y - x and W."""
        logit = log_kernel(x, y, kernel, tau, unit, self_neg)
        if normalize == "both":
            # In logarithms, log A = (2 logit - LSE_y - LSE_x) / 2. Dividing by the sum of the row
            # takes LSE_y away again, so it is never computed.
            logit -= jax.nn.logsumexp(logit, axis=0, keepdims=True) / 2
        w = jax.nn.softmax(logit + log_weight(weight), axis=1)
        if bias_correction:
            w = corrected(w)
        return jnp.matmul(w, y, precision=jax.lax.Precision.HIGHEST) - x, w

    v_pos, w_pos = pull(pos, weight_pos, 0)
    v_neg, _ = pull(neg, weight_neg, self_neg)
    return attraction * v_pos - repulsion * v_neg, perplexity(w_pos)
