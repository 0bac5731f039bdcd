"""Distances between feature sets: golden figures, closed forms, naive NumPy."""

import itertools
import logging
import pathlib

import numpy as np
import pytest

from metrics import kid, precision_recall
from metrics.class_agreement import fit_classifier
from metrics.evidence import Comparison, Evidence
from metrics.fid import Moments, frechet_distance, moments
from metrics.inception_score import inception_score
from metrics.kid import mmd2
from metrics.memorisation import memorisation
from metrics.precision_recall import density_coverage
from metrics.table import METRICS
from utils.errors import UserError

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "metrics.npz") as file:
        return dict(file)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# ---------------------------------------------------------------------------------------------- FID


def test_fid_golden(golden):
    value = frechet_distance(*moments(golden["features_real"]), *moments(golden["features_fake"]))
    assert value == pytest.approx(golden["fid"], rel=1e-10)


def test_fid_of_gaussians_on_common_axes():
    """Covariances that commute: |mu1 - mu2|² + sum (sqrt l1 - sqrt l2)²."""
    q = np.linalg.qr(normal(40, 40))[0]
    l1, l2 = np.abs(normal(2, 40, seed=1))
    mu1, mu2 = normal(2, 40, seed=2)
    expected = np.sum((mu1 - mu2) ** 2) + np.sum((np.sqrt(l1) - np.sqrt(l2)) ** 2)
    found = frechet_distance(mu1, q * l1 @ q.T, mu2, q * l2 @ q.T)
    assert found == pytest.approx(expected, rel=1e-10)


def test_fid_under_a_linear_map():
    """The optimal map from N(0, S) to N(0, T S T), T symmetric > 0, is T itself.

    So the distance is Tr((T - 1) S (T - 1)).
    """
    a, b = normal(30, 30), normal(30, 30, seed=1)
    s, t = a @ a.T, b @ b.T + 0.1 * np.eye(30)
    expected = np.trace((t - np.eye(30)) @ s @ (t - np.eye(30)))
    zero = np.zeros(30)
    assert frechet_distance(zero, s, zero, t @ s @ t) == pytest.approx(expected, rel=1e-8)


def test_fid_of_singular_covariances():
    """Rank 20 in 120 dimensions, as with few samples: the closed form needs the 20 alone."""
    q = np.linalg.qr(normal(120, 120))[0][:, :20]
    a, b = normal(20, 20, seed=1), normal(20, 20, seed=2)
    s, t = a @ a.T, b @ b.T
    zero, small = np.zeros(120), np.zeros(20)
    expected = frechet_distance(small, s, small, t)
    found = frechet_distance(zero, q @ s @ q.T, zero, q @ t @ q.T)
    assert found == pytest.approx(expected, rel=1e-9)
    # Against the identity it is Tr S + 120 - 2 Tr S^(1/2): rounding in the 100 empty dimensions
    # must not add up.
    expected = np.trace(s) + 120 - 2 * np.sqrt(np.linalg.eigvalsh(s)).sum()
    found = frechet_distance(zero, q @ s @ q.T, zero, np.eye(120))
    assert found == pytest.approx(expected, rel=1e-9)


def test_fid_of_equal_statistics_is_zero():
    mu, sigma = moments(normal(50, 20))
    assert 0 <= frechet_distance(mu, sigma, mu, sigma) < 1e-12
    zero = np.zeros((20, 20))
    assert frechet_distance(mu, zero, mu + 1, zero) == pytest.approx(20)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda mu, sigma: (mu[:-1], sigma[:-1, :-1]), "cannot be compared"),
        (lambda mu, sigma: (mu[:-1], sigma), r"expected \[D\] and \[D, D\]"),
        (lambda mu, sigma: (mu * np.nan, sigma), "not finite"),
        (lambda mu, sigma: (mu, np.triu(sigma)), "not symmetric"),
    ],
)
def test_fid_refuses(spoil, message):
    mu, sigma = moments(normal(50, 20))
    with pytest.raises(UserError, match=message):
        frechet_distance(mu, sigma, *spoil(mu, sigma))


def test_moments_are_numpys():
    x = (normal(500, 12) * 3 + 100).astype(np.float32)
    mu, sigma = moments(x)
    np.testing.assert_allclose(mu, x.mean(0, dtype=np.float64), rtol=1e-13)
    expected = np.cov(x.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(sigma, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("offset", [0, 1e4])
def test_stream_equals_one_pass(offset):
    """Any cut into batches, and any split over processes, gives the same statistics."""
    x = normal(501, 24) + offset
    mu, sigma = moments(x)
    for sizes, processes in [([1], 1), ([7, 64, 0, 3], 1), ([100], 2), ([33], 8)]:
        parts = [Moments(24) for _ in range(processes)]
        size, start = itertools.cycle(sizes), 0
        for part in itertools.cycle(parts):
            n = next(size)
            part.update(x[start : start + n])
            start += n
            if start >= len(x):
                break
        total = Moments.from_state(*parts[0].state())
        for part in parts[1:]:
            total.merge(part)
        assert total.count == 501
        np.testing.assert_allclose(total.result()[0], mu, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(total.result()[1], sigma, rtol=1e-9, atol=1e-9)


def test_from_state_does_not_share_memory():
    part = Moments(3)
    part.update(normal(10, 3))
    copy = Moments.from_state(*part.state())
    copy.update(normal(10, 3, seed=1))
    assert part.count == 10
    np.testing.assert_allclose(part.result()[0], normal(10, 3).mean(0))


def test_few_samples_warn(caplog):
    with caplog.at_level(logging.WARNING):
        moments(normal(13, 12))
        assert not caplog.records
        moments(normal(12, 12))
    assert "12 samples of 12 features" in caplog.text


def test_moments_refuse():
    x = normal(10, 4)
    x[3, 1] = np.nan
    with pytest.raises(UserError, match="1 of 10 samples"):
        moments(x)
    with pytest.raises(UserError, match=r"expected \[samples, 5\]"):
        Moments(5).update(x)
    with pytest.raises(UserError, match="needs at least 2"):
        moments(x[:1])


# ---------------------------------------------------------------------------------------------- KID


def naive_mmd2(x, y):
    def k(a, b):
        return (np.dot(a, b) / len(a) + 1) ** 3

    def within(a):
        return np.mean([k(p, q) for p, q in itertools.permutations(a, 2)])

    between = np.mean([k(p, q) for p, q in itertools.product(x, y)])
    return within(x) + within(y) - 2 * between


def test_kid_golden(golden):
    real, fake = golden["features_real"], golden["features_fake"]
    assert mmd2(real, fake) == pytest.approx(golden["mmd2_poly3_unbiased"], rel=2e-7)
    mean, std = kid.kid(real, fake, subsets=100, subset_size=500, seed=0)
    golden_mean = golden["kid_mean_subsets100_size500"]
    golden_std = golden["kid_std_subsets100_size500"]
    assert abs(mean - golden_mean) < 3 * golden_std / np.sqrt(100)
    assert std == pytest.approx(golden_std, rel=0.3)


@pytest.mark.parametrize("tile", [3, 4096])
def test_mmd2_is_the_naive_one(tile, monkeypatch):
    monkeypatch.setattr(kid, "TILE", tile)
    x, y = normal(13, 5), normal(8, 5, seed=1) + 0.5
    mean = np.mean([(np.dot(a, b) / 5 + 1) ** 3 for a in x for b in x])
    assert mmd2(x, y) == pytest.approx(naive_mmd2(x, y), abs=2e-7 * mean)


def test_mmd2_of_close_sets():
    """As between a good generator and the reals: the difference is a millionth of the kernel, whose
    rounding must average out.
    """
    n = 700
    x, y = 0.5 * np.abs(normal(2, n, 256)).astype(np.float32)

    def kernel(a, b):
        return (a.astype(np.float64) @ b.T.astype(np.float64) / 256 + 1) ** 3

    of_x, of_y = kernel(x, x), kernel(y, y)
    of_pairs = of_x.sum() - np.trace(of_x) + of_y.sum() - np.trace(of_y)
    expected = of_pairs / (n * (n - 1)) - 2 * kernel(x, y).mean()
    assert abs(mmd2(x, y) - expected) < 1e-8 * of_x.mean()


def test_kid_is_reproducible():
    x, y = normal(50, 5), normal(40, 5, seed=1)
    assert kid.kid(x, y, 5, 20, seed=3) == kid.kid(x, y, 5, 20, seed=3)
    assert kid.kid(x, y, 5, 20, seed=3) != kid.kid(x, y, 5, 20, seed=4)
    assert kid.kid(x, y, 1, 40, seed=0)[1] == 0
    # one subset that is everything
    assert kid.kid(x[:40], y, 1, 40, seed=0)[0] == pytest.approx(mmd2(x[:40], y))


def test_kid_refuses():
    x = normal(10, 4)
    with pytest.raises(UserError, match="from 2 to 8"):
        kid.kid(x, x[:8], 3, 9, seed=0)
    with pytest.raises(UserError, match="expected"):
        mmd2(x, x[:, :3])
    with pytest.raises(UserError, match="not finite"):
        mmd2(x, x * np.inf)


# -------------------------------------------------------------- nearest neighbours, inception score


def distances(x, y):
    return np.sqrt(((x[:, None].astype(np.float64) - y[None]) ** 2).sum(-1))


def naive_radii(x, k):
    return np.sort(distances(x, x), 1)[:, k]  # column 0 is the sample itself


def naive_precision_recall(real, fake, k):
    d = distances(real, fake)
    precision = (d <= naive_radii(real, k)[:, None]).any(0).mean()
    return precision, (d <= naive_radii(fake, k)[None]).any(1).mean()


def naive_density_coverage(real, fake, k):
    inside = distances(real, fake) < naive_radii(real, k)[:, None]
    return inside.sum() / (k * len(fake)), inside.any(1).mean()


def test_neighbours_golden(golden):
    real, fake = golden["features_real"], golden["features_fake"]
    expected = (golden["precision"], golden["recall"])
    assert precision_recall.precision_recall(real, fake, k=3) == expected
    assert density_coverage(real, fake, k=5) == (golden["density_k5"], golden["coverage_k5"])


@pytest.mark.parametrize("entries", [40, 1000, 2**26])
@pytest.mark.parametrize("k", [1, 4])
def test_neighbours_are_the_naive_ones(k, entries, monkeypatch):
    """Whatever the tiles. The sets lie far from the origin, where float32 would be poor."""
    monkeypatch.setattr(precision_recall, "TILE_ENTRIES", entries)
    real, fake = normal(37, 6) + 100, 1.2 * normal(29, 6, seed=1) + 100.3
    expected = naive_precision_recall(real, fake, k)
    assert precision_recall.precision_recall(real, fake, k) == pytest.approx(expected, rel=1e-12)
    assert min(expected) > 0
    assert max(expected) < 1
    expected = naive_density_coverage(real, fake, k)
    assert density_coverage(real, fake, k) == pytest.approx(expected, rel=1e-12)


def test_copies_are_at_distance_zero():
    """Memorised samples: |x|² + |y|² - 2 x·y rounds to something else than 0 for most of them."""
    # Each four times, so that balls of k = 3 are points.
    real = np.repeat(normal(50, 300).astype(np.float32), 4, 0)
    fake = real[::-1][:100]
    assert precision_recall.precision_recall(real, fake, k=3) == (1.0, 0.5)
    assert density_coverage(real, fake, k=3) == (0.0, 0.0)  # open balls without volume
    assert density_coverage(real[::4], real[::4], k=1) == (1.0, 1.0)


def test_neighbours_refuse():
    x = normal(10, 4)
    with pytest.raises(UserError, match="1 <= k"):
        precision_recall.precision_recall(x, x[:3], k=3)
    with pytest.raises(UserError, match="expected"):
        density_coverage(x, x[:, :3])
    with pytest.raises(UserError, match="not finite"):
        density_coverage(x, x * np.nan)


def test_inception_score_golden(golden):
    mean, std = inception_score(golden["logits"], splits=10, seed=2020)
    assert mean == pytest.approx(golden["isc_mean_splits10_shuffle_seed2020"], rel=1e-10)
    assert std == pytest.approx(golden["isc_std_splits10_shuffle_seed2020"], rel=1e-8)


def test_inception_score_extremes():
    """Equal predictions score 1; certain and evenly spread ones the number of classes."""
    assert inception_score(np.full((40, 8), 900.0), splits=2) == pytest.approx((1, 0))
    assert inception_score(1e4 * np.eye(8)[np.arange(64) % 8], splits=1) == pytest.approx((8, 0))
    with pytest.raises(UserError, match="splits"):
        inception_score(np.zeros((5, 8)))


# ---------------------------------------------------------------- metrics by name


def test_every_metric_of_the_table_gives_its_scores(monkeypatch):
    """They are those of the metric's file; the classifier is of pixels."""
    monkeypatch.setattr(kid, "SUBSETS", 3)
    images, labels = np.abs(normal(60, 8)), np.arange(60) % 2
    fake, real = images[:30], images[30:]
    held_out = np.abs(normal(40, 8))
    comparison = Comparison(
        Evidence(30, *moments(fake), fake, fake),
        Evidence(30, *moments(real), real, real),
        fit_classifier(real, labels[30:]),
        labels[:30],
        Evidence(40, *moments(held_out), held_out),
    )
    values = {}
    for metric in METRICS.values():
        values |= zip(metric.scores, metric.compute(comparison), strict=True)
    assert values["fd"] == frechet_distance(*moments(fake), *moments(real))
    of_reals = frechet_distance(*moments(held_out), *moments(real))
    assert values["fdr"] == pytest.approx(values["fd"] / of_reals, rel=1e-9)
    assert values["is"] == inception_score(fake)[0]
    assert (values["density"], values["coverage"]) == density_coverage(real, fake)
    recall = precision_recall.precision_recall(real, fake)
    assert (values["precision"], values["recall"]) == recall
    assert values["kd"] == pytest.approx(mmd2(fake, real), abs=1e-6)  # of subsets that are all
    assert 0 < values["class_agreement"] <= 1
    of_reals = frechet_distance(*moments(held_out), *moments(real))
    assert values["fdr"] == values["fd"] / of_reals
    assert values["memorised"] == memorisation(fake, real, held_out).memorised
