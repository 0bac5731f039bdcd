"""The plane: distributions, measures against closed forms."""

import jax
import numpy as np
import pytest

from data import toy2d as toys
from metrics.sliced_wasserstein import sliced_wasserstein


@pytest.mark.parametrize("toy", toys.TOYS)
def test_modes_have_equal_mass_and_hold_their_samples(toy):
    x = np.asarray(toys.draw(toy, jax.random.key(0), 8000))
    mode, n = toys.mode_of(toy, x), toys.TOYS[toy]
    assert np.abs(x).max() < 3.5 and (mode >= 0).mean() > 0.998
    assert np.abs(np.bincount(mode[mode >= 0], minlength=n) * n / 8000 - 1).max() < 0.12
    assert [int(toys.mode_of(toy, toys.centre(toy, k)[None])[0]) for k in range(n)] == list(range(n))
    assert toys.mode_of(toy, np.array([[9.0, 9.0]])).tolist() == [-1]


def test_sliced_wasserstein_has_its_closed_forms():
    """A shift by d costs the mean of |d cos|, 2 |d| / pi in the plane; in one dimension it is the distance of the sorted samples; a set costs nothing against itself."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2))
    assert abs(sliced_wasserstein(x, x + [3.0, 4.0], directions=4096) / (5 * 2 / np.pi) - 1) < 0.03
    assert sliced_wasserstein(x, x[::-1]) == 0
    a, b = rng.normal(size=(300, 1)), 2 * rng.normal(size=(300, 1))
    assert abs(sliced_wasserstein(a, b) - np.abs(np.sort(a, 0) - np.sort(b, 0)).mean()) < 1e-12
    with pytest.raises(ValueError, match="one shape"):
        sliced_wasserstein(x, x[:9])
