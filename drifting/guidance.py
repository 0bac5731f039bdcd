"""Classifier-free guidance at training time (Sec. 3.5, A.7): sampling stays one pass, and alpha is free there."""

import jax
import jax.numpy as jnp


def sample_alpha(key, shape, alpha_min, alpha_max, power, no_cfg_frac):
    """Guidance scales with density p(alpha) ~ alpha^-power on [alpha_min, alpha_max], by inverse CDF; alpha = 1 with probability no_cfg_frac (A.7).

    Returns float32 of `shape`. 1 <= alpha_min <= alpha_max; power >= 0; 0 <= no_cfg_frac <= 1.
    """
    key_u, key_off = jax.random.split(key)
    u = jax.random.uniform(key_u, shape)
    if power == 1:
        alpha = alpha_min * (alpha_max / alpha_min) ** u
    else:
        low, high = alpha_min ** (1.0 - power), alpha_max ** (1.0 - power)
        alpha = (low + u * (high - low)) ** (1 / (1.0 - power))
    alpha = jnp.clip(alpha, alpha_min, alpha_max)
    return jnp.where(jax.random.uniform(key_off, shape) < no_cfg_frac, 1.0, alpha)


def unconditional_weight(alpha, n_neg, n_unc):
    """Weight w of each of n_unc unconditional reals among the negatives, beside n_neg generated samples of weight 1 (3.5). Shape of alpha."""
    return (alpha - 1.0) * (n_neg - 1) / n_unc
