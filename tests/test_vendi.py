"""The Vendi score: recorded figures, closed forms, its error against a loop and against truth."""

import math

import numpy as np
import pytest
from test_errors import covered, evidence
from test_metrics import normal

from evaluation.against import verdict
from evaluation.fid_csv import scores
from metrics.compare import compare
from metrics.errors import deal
from metrics.evidence import Comparison
from metrics.vendi import GROUPS, vendi, vendi_estimate, vendi_estimates, vendi_scores
from utils.errors import UserError


@pytest.mark.parametrize(
    "shape, recorded",
    [((12, 30), 9.522324591024654), ((40, 6), 5.757651292848184)],
    ids=["of pairs of samples", "of pairs of features"],
)
def test_recorded_figures(shape, recorded):
    """Those of `vendi_score.vendi.score_X` of vendi-score 0.0.3 from PyPI."""
    assert vendi(normal(*shape)) == pytest.approx(recorded, rel=1e-12)


def test_closed_forms():
    """Alike in direction: 1. K groups at right angles, of shares p: exp of the entropy of p."""
    assert vendi(np.outer([1, 2, 5], normal(7))) == pytest.approx(1)
    assert vendi(np.repeat(np.eye(20), 3, 0)[:, :9][:27]) == pytest.approx(9)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert vendi(np.eye(2)[[0, 1, 1, 1]]) == pytest.approx(math.exp(entropy))


@pytest.mark.parametrize("shape", [(25, 60), (25, 6)])
def test_groups_are_left_out(shape):
    x = normal(*shape)
    estimate = vendi_estimate(x)
    found = [vendi(np.delete(x, group, 0)) for group in deal(25, GROUPS)]
    (part,) = estimate.parts
    assert part / (1 - GROUPS) == pytest.approx(found, rel=1e-12)
    assert estimate.value == vendi(x)
    expected = math.sqrt((GROUPS - 1) / GROUPS * np.sum((found - np.mean(found)) ** 2))
    assert estimate.error == pytest.approx(expected)


@pytest.mark.parametrize("fakes, reals", [(40, 70), (70, 40)])
def test_the_ratio_is_of_as_many(fakes, reals):
    """Twice as many samples of one distribution are no more diverse, with or without errors."""
    x = normal(110, 200)
    comparison = Comparison(evidence(x[:fakes]), evidence(x[fakes:]))
    score, ratio = vendi_scores(comparison)
    assert score == vendi(x[:fakes]) and 0.95 < ratio < 1.05
    found = vendi_estimates(comparison)
    assert (found["vendi"].value, found["vendi_ratio"].value) == (score, ratio)
    assert found["vendi_ratio"].error > 0


def test_more_is_not_better():
    """Noise has a ratio above 1, which is in the table and called neither better nor worse."""
    images = np.abs(normal(60, 4, 4, 1)).clip(0, 1)
    found = compare(normal(60, 4, 4, 1, seed=1).clip(-1, 1), images, metrics=["vendi"])
    assert list(scores(found)) == ["vendi", "vendi_ratio"] and found["vendi_ratio"] > 1.5
    comparison = Comparison(evidence(normal(30, 4)), evidence(normal(30, 4, seed=1)))
    estimate = vendi_estimates(comparison)["vendi"]
    assert verdict("vendi_5k", estimate, estimate._replace(value=99.0)).better is None


def test_what_has_no_direction_is_refused():
    x = normal(10, 4)
    with pytest.raises(UserError, match="not finite"):
        vendi(x * np.inf)
    with pytest.raises(UserError, match="3 of 10 images have features that are all 0"):
        vendi(x * (np.arange(10) > 2)[:, None])
    with pytest.raises(UserError, match="expected"):
        vendi(x[0])


@pytest.mark.slow
@pytest.mark.parametrize("count, dim, scale", [(400, 32, 1.0), (100, 200, 1.0), (400, 200, 0.05)])
def test_intervals_cover_the_truth(count, dim, scale):
    """The table of docs/benchmarks.md: of many samples, of fewer than features, and of clusters."""
    random = np.random.default_rng(0)
    mixing = np.eye(dim) + 0.2 * random.standard_normal((dim, dim)) * math.sqrt(32 / dim)
    centres = random.standard_normal((10, dim))
    estimates = []
    for _ in range(200):
        chosen = centres[random.integers(10, size=count)]
        x = (0.7 * chosen + scale * random.standard_normal((count, dim))) @ mixing
        estimates.append(vendi_estimate(x))
    deviation = np.std([estimate.value for estimate in estimates], ddof=1)
    error = np.mean([estimate.error for estimate in estimates])
    print(f"{count} x {dim}: {deviation:.4f} {error:.4f} {covered(estimates):.3f}")
    assert 0.88 <= covered(estimates) <= 0.985
