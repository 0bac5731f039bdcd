"""The flow of the squared maximum mean discrepancy (MMD) between generated samples and data.

    MMD^2 = mean_{i != j} k(x_i, x_j) - 2 mean_{i, p} k(x_i, y_p) + a term of the data alone

The first mean leaves out pairs of a sample with itself, which makes it unbiased (a U-statistic,
Gretton et al. 2012). For N generated samples the field is V_i = -(N / 2) l^2 dMMD^2 / dx_i, with l
the length of the kernel. A mean over y estimates an expectation without a ratio, so V has no bias
of the number of samples.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drifting.distances import distance, log_weight, perplexity

# Pairs nearer than this share of a typical distance attract in proportion to their distance. The
# direction between them would be rounding: a collapsed generator must not be pulled apart by it.
NEAREST = 1e-3


def log_force(r: Float[Array, "N M"], kernel: str, tau, unit) -> Float[Array, "N M"]:
    """Returns log(l^2 |dk / dr|) of pairs at distance r > 0; a force is a length.

    laplace:   k = exp(-r / l)            l = tau unit          l^2 |dk / dr| = l k
    gaussian:  k = exp(-r^2 / (2 l^2))    l = sqrt(tau) unit    l^2 |dk / dr| = r k
    energy:    k = -r / l                 l = unit              l^2 |dk / dr| = l
    """
    if kernel == "laplace":
        return jnp.log(tau * unit) - r / (tau * unit)
    if kernel == "gaussian":
        return jnp.log(r) - r**2 / (2 * tau * unit**2)
    return jnp.zeros_like(r) + jnp.log(unit)


def mmd_field(
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
    attraction: float = 1.0,
    repulsion: float = 1.0,
) -> tuple[Float[Array, "N D"], Float[Array, " N"]]:
    """V = sum_+ b f(|y - x|) (y - x) / |y - x|, less the same sum over the negatives.

    f is the force of the kernel and the b of either side sum to 1. The attraction is exact where
    pos are all reals of the class. The arguments are explained in `drifting.fields`.

    Args:
        kernel: "laplace", "gaussian", or "energy", k = -|x - y|, which has no width and takes no
            notice of tau.
    """

    def pull(y, weight, self_neg):
        """Returns sum_y b f (y - x) / |y - x|, and the logarithms of b f."""
        is_itself = jnp.eye(len(x), len(y), dtype=bool) & (jnp.arange(len(y)) < self_neg)
        present = jnp.where(is_itself, 0, weight)  # [N, M]
        r = jnp.maximum(distance(x, y, self_neg), NEAREST * unit)
        log_f = jax.vmap(log_weight)(present) + log_force(r, kernel, tau, unit)
        # Sums of b f / r times y - x. A common offset would cancel digits.
        a, centre = jnp.exp(log_f) / r, jnp.mean(y, 0)
        of_y = jnp.matmul(a, y - centre, precision=jax.lax.Precision.HIGHEST)
        return of_y - jnp.sum(a, 1, keepdims=True) * (x - centre), log_f

    v_pos, log_f = pull(pos, weight_pos, 0)
    v_neg, _ = pull(neg, weight_neg, self_neg)
    # Forces may underflow; their shares do not.
    return attraction * v_pos - repulsion * v_neg, perplexity(jax.nn.softmax(log_f, 1))
