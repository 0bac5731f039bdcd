"""Memorisation: copies are found, their share is estimated, and chance is not taken for them."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from test_fdr import call

import data
from data import pipeline
from evaluation.image_files import write_npz
from metrics.memorisation import memorisation, probability_of_less
from utils.errors import UserError


def draw(random: np.random.Generator, n: int) -> np.ndarray:
    """Returns points of a mixture of three normal distributions in eight dimensions."""
    centres = 4 * np.eye(8)[random.integers(0, 3, n)]
    return centres + random.normal(size=(n, 8))


def test_the_rank_statistic_is_scipys():
    random = np.random.default_rng(0)
    x, y = random.integers(0, 9, 40) / 4, random.integers(2, 11, 30) / 4  # with ties
    share, error = probability_of_less(x, y)
    assert share == pytest.approx(mannwhitneyu(y, x).statistic / (40 * 30), abs=1e-12)
    # DeLong's error against that of many draws.
    shares = [
        probability_of_less(random.choice(x, 40), random.choice(y, 30))[0] for _ in range(500)
    ]
    assert error == pytest.approx(np.std(shares), rel=0.15)


@pytest.mark.parametrize("n_training, n_held_out", [(200, 100), (60, 180)])
def test_chance_is_not_memorisation(n_training, n_held_out):
    """Of new samples, the figure is 0 on average, and its error is what it claims to be."""
    random = np.random.default_rng(1)
    scaled, nearer = [], []
    for _ in range(60):
        found = memorisation(draw(random, 150), draw(random, n_training), draw(random, n_held_out))
        scaled.append(found.memorised / found.memorised_error)
        nearer.append((found.nearer - 0.5) / found.nearer_error)
    for z in (scaled, nearer):
        assert abs(np.mean(z)) < 3 / np.sqrt(60)
        assert 0.75 < np.std(z) < 1.3


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_copies_are_counted(share):
    random = np.random.default_rng(2)
    training, held_out = draw(random, 200), draw(random, 200)
    n_copies = round(share * 300)
    copies = training[random.integers(0, 200, n_copies)] + 0.05 * random.normal(size=(n_copies, 8))
    fake = np.concatenate([copies, draw(random, 300 - n_copies)])
    found = memorisation(fake, training, held_out)
    assert found.memorised == pytest.approx(share, abs=0.1)
    assert found.memorised > 3 * found.memorised_error
    assert found.nearer > 0.5 + 2.5 * found.nearer_error
    assert found.authenticity == pytest.approx(found.authenticity_real * (1 - share), abs=0.1)


def test_smooth_samples_are_no_copies():
    """They are nearer to all real images: only the second question takes them for copies."""
    random = np.random.default_rng(3)
    smooth = 4 * np.eye(8)[random.integers(0, 3, 300)] + 0.3 * random.normal(size=(300, 8))
    found = memorisation(smooth, draw(random, 200), draw(random, 200))
    assert found.nearer > 0.5 + 5 * found.nearer_error
    assert abs(found.memorised) < 2.5 * found.memorised_error


def test_many_samples_near_one_image_are_one_proof():
    """A generator that makes one image is as near to either set by chance: the error says so."""
    random = np.random.default_rng(4)
    one = draw(random, 1) + 0.01 * random.normal(size=(300, 8))
    found = memorisation(one, draw(random, 200), draw(random, 200))
    assert abs(found.memorised) <= 1 and found.memorised_error > 0.8


def test_what_cannot_be_compared_is_one_line():
    x = np.zeros((4, 3))
    with pytest.raises(UserError, match="expected .samples, D."):
        memorisation(x, np.zeros((4, 2)), x)
    with pytest.raises(UserError, match="not finite"):
        memorisation(x, x + np.nan, x)


def test_the_command(tmp_path, capsys):
    """Training images are copies of themselves, and new ones are not."""
    images, _ = pipeline.everything(data.load("digits", "train"))
    write_npz(tmp_path / "copies.npz", images[::4], None)
    flags = {"load_dir": tmp_path / "copies.npz", "dataset_name": "digits"}
    flags["metrics"] = "memorisation"
    row = call(capsys, **flags, reference_split="train", out=tmp_path)
    assert row["memorised"] == 1 and row["authenticity"] == 0
    assert row["nearer"] > 0.99 and row["held_out_count"] == 540
    assert "memorised_error" in (tmp_path / "fid.csv").read_text()
    with pytest.raises(UserError, match="give --reference_split train"):
        call(capsys, **flags)
