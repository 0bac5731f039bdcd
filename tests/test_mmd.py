"""The mmd field: minus the gradient of the discrepancy itself, and 0 where both sides agree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.fields import FIELDS
from drifting.loss import drift_loss

KERNELS = ("laplace", "gaussian", "energy")
TAU, UNIT = 0.6, 2.3
# The squared length l^2 of each kernel, in which V is measured.
SQUARED_LENGTH = {"laplace": (TAU * UNIT) ** 2, "gaussian": TAU * UNIT**2, "energy": UNIT**2}


def kernel_matrix(x, y, kernel):
    """k of every pair, in float64."""
    r = np.linalg.norm(x[:, None] - y, axis=-1)
    length = np.sqrt(SQUARED_LENGTH[kernel])
    if kernel == "gaussian":
        return np.exp(-(r**2) / 2 / length**2)
    return np.exp(-r / length) if kernel == "laplace" else -r / length


def squared_mmd(x, pos, kernel):
    """The discrepancy without its term of the data alone; pairs of one sample are left out."""
    n = len(x)
    within = kernel_matrix(x, x, kernel)
    return (within.sum() - within.trace()) / (n * (n - 1)) - 2 * kernel_matrix(
        x, pos, kernel
    ).mean()


def mmd_field(kernel, x, pos, neg, self_neg, tau=TAU):
    """V with all weights 1."""
    one = (jnp.ones(len(pos)), jnp.ones(len(neg)))
    return FIELDS["mmd"](x, pos, neg, *one, tau, self_neg, UNIT, kernel=kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_it_is_minus_the_gradient_of_the_discrepancy(kernel):
    """-(N / 2) l^2 dMMD^2 / dx by central differences in float64."""
    rng = np.random.default_rng(0)
    x, pos = rng.normal(size=(7, 4)), rng.normal(size=(9, 4)) + 0.5
    gradient, step = np.zeros_like(x), 1e-5
    for place in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[place] = step
        ahead, behind = (squared_mmd(x + sign * moved, pos, kernel) for sign in (1, -1))
        gradient[place] = (ahead - behind) / (2 * step)
    expected = -len(x) / 2 * SQUARED_LENGTH[kernel] * gradient
    v, _ = mmd_field(kernel, *map(jnp.float32, (x, pos, x)), len(x))
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(v, expected, atol=3e-6 * np.abs(expected).max() + 1e-7)


@pytest.mark.parametrize("kernel", KERNELS)
def test_it_vanishes_in_expectation(kernel):
    """Samples that repel each other, and reals of the same distribution.

    The mean of V_i over draws of all the others is 0 within four standard errors, at a fixed x_i
    away from the middle; with a shift by a fifth of a standard deviation it is not.
    """
    draws, n, d = 8000, 6, 3
    others, pos = jax.random.normal(jax.random.key(1), (2, draws, n, d))
    fixed = jnp.broadcast_to(jnp.array([1.0, -0.5, 0.3]), (draws, 1, d))
    x = jnp.concatenate([fixed, others[:, 1:]], 1)
    of_draw = functools.partial(mmd_field, kernel, self_neg=n)
    fields = jax.jit(jax.vmap(lambda x, pos: of_draw(x, pos, x)[0][0]))
    v, shifted = (np.asarray(fields(x, pos + shift), np.float64) for shift in (0, 0.2))
    standard_error = v.std(0) / np.sqrt(draws)
    assert np.abs(v.mean(0) / standard_error).max() < 4
    assert np.abs(shifted.mean(0) / standard_error).max() > 8


@pytest.mark.parametrize("kernel", KERNELS)
def test_collapsed_samples_are_not_pulled_apart(kernel):
    """All at one place, far from the origin: one displacement for all of them, to rounding."""
    rng = np.random.default_rng(1)
    x = jnp.tile(jnp.float32(rng.normal(size=(1, 16)) + 20), (8, 1))
    pos = jnp.float32(rng.normal(size=(12, 16)) + 20)
    v, _ = mmd_field(kernel, x, pos, x, 8)
    size = float(jnp.abs(v).max())
    assert size > 1e-3
    np.testing.assert_allclose(v, jnp.broadcast_to(v[:1], v.shape), atol=1e-3 * size)


def test_forces_that_underflow_are_finite():
    """At a width far below every distance V is 0, and the perplexity is still a number."""
    rng = np.random.default_rng(2)
    x, pos = (jnp.float32(rng.normal(size=(6, 8))) for _ in range(2))
    v, perplexity = mmd_field("laplace", x, pos, x, 6, tau=1e-3)
    assert jnp.isfinite(v).all() and (perplexity >= 1 - 1e-5).all()


def test_a_loss_goes_down_the_discrepancy():
    """Plain gradient descent on the drifting loss, over a sum of widths, in both kernels."""
    rng = np.random.default_rng(3)
    pos = jnp.float32(rng.normal(size=(1, 64, 2)))
    for kernel in ("laplace", "gaussian"):
        field = functools.partial(FIELDS["mmd"], kernel=kernel)

        def total(gen, field=field):
            return drift_loss(gen, pos, temperatures=(0.3, 1.0), field=field)[0].sum()

        gradient = jax.jit(jax.grad(total))
        gen = jnp.float32(rng.normal(size=(1, 32, 2)) * 0.3 + 3)
        before = squared_mmd(np.float64(gen[0]), np.float64(pos[0]), kernel)
        for _ in range(100):
            gen = gen - 2.0 * gradient(gen)
        after = squared_mmd(np.float64(gen[0]), np.float64(pos[0]), kernel)
        exact = squared_mmd(np.float64(pos[0]), np.float64(pos[0]), kernel)
        assert abs(after - exact) < 0.1 * (before - exact)
