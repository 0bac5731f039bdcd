"""Distances between features and the kernel made of them (eq. 12).

Everything here is float32, whatever type the networks compute in: at the smallest temperature of
the paper, 0.02, the kernel underflows in bfloat16.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# A logit whose kernel value is 0. It is finite, so that a row of nothing but masked logits has a
# finite softmax.
MASKED = -1e30


def distance(
    x: Float[Array, "*B N D"], y: Float[Array, "*B M D"], shared: int = 0
) -> Float[Array, "*B N M"]:
    """Returns the plain L2 distances ||x - y||, not squared.

    Squares are clipped at 1e-8 from below, as in the authors' release.

    Args:
        x, y: the two sets of vectors.
        shared: how many of the first y are x themselves, either 0 or N. Their norms are then read
            off the matrix product that the squares are made of, so that coinciding samples are at
            distance 0 to the last bit: a generator that has collapsed must not be pulled apart by
            rounding.
    """
    centre = jnp.mean(y, -2, keepdims=True)  # a common offset would cancel the digits that matter
    others = y[..., shared:, :] - centre  # whose squares are not in the product
    x, y = x - centre, y - centre
    dot = jnp.einsum("...nd,...md->...nm", x, y, precision=jax.lax.Precision.HIGHEST)
    x_squared, y_squared = jnp.sum(x * x, -1), jnp.sum(others * others, -1)
    if shared:
        # The product is masked, not sliced: the compiler then divides
        # the rows of x over devices and leaves y whole.
        diagonal = jnp.where(jnp.eye(*dot.shape[-2:], dtype=bool), dot, 0)
        x_squared = jnp.sum(diagonal, -1)
        y_squared = jnp.pad(y_squared, [(0, 0)] * (y.ndim - 2) + [(shared, 0)])
        is_x = jnp.arange(y.shape[-2]) < shared
        y_squared = jnp.where(is_x, jnp.sum(diagonal, -2), y_squared)
    squared = x_squared[..., :, None] + y_squared[..., None, :] - 2 * dot
    return jnp.sqrt(jnp.maximum(squared, 1e-8))


def log_kernel(
    x: Float[Array, "N D"], y: Float[Array, "M D"], kernel: str, tau, unit, self_neg: int
) -> Float[Array, "N M"]:
    """Returns log k(x, y) = -c(x, y) / eps.

    laplace:   c = ||x - y||        eps = tau unit     (eq. 12)
    gaussian:  c = ||x - y||^2 / 2  eps = tau unit^2   so that one tau serves every dimension

    Args:
        x, y: the two sets of features.
        kernel: "laplace" or "gaussian".
        tau: the temperature.
        unit: S sqrt(D), the length of a typical distance.
        self_neg: how many of the first y are x themselves, 0 or N; a pair of a sample with itself
            is MASKED.
    """
    dist = distance(x, y, self_neg)
    if kernel == "laplace":
        logit = -dist / (tau * unit)
    else:
        logit = -(dist**2) / (2 * tau * unit**2)
    is_itself = jnp.eye(*dist.shape, dtype=bool) & (jnp.arange(y.shape[0]) < self_neg)
    return jnp.where(is_itself, MASKED, logit)


def affinity(
    logit: Float[Array, "N Y"],
    over_y: Float[Array, "N Y"],
    over_x: Float[Array, "N Y"],
    normalize: str,
) -> Float[Array, "N Y"]:
    """Returns A of Algorithm 2, whose square is clipped at 1e-6 as in the authors' release.

    Args:
        logit: log k(x, y).
        over_y, over_x: softmax of the logits over y and over x.
        normalize: which of the two make up A: "both", "y" or "none" (Table 11).
    """
    if normalize == "both":
        squared = over_y * over_x
    elif normalize == "y":
        squared = over_y**2
    else:
        squared = jnp.exp(2 * logit)
    return jnp.sqrt(jnp.maximum(squared, 1e-6))


def log_weight(weight: Float[Array, " M"]) -> Float[Array, " M"]:
    """Returns the logarithm of the weights divided by their sum; MASKED where a weight is 0."""
    logit = jnp.where(weight > 0, jnp.log(jnp.maximum(weight, 1e-30)), MASKED)
    return jax.nn.log_softmax(logit)


def corrected(w: Float[Array, "*N Y"]) -> Float[Array, "*N Y"]:
    """Returns weights whose centroid of samples is less biased (arXiv 2604.27239).

    Each row of w sums to 1 and is proportional to a kernel at n drawn samples. Its centroid
    c = sum w_y y estimates a ratio of two expectations, with a bias of O(1/n). That of

        c + sum w_y^2 (y - c),

    has a bias of O(1/n^2). It is the centroid of w_y (1 + w_y - sum w^2), which again sum to 1 and
    are not negative.
    """
    return w * (1 + w - jnp.sum(w**2, -1, keepdims=True))


def perplexity(attraction: Float[Array, "N P"]) -> Float[Array, " N"]:
    """Returns over how many positives each sample spreads its attraction.

    It is exp(entropy) of each row taken as a distribution: 1 when a sample is drawn to one positive
    alone, P when it is drawn to all of them alike.
    """
    distribution = attraction / jnp.sum(attraction, 1, keepdims=True)
    entropy = -jnp.sum(jax.scipy.special.xlogy(distribution, distribution), 1)
    return jnp.exp(entropy)
