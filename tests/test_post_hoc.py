"""Averages of a width that is chosen after the training, against averages that were tracked."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import STREAM, TINY, everything_saved, same_bits, train

from drifting.averages import TRACKED_WIDTHS, combine, gamma_of_width, inner_products, power_name
from drifting.state import update_ema
from models.runs import load_run
from training.loop import is_snapshot
from utils.errors import UserError


def profile(tau, t, gamma):
    return np.where(tau <= t, (gamma + 1) * tau**gamma / t ** (gamma + 1), 0.0)


def integral(values, tau):
    return np.trapezoid(values, tau)


def test_products_and_widths_are_the_integrals():
    tau = np.linspace(0, 10, 200_001)
    profiles = [(10.0, 6.9), (4.0, 17.0), (10.0, 0.3), (2.5, 3.0)]
    found = inner_products(profiles, profiles)
    for i, first in enumerate(profiles):
        for j, second in enumerate(profiles):
            expected = integral(profile(tau, *first) * profile(tau, *second), tau)
            assert found[i, j] == pytest.approx(expected, rel=1e-3)
    for width in (0.02, 0.05, 0.1, 0.2, 0.28):
        weight = profile(tau, 10.0, gamma_of_width(width))
        mean = integral(weight * tau, tau)
        deviation = np.sqrt(integral(weight * (tau - mean) ** 2, tau))
        assert deviation / 10 == pytest.approx(width, rel=1e-3)


def weights_of_steps(t, width):
    """Returns the weights of steps 1 to t in an average, as the recursion unfolds."""
    beta = (1 - 1 / np.arange(1, t + 1)) ** (gamma_of_width(width) + 1)
    later = np.append(np.cumprod(beta[:0:-1])[::-1], 1.0)  # the product of the betas after a step
    return (1 - beta) * later


def test_another_width_from_snapshots_is_the_tracked_one():
    """A trajectory with drift and noise: three widths from eight snapshots, within 2%."""
    steps, widths = 400, (0.07, 0.12, 0.15)
    draw = np.random.default_rng(0)
    approach = np.outer(1 - np.exp(-np.arange(1, steps + 1) / 60), draw.standard_normal(50))
    noise = np.cumsum(draw.standard_normal((steps, 50)), 0) / np.sqrt(steps)
    path = np.float32(approach + noise)  # [steps, 50]

    @jax.jit
    def track(params):
        def move(ema, numbered):
            step, value = numbered
            ema = update_ema(ema, value, step)
            return ema, ema

        first = {power_name(w): jnp.full(50, jnp.nan) for w in (*TRACKED_WIDTHS, *widths)}
        first = update_ema({name: jnp.zeros(50) for name in first}, params[0], 1)
        rest = (jnp.arange(2, steps + 1), params[1:])
        return jax.lax.scan(move, first, rest)[1]

    tracked = jax.device_get(track(path))  # [steps - 1, 50] each, after steps 2 to the last
    for width in TRACKED_WIDTHS:
        expected = weights_of_steps(steps, width) @ path
        np.testing.assert_allclose(tracked[power_name(width)][-1], expected, rtol=1e-4, atol=1e-5)

    times = [step for step in range(1, steps) if is_snapshot(step, 8, steps)] + [steps]
    assert times == list(range(50, 401, 50))
    kept = [(t, width) for t in times for width in TRACKED_WIDTHS]
    profiles = [(t, gamma_of_width(width)) for t, width in kept]
    for width in widths:
        weights, error = combine(profiles, (steps, gamma_of_width(width)))
        assert weights.sum() == pytest.approx(1) and error < 0.05
        made = sum(
            w * tracked[power_name(kept_width)][t - 2]
            for w, (t, kept_width) in zip(weights, kept, strict=True)
        )
        direct = tracked[power_name(width)][-1]
        nearest = min(np.linalg.norm(tracked[power_name(w)][-1] - direct) for w in TRACKED_WIDTHS)
        distance = np.linalg.norm(made - direct)
        assert distance < 0.02 * np.linalg.norm(direct) and distance < nearest / 5


CHANGES = STREAM | {
    "model.name": "mlp",
    "model.depth": 1,
    "optim.learning_rate": 1e-2,
    "optim.ema_snapshots": 6,
    "max_steps": 6,
    "save_interval": 1,
    "keep_checkpoints": 6,
}


@pytest.mark.usefixtures("shared_steps")
def test_a_run_gives_averages_of_any_width(tmp_path):
    """They are near to those of its parameters after each step, which this run keeps as well."""
    train(tmp_path, CHANGES)
    path = [load_run(tmp_path, step, "raw")[1] for step in range(1, 7)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *path)

    def average(step, width):
        weights = np.append(weights_of_steps(step, width), np.zeros(6 - step))
        return jax.tree.map(lambda a: np.tensordot(weights, a, 1), stacked)

    def distance(a, b):
        squares = jax.tree.map(lambda x, y: np.sum((np.asarray(x) - y) ** 2), a, b)
        return np.sqrt(sum(jax.tree.leaves(squares)))

    assert distance(load_run(tmp_path, ema="0.05")[1], average(6, 0.05)) < 1e-4
    for step, width in ((6, 0.15), (5, 0.07)):
        _, made, metadata = load_run(tmp_path, step, str(width))
        assert metadata["ema"] == power_name(width)
        direct = average(step, width)
        nearest = min(distance(average(step, tracked), direct) for tracked in TRACKED_WIDTHS)
        assert distance(made, direct) < 0.2 * nearest

    with pytest.raises(UserError, match="power_0.1 and raw; choose one of them, or a width from"):
        load_run(tmp_path, ema="0.4")
    with pytest.raises(UserError, match="ema_snapshots = 6, but optim.ema_snapshots = 0"):
        train(tmp_path, CHANGES | {"optim.ema_snapshots": 0, "max_steps": 9})


@pytest.mark.slow
@pytest.mark.usefixtures("shared_steps")
def test_a_run_that_lost_its_end_makes_the_same_snapshots_again(tmp_path):
    train(tmp_path, CHANGES)
    everything = everything_saved(tmp_path, CHANGES)[0]
    made = load_run(tmp_path, ema="0.12")[1]
    for step in (4, 5, 6):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    train(tmp_path, CHANGES)
    same_bits(everything_saved(tmp_path, CHANGES)[0], everything)
    same_bits(load_run(tmp_path, ema="0.12")[1], made)


def test_without_the_flag_nothing_is_kept():
    assert not any(is_snapshot(step, 0, TINY["max_steps"]) for step in range(1, 21))
