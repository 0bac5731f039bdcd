"""The drifting field V (Sec. 3.3, Alg. 2): where each generated sample should move.

A field is a function of ONE problem: generated x, positives y+ ~ p (data), negatives y- ~ q (generated, and unconditional reals for guidance):

    V, perplexity = field(x, pos, neg, weight_pos, weight_neg, tau, self_neg)

    x           [N, D]  generated samples      pos  [P, D]      neg  [M, D]
    weight_pos  [P]     weight_neg [M]: >= 0; a sample of weight 0 is as if it were not there
    tau         scalar  kernel temperature, in the units of x
    self_neg    int     0, or N when neg[:N] are x themselves: a sample does not repel itself

    V           [N, D]  the displacement, = 0 when pos and neg are the same weighted set (antisymmetry, eq. 3)
    perplexity  [N]     over how many positives x shares its attraction (for monitoring)

A new field is one such function and one line in FIELDS. All arithmetic is float32 whatever the networks use: at tau = 0.02 the kernel underflows otherwise.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MASKED = -1e30  # a logit whose kernel value is 0; finite, so that a row of masked logits stays finite


def distance(x: Float[Array, "*B N D"], y: Float[Array, "*B M D"], shared: int = 0) -> Float[Array, "*B N M"]:
    """Plain L2 distances ||x - y||, with the square clipped at 1e-8 as in the authors' release.

    shared: y[:shared] are x themselves (0 or N). Their norms then come from the matrix product that the squares are made of, so that coinciding samples are at
    distance 0 to the last bit: what separates a collapsed generator must not be rounding.
    """
    centre = jnp.mean(y, -2, keepdims=True)  # a common offset would cancel away the digits that matter
    x, y = x - centre, y - centre
    dot = jnp.einsum("...nd,...md->...nm", x, y, precision=jax.lax.Precision.HIGHEST)
    y_sq = jnp.sum(y * y, -1)
    if shared:
        x_sq = jnp.diagonal(dot, axis1=-2, axis2=-1)
        y_sq = jnp.concatenate([x_sq, y_sq[..., shared:]], -1)
    else:
        x_sq = jnp.sum(x * x, -1)
    return jnp.sqrt(jnp.maximum(x_sq[..., :, None] + y_sq[..., None, :] - 2 * dot, 1e-8))


def perplexity(attraction: Float[Array, "N P"]) -> Float[Array, "N"]:
    """exp(entropy) of each row taken as a distribution: 1 when x is drawn to one positive, P when to all alike."""
    share = attraction / jnp.sum(attraction, 1, keepdims=True)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share), 1))


def kernel_field(x, pos, neg, weight_pos, weight_neg, tau, self_neg):
    """Algorithm 2: the kernel k(x, y) = exp(-||x - y|| / tau) (eq. 12), normalised over y and over x."""
    y = jnp.concatenate([neg, pos])  # [M+P, D]
    weight = jnp.concatenate([weight_neg, weight_pos])  # [M+P]
    itself = jnp.eye(x.shape[0], y.shape[0], dtype=bool) & (jnp.arange(y.shape[0]) < self_neg)  # [N, M+P]
    logit = jnp.where(itself, MASKED, -distance(x, y, self_neg) / tau)
    over_y = jax.nn.softmax(jnp.where(weight > 0, logit, MASKED), axis=1)
    over_x = jax.nn.softmax(logit, axis=0)
    a = jnp.sqrt(jnp.maximum(over_y * over_x, 1e-6)) * weight  # [N, M+P]
    a_neg, a_pos = a[:, : neg.shape[0]], a[:, neg.shape[0] :]
    w_pos = a_pos * jnp.sum(a_neg, 1, keepdims=True)  # W+ = A+ * sum(A-)
    w_neg = a_neg * jnp.sum(a_pos, 1, keepdims=True)  # W- = A- * sum(A+)

    w = jnp.concatenate([-w_neg, w_pos], axis=1)
    v = jnp.matmul(w, y, precision=jax.lax.Precision.HIGHEST) - jnp.sum(w, 1, keepdims=True) * x  # V = W+ y+ - W- y-
    return v, perplexity(a_pos)


FIELDS = {"kernel": kernel_field}
