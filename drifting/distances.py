"""Distances and kernels (eq. 12), float32 whatever the networks use: at tau = 0.02 they underflow otherwise."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MASKED = (
    -1e30
)  # a logit whose kernel value is 0; finite, so that a row of masked logits stays finite


def distance(
    x: Float[Array, "*B N D"], y: Float[Array, "*B M D"], shared: int = 0
) -> Float[Array, "*B N M"]:
    """Plain L2 distances ||x - y||, with the square clipped at 1e-8 as in the authors' release.

    shared: y[:shared] are x themselves (0 or N). Their norms then come from the matrix product that the squares are made of, so that coinciding samples are at
    distance 0 to the last bit: what separates a collapsed generator must not be rounding.
    """
    centre = jnp.mean(
        y, -2, keepdims=True
    )  # a common offset would cancel away the digits that matter
    x, y = x - centre, y - centre
    dot = jnp.einsum("...nd,...md->...nm", x, y, precision=jax.lax.Precision.HIGHEST)
    x_sq, y_sq = jnp.sum(x * x, -1), jnp.sum(y * y, -1)
    if shared:  # no slice or concatenation: compilers split this by rows of x, and leave y whole
        diagonal = jnp.where(jnp.eye(*dot.shape[-2:], dtype=bool), dot, 0)
        x_sq, y_sq = (
            jnp.sum(diagonal, -1),
            jnp.where(jnp.arange(y.shape[-2]) < shared, jnp.sum(diagonal, -2), y_sq),
        )
    return jnp.sqrt(jnp.maximum(x_sq[..., :, None] + y_sq[..., None, :] - 2 * dot, 1e-8))


def log_kernel(
    x: Float[Array, "N D"], y: Float[Array, "M D"], kernel: str, tau, unit, self_neg: int
) -> Float[Array, "N M"]:
    """log k(x, y) = -c(x, y) / eps, and MASKED where y[:self_neg] is x itself. unit: the length of a typical distance, S sqrt(D).

    laplace:  c = ||x - y||        eps = tau unit      (eq. 12)
    gaussian: c = ||x - y||^2 / 2  eps = tau unit^2    so that one tau serves in any number of dimensions
    """
    dist = distance(x, y, self_neg)
    logit = -dist / (tau * unit) if kernel == "laplace" else -(dist**2) / (2 * tau * unit**2)
    itself = jnp.eye(*dist.shape, dtype=bool) & (jnp.arange(y.shape[0]) < self_neg)
    return jnp.where(itself, MASKED, logit)


def log_weight(weight: Float[Array, "M"]) -> Float[Array, "M"]:
    """Logarithm of the weights divided by their sum; MASKED for 0."""
    logit = jnp.where(weight > 0, jnp.log(jnp.maximum(weight, 1e-30)), MASKED)
    return jax.nn.log_softmax(logit)


def perplexity(attraction: Float[Array, "N P"]) -> Float[Array, "N"]:
    """exp(entropy) of each row taken as a distribution: 1 when x is drawn to one positive, P when to all alike."""
    share = attraction / jnp.sum(attraction, 1, keepdims=True)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share), 1))
