"""The method against its oracles.

Recorded outputs of the authors' release, a naive version with loops, and the properties that the
paper proves.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.fields import kernel_field
from drifting.guidance import sample_alpha, unconditional_weight
from drifting.loss import drift_loss
from drifting.memory import Recalled

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "drift_loss.npz")
TAUS = (0.02, 0.05, 0.2)


def check_golden(case):
    """The loss, its gradient and its scalars are those of the authors' release."""
    gold = {k.split("/")[1]: GOLDEN[k] for k in GOLDEN if k.startswith(case + "/")}

    def total(gen):
        loss, info = drift_loss(
            gen, gold["pos"], gold["neg"], weight_neg=gold["weight_neg"], temperatures=TAUS
        )
        return loss.sum(), (loss, info)

    (_, (loss, info)), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(gold["gen"])
    found = {"loss": loss, "grad_gen": grad, "scale": info["scale"]} | {
        f"drift_sq_norm_{t}": info[f"drift_sq_norm_{t}"] for t in TAUS
    }
    for name, value in found.items():
        assert np.max(np.abs(value - gold[name])) <= 1e-4 * np.max(np.abs(gold[name])), name


@pytest.mark.parametrize(
    "case", ["plain", "uncond", "tiny_scale", "large_scale", "paper_shape", "collapsed"]
)
def test_golden_loss_and_gradient(case):
    check_golden(case)


def naive_field(x, pos, neg, weight_pos, weight_neg, tau, self_neg):
    """Alg. 2 with loops, in float64."""
    y, w = np.concatenate([neg, pos]).astype(np.float64), np.concatenate([weight_neg, weight_pos])
    x = x.astype(np.float64)
    n, n_neg = len(x), len(neg)
    k = np.zeros((n, n_neg + len(pos)))
    for i in range(n):
        for j in range(len(y)):
            if not (j < self_neg and i == j):
                k[i, j] = np.exp(-max(np.linalg.norm(x[i] - y[j]), 1e-4) / tau)
    a = np.zeros_like(k)
    for i in range(n):
        for j in range(len(y)):
            row = sum(k[i, m] for m in range(len(y)) if w[m] > 0)
            column = sum(k[m, j] for m in range(n))
            over_y = k[i, j] / row if w[j] > 0 else 0.0
            a[i, j] = np.sqrt(max(over_y * k[i, j] / column, 1e-6)) * w[j]
    v, perplexity = np.zeros_like(x), []
    for i in range(n):
        a_neg, a_pos = a[i, :n_neg], a[i, n_neg:]
        perplexity.append(np.exp(-sum(s * np.log(s) for s in a_pos / a_pos.sum() if s > 0)))
        for j in range(len(pos)):
            v[i] += a_pos[j] * a_neg.sum() * y[n_neg + j]
        for j in range(n_neg):
            v[i] -= a_neg[j] * a_pos.sum() * y[j]
    return v, np.array(perplexity)


@pytest.mark.parametrize("tau", [0.3, 2.0])
@pytest.mark.parametrize("self_neg", [0, 6])
def test_field_agrees_with_loops(tau, self_neg):
    rng = np.random.default_rng(0)
    x, pos, unc = rng.normal(size=(6, 5)), rng.normal(size=(7, 5)) + 0.5, rng.normal(size=(3, 5))
    neg = np.concatenate([x, unc]) if self_neg else unc
    weight_pos, weight_neg = (
        np.array([1, 1, 0, 1, 2, 1, 1.0]),
        np.r_[np.ones(self_neg), 0.5, 0, 1.5],
    )
    v, perplexity = jax.jit(kernel_field, static_argnums=6)(
        *map(jnp.float32, (x, pos, neg, weight_pos, weight_neg, tau)), self_neg
    )
    expected, expected_perplexity = naive_field(x, pos, neg, weight_pos, weight_neg, tau, self_neg)
    np.testing.assert_allclose(v, expected, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_allclose(perplexity, expected_perplexity, rtol=1e-5)


def test_absent_positives_do_not_change_the_loss():
    """Padding a class with samples of weight 0 is what `n_pos = all` does for classes of
    different sizes.
    """
    rng = np.random.default_rng(1)
    gen, pos = (
        rng.normal(size=(2, 6, 5)).astype(np.float32),
        rng.normal(size=(2, 7, 5)).astype(np.float32),
    )
    of = jax.jit(lambda pos, weight: drift_loss(gen, pos, weight_pos=weight, temperatures=TAUS))
    loss, info = of(pos, np.ones((2, 7)))
    padded = np.concatenate([pos, np.full((2, 3, 5), 0.3, np.float32)], 1)
    weight = np.concatenate([np.ones((2, 7)), np.zeros((2, 3))], 1)
    loss2, info2 = of(padded, weight)
    np.testing.assert_allclose(loss2, loss, rtol=1e-4)
    for k in info:
        np.testing.assert_allclose(info2[k], info[k], rtol=1e-4)


@pytest.mark.parametrize(
    "field, recalled, words",
    [
        ("frechet", {}, "frechet has to be told mean_gen, mean_real, transport: give recalled"),
        ("frechet", {"mean_gen": 0, "mean_real": 0}, "has to be told transport: give recalled"),
        ("learned", {}, "learned has to be told params: give recalled"),
    ],
)
def test_a_field_without_its_memory_says_what_it_lacks(field, recalled, words):
    x, y = jax.random.normal(jax.random.key(0), (2, 1, 8, 3))
    with pytest.raises(ValueError, match=words) as error:
        drift_loss(x, y, field=field, recalled=Recalled(each=recalled))
    assert "\n" not in str(error.value)


def test_a_field_with_what_it_is_told():
    """It is traced alone, to the end; mmd needs no landmarks."""
    x = jnp.zeros((1, 8, 3))
    mean, same = jnp.zeros((1, 3)), jnp.eye(3)[None]
    recalled = Recalled(each={"mean_gen": mean, "mean_real": mean, "transport": same})
    for field, told in (("frechet", recalled), ("mmd", Recalled())):

        def loss(x, field=field, told=told):
            return drift_loss(x, x, field=field, recalled=told)[0]

        assert jax.eval_shape(loss, x).shape == (1,)


def test_collapsed_samples_get_one_drift():
    """Collapse is an equilibrium of the training.

    Identical samples receive the same gradient, and nothing separates them again.
    """
    gen = jnp.broadcast_to(jnp.array([0.3, -1.2, 0.7, 2.0]), (1, 6, 4))
    pos = jax.random.normal(jax.random.key(0), (1, 9, 4))
    grad = jax.jit(jax.grad(lambda g: drift_loss(g, pos, temperatures=TAUS)[0].sum()))(gen)[0]
    assert jnp.abs(grad - grad[0]).max() <= 1e-6 * jnp.abs(grad).max() and jnp.abs(grad).max() > 0


def test_gradient_stops_at_the_reals():
    rng = np.random.default_rng(1)
    gen, pos, neg = (jnp.float32(rng.normal(size=(2, k, 5))) for k in (6, 7, 3))
    grads = jax.jit(
        jax.grad(lambda p, n: drift_loss(gen, p, n, temperatures=TAUS)[0].sum(), argnums=(0, 1))
    )(pos, neg)
    assert all((g == 0).all() for g in grads)


def test_alpha_has_its_density():
    """Quantiles of p(alpha) ~ alpha^-k on [1, 4], and the share of 1."""
    for power in (0.0, 1.0, 3.0, 5.0):
        a = np.asarray(sample_alpha(jax.random.key(0), (200_000,), 1.0, 4.0, power, 0.0))
        grid = np.linspace(1, 4, 100_001)
        cdf = np.cumsum(grid**-power)
        for q in (0.1, 0.5, 0.9):
            assert abs(np.quantile(a, q) - grid[np.searchsorted(cdf / cdf[-1], q)]) < 0.02
        assert a.min() >= 1 and a.max() <= 4
    steep = np.asarray(sample_alpha(jax.random.key(0), (9_999,), 4.0, 8.0, 70.0, 0.0))
    assert abs(np.median(steep) - 4 * 2 ** (1 / 69)) < 0.01
    half = np.asarray(sample_alpha(jax.random.key(0), (100_000,), 1.5, 4.0, 3.0, 0.5))
    assert abs((half == 1).mean() - 0.5) < 0.01
    assert (np.asarray(sample_alpha(jax.random.key(0), (9,), 1.0, 1.0, 3.0, 0.0)) == 1).all()
    assert unconditional_weight(jnp.float32(3.0), 33, 16) == 4.0
