"""Classifier-free guidance at training time (Sec. 3.5, A.7): sampling stays one pass.

Each class of a step draws a guidance scale alpha, and the generator is conditioned on it. At
sampling time alpha is free.
"""

import jax
import jax.numpy as jnp


def sample_alpha(
    key: jax.Array,
    shape: tuple[int, ...],
    alpha_min: float,
    alpha_max: float,
    power: float,
    no_cfg_frac: float,
) -> jax.Array:
    """Draws guidance scales with density p(alpha) ~ alpha^-power on [alpha_min, alpha_max] (A.7).

    The draw goes through the inverse of the cumulative distribution.

    Args:
        key: a random key.
        shape: of the result.
        alpha_min, alpha_max: the interval, 1 <= alpha_min <= alpha_max.
        power: k of the density, >= 0.
        no_cfg_frac: probability in [0, 1] of alpha = 1, which is no guidance.

    Returns:
        float32 scales of `shape`.
    """
    key_u, key_off = jax.random.split(key)
    u = jax.random.uniform(key_u, shape)
    ratio = alpha_max / alpha_min  # in units of alpha_min no power is too large
    if power == 1:
        alpha = alpha_min * ratio**u
    else:
        low, high = 1.0, ratio ** (1.0 - power)
        alpha = alpha_min * (low + u * (high - low)) ** (1 / (1.0 - power))
    alpha = jnp.clip(alpha, alpha_min, alpha_max)
    return jnp.where(jax.random.uniform(key_off, shape) < no_cfg_frac, 1.0, alpha)


def unconditional_weight(alpha: jax.Array, n_neg: int, n_unc: int) -> jax.Array:
    """Returns w = (alpha - 1) (N_neg - 1) / N_unc, the weight of an unconditional real (Sec. 3.5).

    The n_unc unconditional reals join n_neg generated samples of weight 1 as negatives. The result
    has the shape of alpha.
    """
    return (alpha - 1.0) * (n_neg - 1) / n_unc
