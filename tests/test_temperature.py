"""Learned temperatures: the number of neighbours, and the step that holds it, in loops of NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sets import CONFIG

from drifting.layout import ONE_DEVICE
from drifting.memory import Seen
from drifting.problems import pack
from drifting.step import feature_loss
from drifting.temperature import LEAST, MOST, RATE, START, Temperatures, next_log_temperature

# T, D. The first set by name has the larger width.
SIZES = {"a": (1, 5), "m": (2, 2), "z": (1, 2)}
TARGET = 2.5


def drawn(seed, samples):
    """Feature sets [C N, T, D] of unlike scales."""
    rng = np.random.default_rng(seed)
    n = CONFIG.n_c * samples
    return {
        name: jnp.asarray((i + 1) * rng.normal(size=(n, *size)), jnp.float32)
        for i, (name, size) in enumerate(SIZES.items())
    }


def naive_neighbours(gen, real, weight_pos, tau, kernel):
    """The mean number of neighbours of one set, in float64; without unconditional reals."""
    gen, real = np.float64(gen), np.float64(real)
    n, p, found = CONFIG.n_neg, CONFIG.n_pos, []
    total = weight = 0.0
    for c in range(CONFIG.n_c):
        for t in range(gen.shape[1]):
            x, y = gen[c * n : (c + 1) * n, t], real[c * p : (c + 1) * p, t]
            for z, weights in ((x, np.ones(n)), (y, weight_pos[c])):
                distances = np.linalg.norm(x[:, None] - z, axis=-1)
                total, weight = total + (distances * weights).sum(), weight + n * weights.sum()
    unit = total / weight
    for c in range(CONFIG.n_c):
        for t in range(gen.shape[1]):
            for x in gen[c * n : (c + 1) * n, t]:
                u = np.linalg.norm(x - real[c * p : (c + 1) * p, t], axis=-1) / unit
                if kernel == "gaussian":
                    u = u**2 / 2
                share = weight_pos[c] * np.exp(-u / tau)
                share = share[share > 0] / share.sum()
                found.append(np.exp(-(share * np.log(share)).sum()))
    return np.mean(found)


@pytest.mark.parametrize("kernel, name", [("laplace", "kernel"), ("gaussian", "sinkhorn")])
def test_a_step_of_each_set(kernel, name):
    """The new temperatures are those of the loops, and V is that of the same number given.

    They are so too where the locations take turns, as in a step in parts of its rows.
    """
    memory = Temperatures(TARGET, kernel)
    options = {"n_unc": 0, "field": name, "field_options": {"kernel": kernel}}
    options["set_weight"] = {"a": 1.0, "m": 0.0, "z": 0.0}.get
    config = dataclasses.replace(CONFIG, memory=memory, temperatures=(START,), **options)
    gen, real = drawn(0, config.n_neg), drawn(1, config.n_pos)
    weight_pos = np.ones((2, config.n_pos), np.float32)
    weight_pos[1, -1] = 0
    taus = {"a": 0.3, "m": 0.1, "z": 1.0}
    state = memory.init(jax.random.key(0), gen, 2)
    np.testing.assert_allclose(jax.tree.leaves(state), np.log(START), rtol=1e-6)
    state = {d: {name: jnp.log(taus[name]) for name in state[d]} for d in state}

    @jax.jit
    def step(state, gen, weight_pos):
        weights = weight_pos, jnp.zeros((2, 0))
        seen = Seen(jnp.arange(2), gen, real, weight_pos, config.temperatures, ONE_DEVICE)
        observed, recalled = memory.look(state, jax.random.key(0), seen)
        loss, sets = feature_loss(gen, pack(real), *weights, config, recalled=recalled)
        given = dataclasses.replace(config, temperatures=(taus["a"],), memory=CONFIG.memory)
        fixed, _ = feature_loss(gen, pack(real), *weights, given)
        in_parts = dataclasses.replace(config, row_parts=2)
        in_turn = feature_loss(gen, pack(real), *weights, in_parts, recalled=recalled)
        return (loss, sets), fixed, memory.update(state, observed, sets), in_turn

    (loss, sets), fixed, (after, metrics), in_turn = step(state, gen, weight_pos)
    np.testing.assert_allclose(loss, fixed, rtol=1e-6)
    np.testing.assert_allclose(in_turn[0], loss, rtol=1e-5)
    for ours, theirs in zip(in_turn[1], sets, strict=True):
        np.testing.assert_allclose(ours.perplexity, theirs.perplexity, rtol=1e-5)
    for d, names in state.items():
        for name in names:
            spread = naive_neighbours(gen[name], real[name], weight_pos, taus[name], kernel)
            expected = np.log(taus[name]) - RATE * (np.log(spread) - np.log(TARGET))
            np.testing.assert_allclose(after[d][name], expected, rtol=1e-5, err_msg=name)
            np.testing.assert_allclose(metrics[f"temperature/{name}"], taus[name], rtol=1e-6)


def test_it_settles_at_the_target_or_at_its_bounds():
    rng = np.random.default_rng(0)
    distances = np.linalg.norm(rng.normal(size=(8, 1, 3)) - rng.normal(size=(64, 3)), axis=-1)
    distances /= distances.mean()
    distances[:, 1] = distances[:, 0] = distances.min(1) / 2  # no sample has fewer than two

    def spread(theta):
        share = jax.nn.softmax(-distances / jnp.exp(theta), axis=1)
        return jnp.mean(jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share), 1)))

    @jax.jit
    def settle(target):
        def step(_, theta):
            return next_log_temperature(theta, spread(theta), target)

        theta = jax.lax.fori_loop(0, 600, step, jnp.log(START))
        return jnp.exp(theta), spread(theta)

    for target in (4.0, 20.0):
        np.testing.assert_allclose(settle(target)[1], target, rtol=1e-3)
    np.testing.assert_allclose([settle(1.5)[0], settle(64.0)[0]], [LEAST, MOST], rtol=1e-5)
