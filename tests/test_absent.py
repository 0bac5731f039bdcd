"""Negatives of weight 0, masked or counted: the loss of method A.6 and Alg. 2 in float64 NumPy.

No recorded case has a weight of 0, so the oracle is the formula of the authors' release, written
down here once more without any of the project's functions.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.fields import kernel_field
from drifting.fields import kernel_tiled as tiled
from drifting.loss import drift_loss
from training.resolve_field import resolve_field
from utils import config as config_lib
from utils.errors import UserError

TAUS = (0.02, 0.05, 0.2)


def oracle(gen, pos, unc, weight_unc, counted):
    """Returns the loss [B], its gradient to gen, and lambda^2 of each temperature, in float64.

    counted: whether an unconditional sample of weight 0 keeps its share of the softmax over y.
    """
    gen, pos, unc = (array.astype(np.float64) for array in (gen, pos, unc))
    n, d = gen.shape[1:]
    y = np.concatenate([gen, unc, pos], 1)  # the release's order
    weight = np.concatenate([np.ones(gen.shape[:2]), weight_unc, np.ones(pos.shape[:2])], 1)
    difference = gen[:, :, None] - y[:, None]
    dist = np.sqrt(np.maximum((difference**2).sum(-1), 1e-8))
    scale = (dist * weight[:, None]).sum() / (weight.sum() * n)
    s = max(scale / np.sqrt(d), 1e-3)

    itself = np.eye(n, y.shape[1]) * 100
    is_negative = np.arange(y.shape[1]) < n + unc.shape[1]
    total, squares = 0, {}
    for tau in TAUS:
        k = np.exp(-(dist / s + itself) / (tau * np.sqrt(d)))
        in_softmax = np.ones_like(weight) if counted else (weight > 0).astype(float)
        over_y = k * in_softmax[:, None] / (k * in_softmax[:, None]).sum(2, keepdims=True)
        over_x = k / k.sum(1, keepdims=True)
        a = np.sqrt(np.maximum(over_y * over_x, 1e-6)) * weight[:, None]
        a_neg, a_pos = a * is_negative, a * ~is_negative
        c = a_pos * a_neg.sum(2, keepdims=True) - a_neg * a_pos.sum(2, keepdims=True)
        v = (c @ y - c.sum(2, keepdims=True) * gen) / s
        squares[tau] = (v**2).mean()
        total += v / np.sqrt(max(squares[tau], 1e-8))
    loss = (total**2).mean((1, 2))
    return loss, -2 * total / (n * d * s), squares


@pytest.mark.parametrize("tile", [2048, 5], ids=["plain", "tiled"])
@pytest.mark.parametrize("absent", ["masked", "counted"])
def test_loss_gradient_and_drift(absent, tile, monkeypatch):
    """Of three classes: one at alpha = 1, one guided, and one with some weights of 0."""
    monkeypatch.setattr(tiled, "TILE", tile)
    rng = np.random.default_rng(0)
    gen, pos, unc = (np.float32(rng.normal(size=(3, n, 4))) for n in (6, 12, 5))
    weight = np.float32([[0] * 5, [1.5] * 5, [0.5, 0, 2, 0, 1]])

    def total(gen):
        field = functools.partial(kernel_field, absent=absent)
        loss, info = drift_loss(gen, pos, unc, weight_neg=weight, temperatures=TAUS, field=field)
        return loss.sum(), (loss, info)

    (_, (loss, info)), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(gen)
    expected, expected_grad, squares = oracle(gen, pos, unc, weight, absent == "counted")
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(grad, expected_grad, atol=1e-4 * np.abs(expected_grad).max())
    for tau in TAUS:
        np.testing.assert_allclose(info[f"drift_sq_norm_{tau}"], squares[tau], rtol=1e-4)
    # The two differ by far more than the tolerance, or this test would see nothing.
    other, *_ = oracle(gen, pos, unc, weight, absent != "counted")
    assert np.abs(other / expected - 1).max() > 0.01


@pytest.mark.parametrize("tile", [2048, 5], ids=["plain", "tiled"])
def test_absent_positives_never_count(tile, monkeypatch):
    """They fill up a class that holds fewer reals than others, and stand for no image."""
    monkeypatch.setattr(tiled, "TILE", tile)
    rng = np.random.default_rng(1)
    x, pos, neg = (jnp.float32(rng.normal(size=(n, 4))) for n in (6, 12, 7))
    present = jnp.arange(12) < 7
    field = jax.jit(functools.partial(kernel_field, tau=0.5, self_neg=0, absent="counted"))
    v, _ = field(x, pos, neg, present * 1.0, jnp.ones(7))
    alone, _ = field(x, pos[:7], neg, jnp.ones(7), jnp.ones(7))
    np.testing.assert_allclose(v, alone, atol=1e-5 * float(jnp.abs(alone).max()))


def test_the_flag_is_of_the_kernel_field():
    def options(**flags):
        config = config_lib.resolve({f"drift.{name}": value for name, value in flags.items()})
        return resolve_field(config.drift)["field_options"]

    assert options()["absent"] == "masked"
    assert options(absent="counted")["absent"] == "counted"
    with pytest.raises(UserError, match="--drift.absent counted: the sinkhorn field has no use"):
        options(absent="counted", field="sinkhorn")
    with pytest.raises(UserError, match="drift.absent"):
        options(absent="kept")
