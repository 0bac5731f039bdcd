"""The kernel field over tiles of positives: the same as all at once, in bounded memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_drift import GOLDEN, TAUS, check_golden

from drifting.fields import kernel_field
from drifting.fields import kernel_tiled as tiled
from drifting.loss import drift_loss


@pytest.mark.parametrize("case", ["uncond", "collapsed"])
def test_golden_loss_and_gradient(case, monkeypatch):
    monkeypatch.setattr(tiled, "TILE", 5)
    assert GOLDEN[f"{case}/pos"].shape[1] % 5 and GOLDEN[f"{case}/pos"].shape[1] > 5
    check_golden(case)


@pytest.mark.parametrize("tau", [0.3, 2.0])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel": "gaussian", "normalize": "y", "attraction": 1.5},
        {"bias_correction": True},
    ],
    ids=["paper", "options", "correction"],
)
def test_tiles_change_nothing_but_rounding(tau, options, monkeypatch):
    rng = np.random.default_rng(0)
    x, pos, unc = (
        jnp.float32(rng.normal(size=(n, 5)) + 20) for n in (12, 100, 4)
    )  # far from the origin
    weight_pos, weight_neg = (
        jnp.float32(rng.integers(0, 3, 100)),
        jnp.r_[jnp.ones(12), 0.5, 0, 1.5, 2],
    )
    args = (x, pos, jnp.concatenate([x, unc]), weight_pos, weight_neg, tau)
    v, perplexity = jax.jit(lambda *a: kernel_field(*a, 12, **options))(*args)
    monkeypatch.setattr(tiled, "TILE", 16)
    v_tiled, perplexity_tiled = jax.jit(lambda *a: kernel_field(*a, 12, **options))(*args)
    np.testing.assert_allclose(v_tiled, v, atol=2e-5 * float(jnp.abs(v).max()))
    np.testing.assert_allclose(perplexity_tiled, perplexity, rtol=1e-5)


def test_a_correction_of_samples_that_are_all_absent_is_nothing():
    zero, zeros = jnp.zeros(2), jnp.zeros((2, 3))
    np.testing.assert_array_equal(jax.jit(tiled.corrected_pull)(zero, zeros, zero, zeros), 0)


def test_memory_does_not_grow_with_the_positives():
    """Beyond the positives themselves, their copy and their weights, a loss over 40 tiles takes
    what one over 4 does.
    """

    def temporaries(tiles_of_positives):
        def shape(n):
            return jax.ShapeDtypeStruct((1, n, 4), jnp.float32)

        step = jax.jit(
            jax.value_and_grad(lambda gen, pos: drift_loss(gen, pos, temperatures=TAUS)[0].sum())
        )
        return (
            step.lower(shape(64), shape(tiles_of_positives * tiled.TILE))
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    few, many = temporaries(4), temporaries(40)
    copies = 36 * tiled.TILE * 4 * 4 * 6
    assert many - few < copies, (few, many)
