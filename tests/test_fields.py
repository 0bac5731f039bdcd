"""Every field against a naive version with loops, and the properties that it must have."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.distances import log_kernel, log_weight
from drifting.fields import FIELDS, make_field
from drifting.fields.learned import (
    denoising_loss,
    field_loss,
    init_field,
    init_field_state,
    update_field,
)
from drifting.fields.sinkhorn import log_plan
from drifting.loss import drift_loss

TAUS = (0.02, 0.05, 0.2)


def field(name, **options):
    """Jitted once per options: the tests call it on few shapes."""
    return jax.jit(functools.partial(FIELDS[name], **options), static_argnames="self_neg")


VARIANTS = {
    "kernel": {},
    "kernel, gaussian": {"kernel": "gaussian"},
    "kernel, over y": {"normalize": "y"},
    "kernel, unnormalised": {"normalize": "none"},
    "kernel, corrected": {"bias_correction": True},
    "uncoupled, corrected": {"bias_correction": True},
    "uncoupled": {},
    "uncoupled, gaussian, over y": {"kernel": "gaussian", "normalize": "y"},
    "sinkhorn": {},
    "sinkhorn, gaussian": {"kernel": "gaussian"},
    "sinkhorn, 0": {"iterations": 0.0},
    "sinkhorn, half": {"iterations": 0.5},
    "sinkhorn, 3 and a half": {"iterations": 3.5},
    "mmd": {},
    "mmd, gaussian": {"kernel": "gaussian"},
    "mmd, energy": {"kernel": "energy"},
    "learned": {"params": init_field(jax.random.key(1), [5], 16, True)},
    "learned, without projection": {"params": init_field(jax.random.key(2), [5], 16, False)},
}
V_OF = {name: field(name.split(",")[0], **options) for name, options in VARIANTS.items()}


# ---------------------------------------------------------------- loops


def kernel_value(x, y, kernel, tau, unit):
    d = np.linalg.norm(x - y)
    return (
        np.exp(-d / (tau * unit)) if kernel == "laplace" else np.exp(-(d**2) / 2 / (tau * unit**2))
    )


def naive_kernel_matrix(x, y, kernel, tau, unit, self_neg):
    return np.array(
        [
            [
                0.0 if i == j < self_neg else kernel_value(x[i], y[j], kernel, tau, unit)
                for j in range(len(y))
            ]
            for i in range(len(x))
        ]
    )


def naive_pull(weights, x, y):
    """sum_y w (y - x) for every x, with rows w as they are."""
    return np.array(
        [sum(weights[i, j] * (y[j] - x[i]) for j in range(len(y))) for i in range(len(x))]
    )


def naive_centroid(a, x, y, correct):
    """c - x of every x, with c = sum w y of the rows w = a / sum(a); or c + sum w^2 (y - c)."""
    w = a / a.sum(1, keepdims=True)
    moves = naive_pull(w, x, y)
    if correct:
        moves += naive_pull(w**2, x + moves, y)
    return moves


def naive_kernel(
    x,
    pos,
    neg,
    weight_pos,
    weight_neg,
    tau,
    self_neg,
    unit,
    kernel="laplace",
    normalize="both",
    bias_correction=False,
):
    y, w = np.concatenate([neg, pos]), np.r_[weight_neg, weight_pos]
    k = naive_kernel_matrix(x, y, kernel, tau, unit, self_neg)
    row, column = k[:, w > 0].sum(1, keepdims=True), k.sum(0)
    present = (w > 0).astype(float)
    a = {"both": np.sqrt(k * present / row * k / column), "y": k * present / row, "none": k}[
        normalize
    ]
    a = np.maximum(a, 1e-3) * w
    a_neg, a_pos = a[:, : len(neg)], a[:, len(neg) :]
    both = a_neg.sum(1, keepdims=True) * a_pos.sum(1, keepdims=True)
    to_pos, to_neg = (
        naive_centroid(a_pos, x, pos, bias_correction),
        naive_centroid(a_neg, x, neg, bias_correction),
    )
    return both * (to_pos - to_neg)


def naive_uncoupled(
    x,
    pos,
    neg,
    weight_pos,
    weight_neg,
    tau,
    self_neg,
    unit,
    kernel="laplace",
    normalize="both",
    bias_correction=False,
):
    def pull(y, w, self_neg):
        k = naive_kernel_matrix(x, y, kernel, tau, unit, self_neg)
        a = np.sqrt(k / k.sum(1, keepdims=True) * k / k.sum(0)) if normalize == "both" else k
        return naive_centroid(a * w, x, y, bias_correction)

    return pull(pos, weight_pos, 0) - pull(neg, weight_neg, self_neg)


def naive_plan(k, a, b, iterations):
    u, v = a.copy(), b.copy()
    for half in range(int(2 * iterations)):
        if half % 2 == 0:
            u = np.array([a[i] / sum(k[i, j] * v[j] for j in range(len(b))) for i in range(len(a))])
        else:
            v = np.array([b[j] / sum(k[i, j] * u[i] for i in range(len(a))) for j in range(len(b))])
    return u[:, None] * k * v


def naive_sinkhorn(
    x, pos, neg, weight_pos, weight_neg, tau, self_neg, unit, kernel="laplace", iterations=20.0
):
    def pull(y, w, self_neg):
        pi = naive_plan(
            naive_kernel_matrix(x, y, kernel, tau, unit, self_neg),
            np.full(len(x), 1 / len(x)),
            w / w.sum(),
            iterations,
        )
        return naive_pull(pi / (pi.sum(1, keepdims=True) if iterations else 1 / len(x)), x, y)

    return pull(pos, weight_pos, 0) - pull(neg, weight_neg, self_neg)


def naive_learned(x, pos, neg, weight_pos, weight_neg, tau, self_neg, unit, params):
    """The MLP on the whole concatenation [g(x), g(y), g(y) - g(x), r, log tau], its weights for
    g(y) - g(x) being 0: what they would add lies in those of g(x) and g(y).
    """
    p, d = jax.tree.map(np.float64, params["5"]), x.shape[1]
    first = np.concatenate(
        [
            p["pair"]["x"]["w"],
            p["pair"]["y"]["w"],
            np.zeros_like(p["pair"]["x"]["w"]),
            p["pair"]["r"][None],
            p["pair"]["tau"][None],
        ]
    )
    bias, slope = (
        p["pair"]["x"]["b"] + p["pair"]["y"]["b"],
        np.exp(p["slope"][0] + p["slope"][1] * np.log(tau)),
    )

    def g(a):
        if not p["g"]:
            return a
        hidden = np.maximum(a @ p["g"]["in"]["w"] + p["g"]["in"]["b"], 0)
        return a + hidden @ p["g"]["out"]["w"] + p["g"]["out"]["b"]

    scale = unit / np.sqrt(d)

    def pull(y, w, self_neg):
        s = np.zeros_like(x)
        for i, g_x in enumerate(map(g, x / scale)):
            a, moves = np.zeros(len(y)), []
            for j, g_y in enumerate(map(g, y / scale)):
                r = np.linalg.norm(g_y - g_x) / np.sqrt(d)
                hidden = np.maximum(
                    np.concatenate([g_x, g_y, g_y - g_x, [r, np.log(tau)]]) @ first + bias, 0
                )
                a[j] = 0 if i == j < self_neg else w[j] * np.exp(hidden @ p["out"] - slope * r)
                moves.append(g_y - g_x)
            s[i] = a / a.sum() @ np.array(moves)
        return s

    return scale * (pull(pos, weight_pos, 0) - pull(neg, weight_neg, self_neg))


def naive_mmd(x, pos, neg, weight_pos, weight_neg, tau, self_neg, unit, kernel="laplace"):
    def pull(y, w, self_neg):
        v = np.zeros_like(x)
        for i in range(len(x)):
            others = [j for j in range(len(y)) if not i == j < self_neg]
            for j in others:
                r = np.linalg.norm(y[j] - x[i])
                length = {"laplace": tau * unit, "gaussian": r, "energy": unit}[kernel]
                k = 1 if kernel == "energy" else kernel_value(x[i], y[j], kernel, tau, unit)
                v[i] += w[j] / sum(w[others]) * k * length * (y[j] - x[i]) / r
        return v

    return pull(pos, weight_pos, 0) - pull(neg, weight_neg, self_neg)


NAIVE = {
    "kernel": naive_kernel,
    "uncoupled": naive_uncoupled,
    "sinkhorn": naive_sinkhorn,
    "mmd": naive_mmd,
    "learned": naive_learned,
}


@pytest.mark.parametrize("self_neg", [0, 6])
@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_loops(variant, self_neg):
    """With weights, absent samples, a unit of length other than 1, and the samples among their
    own negatives or not.
    """
    rng = np.random.default_rng(0)
    x, pos, unc = (
        rng.normal(size=(6, 5)),
        rng.normal(size=(7, 5)) + 0.5,
        rng.normal(size=(9 - self_neg, 5)),
    )
    neg = np.concatenate([x, unc]) if self_neg else unc
    weight_pos, weight_neg = np.array([1, 1, 0, 1, 2, 1, 1.0]), np.r_[np.ones(6), 0.5, 0, 1.5]
    for tau in (0.1, 0.7):
        args = (x, pos, neg, weight_pos, weight_neg, tau, self_neg, 3.0)
        v, perplexity = V_OF[variant](*map(jnp.float32, args[:6]), self_neg=self_neg, unit=3.0)
        expected = NAIVE[variant.split(",")[0]](*args, **VARIANTS[variant])
        np.testing.assert_allclose(v, expected, atol=3e-5 * np.abs(expected).max())
        assert (perplexity >= 1 - 1e-5).all() and (
            perplexity <= 6 + 1e-4
        ).all()  # six positives are there


# ---------------------------------------------------------------- properties


def sets(n=6, p=8, m=8, d=5, seed=0):
    rng = np.random.default_rng(seed)
    return (jnp.float32(rng.normal(size=s)) for s in ((n, d), (p, d), (m, d)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_antisymmetry(variant):
    """Swapping the sides changes the sign of V (eq. 3); the same set on both sides gives 0."""
    x, pos, neg = sets()
    one, v_of = jnp.ones(8), functools.partial(V_OF[variant], self_neg=0, unit=1.0)
    v, swapped, same = (
        v_of(x, a, b, one, one, 1.0)[0] for a, b in ((pos, neg), (neg, pos), (pos, pos))
    )
    size = float(jnp.abs(v).max())
    assert size > 0.01
    np.testing.assert_allclose(swapped, -v, atol=1e-5 * size)
    assert jnp.abs(same).max() <= 1e-6 * size


@pytest.mark.parametrize("variant", VARIANTS)
def test_order_and_absent_samples_do_not_matter(variant):
    x, pos, neg = sets()
    one, v_of = jnp.ones(8), functools.partial(V_OF[variant], self_neg=0, unit=1.0)
    v, perplexity = v_of(x, pos, neg, one, one, 1.0)
    order, of_x = jnp.array([3, 1, 0, 2, 7, 6, 5, 4]), jnp.array([5, 0, 4, 2, 1, 3])
    np.testing.assert_allclose(
        v_of(x, pos[order], neg[order[::-1]], one, one, 1.0)[0], v, atol=1e-5
    )
    np.testing.assert_allclose(v_of(x[of_x], pos, neg, one, one, 1.0)[0], v[of_x], atol=1e-5)
    near = jnp.full((3, 5), 0.1)  # among the others: they would pull hard if they were there
    padded = v_of(
        x,
        jnp.r_[pos, near],
        jnp.r_[near, neg],
        jnp.r_[one, jnp.zeros(3)],
        jnp.r_[jnp.zeros(3), one],
        1.0,
    )
    np.testing.assert_allclose(padded[0], v, atol=1e-5)
    np.testing.assert_allclose(padded[1], perplexity, rtol=1e-4)


@pytest.mark.parametrize(
    "variant", [v for v in VARIANTS if not v.startswith("kernel") and "corrected" not in v]
)
def test_a_doubled_weight_is_a_sample_given_twice(variant):
    """Not so in the kernel field, whose softmax over y counts samples and not weights (A.6).

    Nor with the correction of the bias, to which two equal samples are two draws.
    """
    x, pos, neg = sets()
    one, v_of = jnp.ones(8), functools.partial(V_OF[variant], self_neg=0, unit=1.0)
    v, _ = v_of(
        x,
        jnp.r_[pos, pos[2:5]],
        neg,
        jnp.r_[jnp.array([1, 1, 2, 1, 1, 1, 1, 1.0]), jnp.zeros(3)],
        one,
        1.0,
    )
    twice, _ = v_of(x, jnp.r_[pos, pos[2:5]], neg, jnp.r_[one, 1, 0, 0], one, 1.0)
    np.testing.assert_allclose(twice, v, atol=1e-5)


@pytest.mark.parametrize("variant", ["kernel", "uncoupled", "sinkhorn", "mmd", "learned"])
def test_factors_scale_attraction_and_repulsion(variant):
    """Table 1: 1.5 V+ - V- is V with half of the attraction added, and V+ alone takes no notice
    of the negatives' places but for the kernel field's W.
    """
    x, pos, neg = sets()
    of = jax.jit(
        lambda a, r: FIELDS[variant](
            x,
            pos,
            neg,
            jnp.ones(8),
            jnp.ones(8),
            1.0,
            0,
            attraction=a,
            repulsion=r,
            **VARIANTS[variant],
        )[0]
    )
    v, plus, minus = of(1.0, 1.0), of(1.0, 0.0), of(0.0, 1.0)
    np.testing.assert_allclose(plus + minus, v, atol=1e-5)
    np.testing.assert_allclose(of(1.5, 1.0), v + 0.5 * plus, atol=1e-5)
    assert jnp.abs(plus).max() > 0.01 and jnp.abs(minus).max() > 0.01


def test_the_correction_lowers_the_order_of_the_bias():
    """For y ~ N(0, 1) and a Gaussian kernel of variance h the centroid of all of p is x / (1 + h).

    From 16 samples to 32 the mean error falls by 2 where it is O(1/n), and by 4 or more with the
    correction. At 64 the correction leaves less than a tenth of it.
    """
    draws, h, x = 100_000, 0.5, jnp.array([[-2.0]])
    far, options = jnp.full((1, 1), 30.0), {"kernel": "gaussian", "normalize": "y"}

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def bias(key, n, correct):
        def error(key):
            args = (x, jax.random.normal(key, (n, 1)), far, jnp.ones(n), jnp.ones(1), h, 0, 1.0)
            to_centroid, _ = FIELDS["uncoupled"](
                *args, **options, bias_correction=correct, repulsion=0.0
            )
            return (x + to_centroid - x / (1 + h))[0, 0]

        errors = jax.vmap(error)(jax.random.split(key, draws))
        return jnp.mean(errors), jnp.std(errors) / draws**0.5

    def of(n, correct):
        mean, standard_error = map(float, bias(jax.random.key(n), n, correct))
        assert standard_error < 1.1e-3
        print(f"n {n}, corrected {correct}: {mean:.5f} +- {standard_error:.5f}")  # for docs/fields
        return abs(mean)

    assert 1.9 < of(16, False) / of(32, False) < 2.8
    assert of(16, True) / of(32, True) > 4
    assert of(64, True) < 0.1 * of(64, False)


def test_gaussian_field_is_the_difference_of_smoothed_scores():
    """eps (grad log p_eps - grad log q_eps)(x), with p_eps, q_eps the sets smoothed by a normal
    of variance eps, by differentiation.
    """
    x, pos, neg = sets()
    tau, unit = 0.3, 2.0

    def log_smoothed(x, y):
        return jax.nn.logsumexp(-jnp.sum((x - y) ** 2, 1) / (2 * tau * unit**2))

    score = jax.jit(jax.vmap(jax.grad(log_smoothed), (0, None)))
    v, _ = V_OF["uncoupled, gaussian, over y"](
        x, pos, neg, jnp.ones(8), jnp.ones(8), tau, self_neg=0, unit=unit
    )
    np.testing.assert_allclose(v, tau * unit**2 * (score(x, pos) - score(x, neg)), atol=1e-5)


# ---------------------------------------------------------------- Sinkhorn


def marginals(kernel, tau, iterations, n=32, p=24, d=16, seed=0):
    """(Pi, a, b) of random sets of mean distance 1 and random weights."""
    rng = np.random.default_rng(seed)
    x, y = (
        jnp.float32(rng.normal(size=(n, d)) / np.sqrt(2 * d)),
        jnp.float32(rng.normal(size=(p, d)) / np.sqrt(2 * d)),
    )
    log_a, log_b = jnp.full(n, -jnp.log(n)), log_weight(jnp.float32(rng.uniform(0.5, 1.5, p)))
    plan = jax.jit(log_plan, static_argnums=3)(
        log_kernel(x, y, kernel, tau, 1.0, 0), log_a, log_b, iterations
    )
    return np.exp(np.float64(plan)), np.exp(np.float64(log_a)), np.exp(np.float64(log_b))


@pytest.mark.parametrize("kernel", ["laplace", "gaussian"])
@pytest.mark.parametrize("tau", TAUS)
def test_sinkhorn_marginals(kernel, tau):
    """The marginal that was scaled last is met to rounding; the other is approached."""
    errors = []
    for iterations in (1.0, 20.0, 0.5, 20.5):
        pi, a, b = marginals(kernel, tau, iterations)
        of_rows, of_columns = np.abs(pi.sum(1) - a).sum(), np.abs(pi.sum(0) - b).sum()
        last, other = (of_rows, of_columns) if iterations % 1 else (of_columns, of_rows)
        assert last < 2e-5, (iterations, last)
        errors.append(other)
    assert errors[1] < errors[0] and errors[3] < errors[2]
    assert tau < 0.2 or errors[1] < 1e-3


def test_no_iteration_and_half_of_one():
    """The plain kernel, an attraction of sum_y b_y k(x, y) (y - x); and a softmax over y."""
    x, pos, neg = sets()
    one = jnp.ones(8)
    k_pos, k_neg = (jnp.exp(log_kernel(x, y, "laplace", 0.5, 2.0, 0)) for y in (pos, neg))

    def plain(k, y):
        return (k @ y - k.sum(1, keepdims=True) * x) / 8

    v, _ = FIELDS["sinkhorn"](x, pos, neg, one, one, 0.5, 0, 2.0, iterations=0.0)
    np.testing.assert_allclose(v, plain(k_pos, pos) - plain(k_neg, neg), atol=1e-5)

    def softmax(k, y):
        return k @ y / k.sum(1, keepdims=True)

    v, _ = FIELDS["sinkhorn"](x, pos, neg, one, one, 0.5, 0, 2.0, iterations=0.5)
    np.testing.assert_allclose(v, softmax(k_pos, pos) - softmax(k_neg, neg), atol=1e-5)


@pytest.mark.parametrize("tau", [0.02, 0.2])
def test_sinkhorn_field_vanishes_in_expectation(tau):
    """p = q: the mean over many draws of p's and q's sets is 0 within four standard errors, at
    fixed x, and every single draw is not.
    """
    draws, n, p, d = 4000, 8, 12, 3
    x = jax.random.normal(jax.random.key(1), (n, d))
    pos, neg = jax.random.normal(jax.random.key(2), (2, draws, p, d))
    fields = jax.jit(
        jax.vmap(lambda a, b: FIELDS["sinkhorn"](x, a, b, jnp.ones(p), jnp.ones(p), tau, 0, 2.3)[0])
    )
    v, shifted = (
        np.asarray(fields(pos + shift, neg), np.float64).reshape(draws, -1) for shift in (0, 0.2)
    )
    standard_error = v.std(0) / np.sqrt(draws)
    assert np.abs(v.mean(0) / standard_error).max() < 4
    assert np.abs(shifted.mean(0) / standard_error).max() > 8, (
        "a shift by a fifth of a standard deviation is seen"
    )


@pytest.mark.parametrize("kernel", ["laplace", "gaussian"])
def test_sinkhorn_is_stable_at_low_temperature(kernel):
    """tau = 0.02 in float32, with sets that lie far apart, agrees with float64.

    The plan is finite where its entries underflow.
    """
    rng = np.random.default_rng(3)
    x, pos, neg = (
        rng.normal(size=(16, 8)),
        rng.normal(size=(20, 8)) + 3,
        rng.normal(size=(16, 8)) - 2,
    )
    args = (x, pos, neg, np.ones(20), np.ones(16), 0.02, 0, np.sqrt(8))

    def in_float64(y):
        d = np.sqrt(((x[:, None] - y) ** 2).sum(-1))
        log_k = -d / (0.02 * np.sqrt(8)) if kernel == "laplace" else -(d**2) / (2 * 0.02 * 8)

        def lse(a, axis):
            return np.log(np.exp(a - a.max(axis, keepdims=True)).sum(axis)) + a.max(axis)

        u, v = np.full(16, -np.log(16)), np.full(len(y), -np.log(len(y)))
        for _ in range(20):
            u = -np.log(16) - lse(log_k + v, 1)
            v = -np.log(len(y)) - lse(log_k + u[:, None], 0)
        w = log_k + v
        w = np.exp(w - w.max(1, keepdims=True))
        return w / w.sum(1, keepdims=True) @ y

    v, _ = V_OF["sinkhorn, gaussian" if kernel == "gaussian" else "sinkhorn"](
        *map(jnp.float32, args[:6]), self_neg=0, unit=np.float32(np.sqrt(8))
    )
    expected = in_float64(pos) - in_float64(neg)
    np.testing.assert_allclose(v, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("guidance, plans", [("negatives", 2), ("field", 3)])
def test_transport_to_the_data_is_computed_once(guidance, plans):
    """With guidance on the field T_{q->p} stands in V_{p,q} and in V_{p,unc}.

    The compiled program has one loop for it, and one for each of the others.
    """

    def loss(gen, pos, unc, second):
        options = {"field": "sinkhorn", "second": second, "guidance": guidance}
        losses, _ = drift_loss(gen, pos, unc, **options)
        return losses.sum()

    sets = [jnp.zeros((1, k, 3)) for k in (4, 5, 2, 6)]
    assert jax.jit(jax.grad(loss)).lower(*sets).compile().as_text().count(" while(") == plans


# ---------------------------------------------------------------- in the loss


@pytest.mark.parametrize(
    "variant, guidance",
    [
        ("kernel", "field"),
        ("uncoupled", "negatives"),
        ("sinkhorn", "field"),
        ("sinkhorn", "negatives"),
        ("learned", "negatives"),
    ],
)
def test_the_loss_with_a_second_batch(variant, guidance):
    """Its value is mean ||V~||^2, its gradient -2 V~ / (N D S).

    Through the generated samples, and nothing else.
    """
    rng = np.random.default_rng(1)
    gen, pos, neg, second = (jnp.float32(rng.normal(size=(2, k, 5))) for k in (6, 7, 3, 6))

    @jax.jit
    def both(gen, pos, neg, second, options):
        def total(gen, pos, neg, second, options):
            loss, info = drift_loss(
                gen,
                pos,
                neg,
                weight_neg=jnp.full((2, 3), 0.5),
                second=second,
                temperatures=TAUS,
                field=make_field(variant, options),
                guidance=guidance,
            )
            return loss.sum(), (loss, info)

        return jax.value_and_grad(total, argnums=(0, 1, 2, 3, 4), has_aux=True)(
            gen, pos, neg, second, options
        )

    options = VARIANTS[variant]  # the parameters of the learned field
    (_, (loss, info)), grads = both(gen, pos, neg, second, options)
    assert (loss > 0).all() and jnp.isfinite(grads[0]).all() and jnp.abs(grads[0]).max() > 0
    assert all((g == 0).all() for g in jax.tree.leaves(grads[1:]))
    scale = info["scale"] / jnp.sqrt(5)
    np.testing.assert_allclose(jnp.mean((grads[0] * 30 * scale / 2) ** 2, (1, 2)), loss, rtol=1e-4)
    moved = both(gen, pos, neg, second + 1, options)[0][1][0]
    assert not np.allclose(moved, loss, rtol=1e-3), "the second batch repels"


def test_guidance_on_the_field():
    """V_{p,q'} + w V_{p,unc}.

    For one temperature the direction of the gradient is that sum; alpha = 1 takes the
    unconditional reals out.
    """
    rng = np.random.default_rng(1)
    gen, pos, neg, second = (jnp.float32(rng.normal(size=(1, k, 5))) for k in (6, 7, 3, 6))
    guided = jax.jit(
        jax.grad(
            lambda g, weight: drift_loss(
                g,
                pos,
                neg,
                weight_neg=jnp.full((1, 3), weight),
                second=second,
                temperatures=(0.2,),
                field="sinkhorn",
                guidance="field",
            )[0].sum()
        )
    )
    gradient = guided(gen, 1.0)[0]  # w = 3 / 6
    y = np.concatenate([second, neg, pos], 1)[0]
    unit = np.linalg.norm(np.asarray(gen)[0, :, None] - y, axis=-1).mean()

    def v_of(q):
        return naive_sinkhorn(
            *map(np.float64, (gen[0], pos[0], q, np.ones(7), np.ones(len(q)), 0.2)), 0, unit
        )

    v = v_of(second[0]) + 0.5 * v_of(neg[0])
    np.testing.assert_allclose(
        -gradient / jnp.linalg.norm(gradient), v / np.linalg.norm(v), atol=1e-4
    )
    unguided = jax.jit(
        jax.grad(
            lambda g: drift_loss(
                g,
                pos,
                neg,
                weight_neg=jnp.zeros((1, 3)),
                second=second,
                temperatures=(0.2,),
                field="sinkhorn",
            )[0].sum()
        )
    )(gen)
    np.testing.assert_allclose(guided(gen, 0.0), unguided, atol=1e-4 * jnp.abs(unguided).max())


# ---------------------------------------------------------------- the learned field


def test_the_learned_field_receives_gradients():
    """Every parameter array, from the denoising loss.

    In the form known publicly they were given to the drifting loss, which does not reach them.
    """
    # Two classes of six positives and two unconditional samples.
    real = {"a": jax.random.normal(jax.random.key(1), (2 * 8, 4, 3))}
    weight = jnp.ones((2, 6))

    def loss(params):
        return field_loss(params, jax.random.key(2), real, weight, (0.1, 0.5))

    for projection in (True, False):
        state = init_field_state(jax.random.key(0), [3], 8, projection, 0.9)
        grads = jax.jit(jax.grad(loss))(state["params"])
        for path, gradient in jax.tree.leaves_with_path(grads):
            assert jnp.abs(gradient).max() > 0, path
        new = jax.jit(update_field)(state, grads, 1e-2)
        changes = jax.tree.map(
            lambda a, b: float(jnp.abs(a - b).max()), new["params"], state["params"]
        )
        assert min(jax.tree.leaves(changes)) > 1e-3
        expected = jax.tree.map(lambda p, q: 0.9 * p + 0.1 * q, state["params"], new["params"])
        jax.tree.map(
            lambda e, a: np.testing.assert_allclose(a, e, atol=1e-6), expected, new["ema"]["0.9"]
        )


def test_denoising_leaves_the_sample_out():
    """The gradient with respect to y_i's own place in the set is that of the target alone, and
    a sample of weight 0 changes nothing.
    """
    params = init_field(jax.random.key(0), [3], 8, True)["3"]
    y, noise, weight = (
        jax.random.normal(jax.random.key(1), (1, 6, 3)),
        jax.random.normal(jax.random.key(2), (1, 6, 3)),
        jnp.ones((1, 6)),
    )
    loss = jax.jit(denoising_loss)
    full = loss(params, noise, y, weight, 0.3)
    by_hand = []
    for i in range(6):
        x, rest = np.asarray(y[0, i] + 0.3 * noise[0, i])[None], np.delete(np.asarray(y[0]), i, 0)
        s = naive_learned(
            np.float64(x),
            np.float64(rest),
            np.float64(x),
            np.ones(5),
            np.ones(1),
            0.3,
            0,
            np.sqrt(3),
            {"5": params},
        )  # S(x, {x}) = 0
        by_hand.append(np.mean((s[0] - (np.asarray(y[0, i]) - x[0])) ** 2))
    np.testing.assert_allclose(full, np.mean(by_hand), rtol=1e-4)
    np.testing.assert_allclose(
        loss(params, noise[:, :2], y, weight, 0.3), np.mean(by_hand[:2]), rtol=1e-4
    )
    absent = weight.at[0, 5].set(0)
    np.testing.assert_allclose(
        loss(params, noise, y.at[0, 5].add(3), absent, 0.3),
        loss(params, noise, y, absent, 0.3),
        rtol=1e-5,
    )
    alone = jnp.eye(1, 6)  # nothing is left to denoise it with
    assert loss(params, noise, y, alone, 0.3) == 0
    np.testing.assert_allclose(
        loss(
            params,
            *(jnp.concatenate([a, a + 1]) for a in (noise, y)),
            jnp.concatenate([weight, alone]),
            0.3,
        ),
        full,
        rtol=1e-5,
    )


def test_only_present_positives_are_denoised():
    """Of sets larger than what a step denoises, from wherever it begins.

    Neither absent positives nor unconditional samples matter, a present one does.
    """
    params, present = (
        init_field(jax.random.key(0), [3], 8, True),
        jnp.ones((2, 40)).at[:, 30:].set(0),
    )
    real = jax.random.normal(
        jax.random.key(1), (2, 43, 1, 3)
    )  # of each class 3 unconditional ones first
    loss = jax.jit(
        lambda key, real: field_loss(params, key, {"a": real.reshape(-1, 1, 3)}, present, (0.3,))
    )
    for seed in range(4):
        value = loss(jax.random.key(seed), real)
        np.testing.assert_allclose(
            loss(jax.random.key(seed), real.at[:, 33:].add(9).at[:, :3].add(9)), value, rtol=1e-4
        )
        assert value > 0 and not np.isclose(
            loss(jax.random.key(seed), real.at[:, 20].add(9)), value, rtol=1e-2
        )
