"""The mmd field: minus the gradient of the discrepancy itself, and 0 where both sides agree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import as_at, everything_saved, parts_of, same_bits, train

from drifting.fields import FIELDS
from drifting.fields.mmd import RIDGE, Embedding
from drifting.layout import ONE_DEVICE
from drifting.loss import drift_loss
from drifting.memory import Seen
from utils.errors import UserError

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


@functools.partial(jax.jit, static_argnames=("kernel", "self_neg", "tau"))
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


# ---------------------------------------------------------------- the frozen mean embedding

LANDMARKS = {
    "model.name": "mlp",
    "drift.field": "mmd",
    "drift.landmarks": 16,
    "drift.temperatures": (0.3, 1.0),
}


def reals_of(rng, n=50):
    """Features of two sets of one width, and labels of two classes, in batches."""
    features = {
        "a": np.float32(rng.normal(size=(n, 1, 3)) + 20),
        "b": np.float32(rng.normal(size=(n, 2, 3)) * 5),
    }
    labels = np.arange(n) % 3 % 2  # two thirds of class 0

    def batches():
        for some in (slice(0, 9), slice(9, n)):
            yield {name: sets[some] for name, sets in features.items()}, labels[some]

    return features, labels, batches


def embed(kernel, landmarks, features, batches):
    memory = Embedding(landmarks=landmarks, kernel=kernel, temperatures=(TAU, 1.0))
    state = memory.init(jax.random.key(0), jax.eval_shape(lambda: features), 2)
    return memory, memory.fill(jax.device_get(state), batches)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_weights_are_the_nearest_of_their_sum(kernel):
    """Half the squared distance to the mean embedding has one slope along all weights.

    It is that of a minimum under sum w = 1: K w + ridge w - mean k(z, y), by loops in float64.
    The units are those of the landmarks, which are different reals of the class.
    """
    features, labels, batches = reals_of(np.random.default_rng(4))
    _, state = embed(kernel, 12, features, batches)
    locations = np.concatenate([features["a"], features["b"]], 1)
    z, weight, unit = (state[name]["3"] for name in ("z", "weight", "unit"))
    for c in range(2):
        own = np.float64(locations[labels == c])
        pairs = np.abs(z[c][:, None] - own).max((2, 3)) == 0
        assert (pairs.sum(1) == 1).all() and (pairs.sum(0) <= 1).all()
        for t, j in enumerate((0, 1, 1)):
            for k, tau in enumerate((TAU, 1.0)):
                of_unit = [np.float64(y) / unit[j] * UNIT for y in (z[c][:, t], own[:, t])]
                scale = np.sqrt(TAU / tau) if kernel == "gaussian" else TAU / tau
                scale = 1.0 if kernel == "energy" else scale
                landmarks, of_class = (y * scale for y in of_unit)
                inner = kernel_matrix(landmarks, landmarks, kernel)
                w = np.float64(weight[c, t, k])
                slope = inner @ w + RIDGE * w
                slope -= kernel_matrix(landmarks, of_class, kernel).mean(1)
                np.testing.assert_allclose(w.sum(), 1, atol=1e-5)
                assert np.ptp(slope) < 1e-5
    r = [np.linalg.norm(z[c][:, None] - z[c], axis=-1).sum((0, 1)) for c in range(2)]
    a, b, b2 = np.sum(r, 0) / (2 * 12 * 11)
    np.testing.assert_allclose(unit, [a, (b + b2) / 2], rtol=1e-5)


@pytest.mark.parametrize("landmarks", [15, 64])
def test_the_attraction_is_that_of_all_reals(landmarks):
    """Exactly where all are landmarks; in one class of 33 by 15, to a few percent."""
    rng = np.random.default_rng(5)
    features, labels, batches = reals_of(rng)
    memory, state = embed("gaussian", landmarks, features, batches)
    order = np.array([1, 0])
    gen = {name: jnp.float32(rng.normal(size=(8, *f.shape[1:]))) for name, f in features.items()}
    gen["a"] = gen["a"] + 20
    seen = Seen(jnp.asarray(order), gen, gen, jnp.ones((2, 4)), (TAU, 1.0), ONE_DEVICE)
    _, recalled = memory.look(state, jax.random.key(0), seen)
    told = recalled["3"]

    # The six problems: a class of a step, and one of three locations.
    problems = [(c, name, t) for c in (0, 1) for name, t in (("a", 0), ("b", 0), ("b", 1))]
    x = jnp.stack([gen[name][4 * c : 4 * c + 4, t] for c, name, t in problems])
    pos = jnp.stack([jnp.asarray(features[name][:, t]) for _, name, t in problems])
    of_class = jnp.stack([jnp.float32(labels == order[c]) for c, _, _ in problems])
    one = jnp.ones(4)

    def by_reals(x, pos, weight, unit):
        return FIELDS["mmd"](x, pos, x, weight, one, 1.0, 4, unit, kernel="gaussian")

    def by_landmarks(x, each, weight_z):
        more = each | {"weight_z": weight_z[1], "kernel": "gaussian"}
        return FIELDS["mmd"](x, x, x, one, one, 1.0, 4, 123.0, **more)

    expected, spread = jax.jit(jax.vmap(by_reals))(x, pos, of_class, told.each["unit_z"])
    v, over = jax.jit(jax.vmap(by_landmarks))(x, told.each, told.each_tau["weight_z"])
    size = jnp.linalg.norm(expected, axis=(1, 2))
    error = jnp.linalg.norm(v - expected, axis=(1, 2)) / size
    is_exact = of_class.sum(1) <= landmarks
    assert (error[is_exact] < 1e-5).all()
    assert (error[~is_exact] < 0.1).all() and (error[~is_exact] > 1e-4).all()
    np.testing.assert_allclose(over[is_exact], spread[is_exact], rtol=1e-4)


@pytest.mark.parametrize("devices", [2, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("shared_steps")
def test_the_embedding_resumes_in_the_same_bits(tmp_path, devices):
    """On another number of devices too; and its kernel stays that of the run."""
    settings = LANDMARKS | {"max_steps": 8}
    straight = train(tmp_path / "straight", settings)
    tree, _, _ = everything_saved(tmp_path / "straight", LANDMARKS)
    folder = as_at(4, tmp_path / "straight", tmp_path / "resumed")
    resumed = train(folder, settings, devices=devices)
    again, _, _ = everything_saved(tmp_path / "resumed", LANDMARKS)
    same_bits(tree["field"], again["field"])
    if devices == 1:
        assert straight == resumed
        same_bits(tree, again)
    of_both = [[record["loss"] for record in records] for records in (straight, resumed)]
    np.testing.assert_allclose(*of_both, rtol=1e-3)

    for changes, words in (
        ({"drift.field": "kernel", "drift.landmarks": 0}, "drift.field = mmd"),
        ({"drift.landmarks": 0}, "drift.landmarks = 16, but drift.landmarks = 0"),
        ({"drift.kernel": "gaussian"}, "drift.kernel = laplace"),
    ):
        with pytest.raises(UserError, match=words):
            train(tmp_path / "resumed", LANDMARKS | {"max_steps": 12} | changes)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"drift.field": "kernel"}, "drift.landmarks 16: the kernel field has no use for it"),
        ({"drift.landmarks": 1}, "one has none; give 2 or more, or 0"),
        ({"model.class_dropout_prob": 0.1}, "none of the null class; give --drift.landmarks 0"),
    ],
)
def test_what_landmarks_have_no_use_for_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        parts_of(LANDMARKS | changes)
