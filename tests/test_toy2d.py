"""The plane: distributions, measures against closed forms."""

import jax
import numpy as np
import pytest
from conftest import OF_MANY_STEPS

from data import toy2d as toys
from metrics.sliced_wasserstein import sliced_wasserstein
from scripts import toy2d_lab
from utils.errors import UserError


@pytest.mark.parametrize("toy", toys.TOYS)
def test_modes_have_equal_mass_and_hold_their_samples(toy):
    x = np.asarray(toys.draw(toy, jax.random.key(0), 8000))
    mode, n = toys.mode_of(toy, x), toys.TOYS[toy]
    assert np.abs(x).max() < 3.5 and (mode >= 0).mean() > 0.998
    assert np.abs(np.bincount(mode[mode >= 0], minlength=n) * n / 8000 - 1).max() < 0.12
    assert [int(toys.mode_of(toy, toys.centre(toy, k)[None])[0]) for k in range(n)] == list(
        range(n)
    )
    assert toys.mode_of(toy, np.array([[9.0, 9.0]])).tolist() == [-1]


def test_sliced_wasserstein_has_its_closed_forms():
    """A shift by d costs the mean of |d cos|, which is 2 |d| / pi in the plane.

    In one dimension the distance is that of the sorted samples. A set costs nothing against itself.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2))
    assert abs(sliced_wasserstein(x, x + [3.0, 4.0], directions=4096) / (5 * 2 / np.pi) - 1) < 0.03
    assert sliced_wasserstein(x, x[::-1]) == 0
    a, b = rng.normal(size=(300, 1)), 2 * rng.normal(size=(300, 1))
    assert abs(sliced_wasserstein(a, b) - np.abs(np.sort(a, 0) - np.sort(b, 0)).mean()) < 1e-12
    assert 0 < sliced_wasserstein(a, a[1:]) < 0.02  # sets of any sizes
    with pytest.raises(ValueError, match="one dimension"):
        sliced_wasserstein(x, a)


SCHEDULED = {"drift.temperature_schedule": "4:1"}
LEARNED = {"drift.temperatures": "learned", "drift.neighbours": 8}


def lab(given):
    settings = toy2d_lab.resolve({"max_steps": 200, "drift.n_neg": 128} | given)
    laboratory = toy2d_lab.Lab("bimodal", settings)
    laboratory.step = jax.jit(laboratory._step, donate_argnums=0, compiler_options=OF_MANY_STEPS)
    return laboratory


def shares(laboratory, init):
    """Share of the generated samples on each mode after training."""
    run = toy2d_lab.train(laboratory, init, seed=0)
    return toy2d_lab.measure("bimodal", laboratory.samples(run["state"].params, 10), 0)["shares"]


def test_from_one_mode_to_both():
    """From samples collapsed on one mode, both hold half of the samples within five points."""
    assert np.abs(np.array(shares(lab({"drift.n_neg": 64}), "collapsed")) - 0.5).max() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [{}, {"drift.field": "sinkhorn", "drift.temperatures": (0.2,)}, SCHEDULED],
    ids=["kernel", "sinkhorn", "schedule"],
)
def test_both_modes_from_every_start(given):
    laboratory = lab(given)
    for init in toy2d_lab.INITS:
        assert np.abs(np.array(shares(laboratory, init)) - 0.5).max() < 0.05, init


@pytest.mark.slow
def test_learned_temperatures_hold_both_modes():
    """With half of the positives as neighbours, from all starts but the far one."""
    laboratory = lab(LEARNED | {"drift.neighbours": 64})
    for init in ("between", "collapsed"):
        assert np.abs(np.array(shares(laboratory, init)) - 0.5).max() < 0.05, init


@pytest.mark.slow
def test_attraction_alone_collapses():
    """V+ without V- (Table 1): the samples contract to a point, or to one in each mode.

    Real samples are 0.2 wide across a mode. Samples that start far away end between the modes.
    """
    laboratory, ends = lab({"drift.repulsion": 0.0}), {}
    for init in toy2d_lab.INITS:
        ends[init] = np.asarray(
            laboratory.samples(toy2d_lab.train(laboratory, init, seed=0)["state"].params, 10)
        )
        assert ends[init][:, 1].std() < 0.02, init
    assert (toys.mode_of("bimodal", ends["far"]) == -1).all()


@pytest.mark.parametrize("given", [{}, SCHEDULED, LEARNED], ids=["", "schedule", "learned"])
def test_the_field_that_is_shown(given):
    """What the arrows show, read off the gradient, points to the data from far away."""
    laboratory = lab({"drift.n_neg": 16} | given)
    x, v = map(np.asarray, laboratory.field(laboratory.start("far", 0)))
    assert x.shape == v.shape == (16, 2)
    towards = -x / np.linalg.norm(x, axis=1, keepdims=True)
    assert ((v * towards).sum(1) > 0).all()


def test_flags_without_effect_are_refused():
    with pytest.raises(UserError, match="--drift.n_unc, --drift.guidance"):
        toy2d_lab.resolve({"drift.n_unc": 8, "drift.field": "sinkhorn", "drift.guidance": "field"})
