"""Standard errors of scores: contributions against finite differences, errors against truth."""

import itertools
import math

import numpy as np
import pytest
from test_metrics import naive_density_coverage, naive_precision_recall, normal

from evaluation.against import TIE, describe, judge, verdict
from evaluation.fid_csv import describe_parameters, describe_scores
from evaluation.scoring import Scored
from metrics import kid, precision_recall, precision_recall_error, sliced_wasserstein
from metrics.compare import as_columns
from metrics.errors import Estimate, difference, share, without_second_order
from metrics.evidence import Comparison, Evidence
from metrics.fid import frechet_distance, moments
from metrics.frechet_error import Target, _contributions, _fit, factor, fit_line
from metrics.inception_score import inception_score
from metrics.ratios import mean_estimate
from metrics.sliced_error import variance_left
from metrics.table import METRICS
from utils.errors import UserError
from utils.logging import without_warnings


def evidence(features, logits=None):
    return Evidence(len(features), *moments(features), features, logits)


# ---------------------------------------------------------------- contributions


@pytest.mark.parametrize("count, dim", [(40, 6), (12, 20)], ids=["full rank", "few samples"])
def test_frechet_contributions_are_derivatives(count, dim):
    """By the weight of each sample, against a difference of distances with other weights."""
    real, fake = normal(80, dim), 1.3 * normal(count, dim, seed=1) + 0.2
    mu2, sigma2 = moments(real)
    target = Target(mu2, float(np.trace(sigma2)), factor("second", sigma2))
    rows = np.arange(count)
    fit = _fit(fake, rows, target)
    assert fit.distance == pytest.approx(frechet_distance(*moments(fake), mu2, sigma2), rel=1e-9)

    def distance(weights):
        weights = weights / weights.sum()
        mu = weights @ fake
        scatter = (fake - mu).T @ (weights[:, None] * (fake - mu))
        return frechet_distance(mu, scatter * count / (count - 1), mu2, sigma2)

    step = 1e-4
    found = _contributions(fit, fake, rows, target)
    for sample in (0, 5, count - 1):
        change = step * (rows == sample)
        slope = (distance(1 / count + change) - distance(1 / count - change)) / (2 * step)
        # Of sigma divided by N - 1 instead of N.
        assert found[sample] * count / (count - 1) == pytest.approx(slope, rel=0.05, abs=0.02)


def test_kernel_contributions_are_the_naive_ones():
    x, y = normal(30, 5), 1.2 * normal(30, 5, seed=1)
    of_x, of_y = (x @ x.T / 5 + 1) ** 3, (x @ y.T / 5 + 1) ** 3
    expected = 2 * ((of_x.sum(1) - np.diag(of_x)) / 29 - of_y.mean(1))
    found = kid.kernel_contributions(x, y, 30)
    assert np.corrcoef(found, expected)[0, 1] > 1 - 1e-9
    assert 0.7 < np.std(found) / np.std(expected) <= 1


@pytest.mark.parametrize("entries", [200, 2**26])
def test_reals_that_the_same_samples_cover(entries, monkeypatch):
    """The variance of recall and coverage against loops over pairs, whatever the tiles."""
    monkeypatch.setattr(precision_recall, "TILE_ENTRIES", entries)
    real, fake = normal(37, 6) + 100, 1.2 * normal(43, 6, seed=1) + 100.3
    comparison = Comparison(evidence(fake), evidence(real))
    found = precision_recall_error.precision_recall_estimates(comparison)["recall"]
    found_coverage = precision_recall_error.density_coverage_estimates(comparison)["coverage"]
    assert found.value == pytest.approx(naive_precision_recall(real, fake, 3)[1], rel=1e-12)
    assert found_coverage.value == naive_density_coverage(real, fake, 5)[1]

    def distances(x, y):
        return np.linalg.norm(x[:, None] - y[None], axis=-1)

    in_fake = distances(real, fake) <= np.sort(distances(fake, fake), 1)[:, 3]
    in_real = distances(real, fake) < np.sort(distances(real, real), 1)[:, 5, None]
    for estimate, covers in ((found, in_fake), (found_coverage, in_real)):
        variance = 0.0
        for i, j in itertools.product(covers, covers):
            if (i == j).all() and 1 <= i.sum() <= 4:
                heads = sum(math.comb(4, n) for n in range(i.sum(), 5)) / 2**4
                variance += heads * (-1) ** (i.sum() + 1) / 37**2
        share = estimate.value
        least = (37 * share + 2) * (37 * (1 - share) + 2) / 41**3
        assert estimate.error == pytest.approx(math.sqrt(max(variance, least)), rel=1e-9)


@pytest.mark.parametrize("truth", [0.5, 0.9, 0.99, 0.995, 0.999, 1.0])
def test_shares_near_one_have_an_error(truth):
    """Of all outcomes of 400 samples at least 90% have an interval that holds the truth."""
    covered = 0.0
    for count in range(401):
        estimate = share(np.arange(400) < count)
        assert estimate.value == count / 400
        if abs(estimate.value - truth) <= 1.96 * estimate.error:
            covered += math.comb(400, count) * truth**count * (1 - truth) ** (400 - count)
    assert 0.9 <= covered <= 1 + 1e-9
    assert share(np.arange(400) < 380).error == pytest.approx(math.sqrt(0.05 * 0.95 / 400), rel=0.1)


def test_estimates_are_the_scores(monkeypatch):
    monkeypatch.setattr(kid, "SUBSETS", 3)
    fake, real = np.abs(normal(60, 8)), np.abs(normal(50, 8, seed=1))
    held_out = evidence(np.abs(normal(40, 8, seed=2)))
    comparison = Comparison(evidence(fake, fake), evidence(real), held_out=held_out)
    for name, metric in METRICS.items():
        if name == "class_agreement":
            continue
        found = metric.estimate(comparison)
        expected = dict(zip(metric.scores, metric.compute(comparison), strict=True))
        assert {score: found[score].value for score in expected} == expected
        errors = {score for score in found if found[score].error}
        assert errors >= set(expected) - {"kd_std", "memorised", "memorised_error", "nearer_error"}
    found = as_columns(METRICS["memorisation"].estimate(comparison))
    assert found["nearer_error"] > 0 and found["memorised_error"] > 0


def test_slices_near_the_floor_vary_less_than_their_contributions():
    """Against draws: there the sign of F - G is noise. Far from it nothing is left out."""
    random = np.random.default_rng(4)
    y = random.normal(size=(600, 3))
    found, contributed, expected = [], [], []
    for _ in range(50):
        x = random.normal(size=(200, 3))
        slices = sliced_wasserstein.slices(x, y, 8, 0)
        direction = sliced_wasserstein._directions(3, 8, 0)
        found.append(slices.distances.mean())
        contributed.append(np.var(slices.contributions) / len(x))
        expected.append(contributed[-1] * variance_left(x @ direction, y @ direction))
    assert 0.75 < np.mean(expected) / np.var(found, ddof=1) < 1.5
    assert np.mean(contributed) / np.var(found, ddof=1) > 1.75
    assert 0.97 < variance_left(x + 3, y) <= 1
    assert variance_left(x[:3], y) == variance_left(np.zeros((9, 2)), np.zeros((5, 2))) == 1


def test_the_line():
    line = fit_line({1: 2.0 + 7 / 80, 2: 2.0 + 14 / 80, 4: 2.0 + 28 / 80}, 80)
    assert line == pytest.approx((2.0, 7.0, 0.0), abs=1e-9)
    assert fit_line({1: 1.0, 2: 1.5}, 10).residual is None
    assert fit_line({1: 1.0, 2: 1.5, 4: 2.0}, 10).residual > 0.05


def test_noise_of_others_is_not_counted_twice():
    x = normal(4000)
    assert np.var(without_second_order(x, x)) == pytest.approx(np.var(x))
    assert np.var(without_second_order(x, 2 * x)) == pytest.approx(np.var(x) / 2)
    assert np.array_equal(without_second_order(np.zeros(5), np.zeros(5)), np.zeros(5))


# ---------------------------------------------------------------- errors against truth


def simulate(names, scale, shift, count, seed=0):
    """Returns {score: estimates} of sets of samples against the same reals."""
    random = np.random.default_rng(seed)
    mixing = np.eye(32) + 0.2 * random.standard_normal((32, 32))
    centres = random.standard_normal((10, 32))

    def draw(n, scale, shift, random=random):
        chosen = centres[random.integers(10, size=n)]
        return (0.7 * chosen + scale * random.standard_normal((n, 32))) @ mixing + shift

    real = evidence(draw(600, 1, 0))
    others = np.random.default_rng(seed + 100)
    found = {}
    for _ in range(count):
        fake = draw(400, scale, shift)
        held_out = evidence(draw(400, 1, 0, others))
        comparison = Comparison(evidence(fake, fake), real, held_out=held_out)
        for name in names:
            for score, estimate in METRICS[name].estimate(comparison).items():
                found.setdefault(score, []).append(estimate)
    return found


def covered(estimates):
    """Returns the part of the 95% intervals that hold the mean of all values."""
    truth = np.mean([estimate.value for estimate in estimates])
    return np.mean([abs(e.value - truth) <= 1.96 * e.error for e in estimates])


def told_apart(first, second):
    """Returns the part of the pairs that differ by more than 1.96 errors."""
    pairs = [difference(a, b) for a, b in zip(first, second, strict=True)]
    return np.mean([abs(value) > 1.96 * error for value, error in pairs])


def test_intervals_cover_the_truth():
    """Of 100 cases 90 to 98%; sets of one distribution are told apart by chance alone."""
    names = ["fid", "inception_score", "precision_recall", "density_coverage"]
    found = simulate(names, 1, 0, 100)
    for score in ("fd", "fd_inf", "is", "precision", "recall", "density", "coverage"):
        assert 0.9 <= covered(found[score]) <= 0.98, score
    assert told_apart(found["fd"][:50], found["fd"][50:]) <= 0.05
    worse = simulate(["fid"], 1, 0.5, 20)["fd"]
    assert told_apart(found["fd"][:20], worse) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("scale, shift", [(1, 0), (1.2, 0.3), (0.85, 0)])
def test_all_intervals_cover_the_truth(scale, shift, monkeypatch):
    """The table of docs/benchmarks.md; of 200 draws 2% more or less are chance."""
    monkeypatch.setattr(sliced_wasserstein, "DIRECTIONS", 200)
    names = ["fid", "fdr", "swr", "inception_score", "kid", "precision_recall", "density_coverage"]
    found = simulate(names, scale, shift, 200, seed=1)
    for score, estimates in found.items():
        if not estimates[0].parts:
            continue
        deviation = np.std([estimate.value for estimate in estimates], ddof=1)
        error = np.mean([estimate.error for estimate in estimates])
        apart = told_apart(estimates[:100], estimates[100:])
        print(f"{score} {deviation:.4f} {error:.4f} {covered(estimates):.3f} {apart:.2f}")
        assert 0.9 <= covered(estimates) <= 0.985 and apart <= 0.1, score


# ---------------------------------------------------------------- differences


def test_what_two_have_in_common_drops_out():
    noise, own = normal(400), 0.1 * normal(2, 400, seed=1)
    first = Estimate(1.0, (noise + own[0],))
    second = Estimate(0.9, (noise + own[1],))
    value, error = difference(first, second)
    assert value == pytest.approx(0.1)
    assert error == pytest.approx(0.1 * np.sqrt(2 / 400), rel=0.1) and first.error > 7 * error
    alone = Estimate(0.9, (normal(400, seed=2),))
    expected = np.hypot(first.error, alone.error)
    assert difference(first, alone)[1] == pytest.approx(expected, rel=0.1)
    assert difference(first, Estimate(0.9))[1] is None
    both = mean_estimate([first, first])
    assert (both.value, both.error) == (first.value, pytest.approx(first.error))


def test_who_is_better():
    low, high = Estimate(1.0, (normal(100),)), Estimate(2.0, (normal(100, seed=1),))
    near = Estimate(1.01, (normal(100, seed=2),))
    assert verdict("fd_pixels", low, high).better == "load_dir"
    assert verdict("precision", low, high).better == "against"
    assert verdict("fd_pixels", low, near).better == TIE
    assert verdict("fd_pixels", low, low) == (1.0, 0.0, 0.0, TIE)
    assert verdict("memorised", low, high).better is None
    assert verdict("fd_pixels", low, Estimate(2.0)).better is None
    sources = {"load_dir": "a", "against": "b"}
    lines = [describe("fd_pixels", verdict("fd_pixels", low, x), sources) for x in (high, low)]
    assert lines[0].startswith("fd_pixels: 1.000 against 2.000, difference -1.000 +- 0.")
    assert lines[0].endswith(": a is better") and lines[1].endswith(": not told apart")
    rows = [Scored({"num_samples": n}, {"fd_pixels": low}) for n in (100, 200)]
    with pytest.raises(UserError, match="give equally many"):
        judge(*rows)


def test_errors_are_printed_beside_their_scores():
    row = {"step": 3, "fid_50k": 8.43, "fid_50k_error": 0.05, "fid_inf_slope": 9.0, "is": 2.0}
    assert describe_scores(row) == "fid_50k 8.430 +- 0.05, is 2.000"
    assert describe_parameters({"ema": "raw"}) == "raw parameters"
    flow = {"ema": "0.99", "denoise_timesteps": 4}
    assert describe_parameters(flow) == "EMA 0.99, 4 Euler steps"


def test_few_samples_have_a_score_all_the_same():
    with without_warnings("metrics"):
        few = Comparison(evidence(normal(5, 12)), evidence(normal(60, 12, seed=1)))
    found = METRICS["fid"].estimate(few)
    assert found["fd"].value > 0 and found["fd"].error is None and len(found) == 1
    found = METRICS["precision_recall"].estimate(few)
    naive = naive_precision_recall(few.real.features, few.fake.features, 3)
    assert (found["precision"].value, found["recall"].value) == pytest.approx(naive)
    assert np.isfinite(found["recall"].error)


def test_scores_of_inception_parts():
    logits = 3 * normal(200, 7)
    found = METRICS["inception_score"].estimate(
        Comparison(evidence(logits, logits), evidence(logits))
    )["is"]
    assert found.value == inception_score(logits)[0]
