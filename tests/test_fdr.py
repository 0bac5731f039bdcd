"""Ratios of Frechet and sliced Wasserstein distances, against a general solver and SciPy."""

import dataclasses
import json

import numpy as np
import ot
import pytest
from absl.flags import FlagValues
from scipy.stats import wasserstein_distance

import data
from data import pipeline
from evaluation import evaluate_command, score_images, scoring
from evaluation.flags import define_evaluation_flags
from evaluation.image_files import batches, write_npz
from evaluation.networks import NETWORKS
from metrics import fid, networks, sliced_wasserstein
from utils import config as config_lib
from utils.errors import UserError


def call(capsys, **flags):
    """Returns the row that eval_fid.py prints."""
    words = [f"--{name}={value}" for name, value in flags.items()]
    values = define_evaluation_flags(FlagValues())
    evaluate_command.main(config_lib.parse(["eval_fid.py", *words], values))
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def coarse(source, resize_mode):
    """Returns a second network, quick enough for a test: the means of squares of 2 x 2 pixels."""

    def features(params, images):
        means = images.reshape(len(images), 4, 2, 4, 2).mean((2, 4))
        return {"features": means.reshape(len(images), 16)}

    network = networks.pixels("", resize_mode)
    facts = network.facts | {"network": "coarse"}
    return dataclasses.replace(
        network, name="coarse", features=features, facts=facts, names={}, suffix="_coarse"
    )


def naive_distance(x, y):
    """Returns the Frechet distance of sets of images [N, 8, 8, 1] in pixels."""
    x, y = (images.reshape(len(images), 64) / 127.5 - 1 for images in (x, y))
    product = np.cov(x.T) @ np.cov(y.T)
    root = np.sqrt(np.linalg.eigvals(product).real.clip(0)).sum()
    spread = np.trace(np.cov(x.T)) + np.trace(np.cov(y.T))
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + spread - 2 * root


def test_ratios_and_their_mean(tmp_path, monkeypatch, capsys):
    """In pixels and in a second network; held-out images themselves have the ratio 1."""
    monkeypatch.setitem(NETWORKS, "coarse", coarse)
    for module in (sliced_wasserstein, scoring):
        monkeypatch.setattr(module, "DIRECTIONS", 100)
    training, _ = pipeline.everything(data.load("digits", "train"))
    held_out, _ = pipeline.everything(data.load("digits", "test"))
    darker = (held_out * 0.8).astype(np.uint8)
    write_npz(tmp_path / "darker.npz", darker, np.zeros(540, int))
    write_npz(tmp_path / "real.npz", held_out, np.zeros(540, int))
    flags = {"dataset_name": "digits", "reference_split": "train", "metrics": "fid,fdr,swr"}

    row = call(capsys, load_dir=tmp_path / "darker.npz", features="pixels", **flags)
    distances = naive_distance(darker, training), naive_distance(held_out, training)
    assert row["fd_pixels"] == pytest.approx(distances[0], rel=1e-5)
    assert row["fdr_pixels"] == pytest.approx(distances[0] / distances[1], rel=1e-5)
    assert row["fdr1_540"] == row["fdr_pixels"] > 2 and row["held_out_count"] == 540

    passes = []

    def count_passes(images, *args):
        passes.append(images)
        return batches(images, *args)

    monkeypatch.setattr(score_images, "batches", count_passes)
    both = "pixels+coarse"
    row = call(capsys, load_dir=tmp_path / "darker.npz", features=both, out=tmp_path, **flags)
    assert row["features"] == both and row["fdr_pixels"] != row["fdr_coarse"]
    mean = (row["fdr_pixels"] + row["fdr_coarse"]) / 2
    assert row["fdr2_540"] == pytest.approx(mean) and "fdr1_540" not in row
    assert "fdr2_540" in (tmp_path / "fid.csv").read_text()
    assert len(passes) == 1  # over the samples, for both networks
    errors = [row[f"{name}_error"] for name in ("fdr_pixels", "fdr_coarse", "fdr2_540")]
    # The networks see the same samples, so their errors hardly average out.
    assert np.hypot(*errors[:2]) / 2 < errors[2] <= sum(errors[:2]) / 2

    assert row["swr2_540"] == pytest.approx((row["swr_pixels"] + row["swr_coarse"]) / 2)
    assert row["swr_pixels"] > 2 and row["swr2_540_error"] > 0
    assert (row["directions"], row["directions_seed"]) == (100, 0)

    row = call(capsys, load_dir=tmp_path / "real.npz", features="pixels", **flags)
    assert row["fdr_pixels"] == pytest.approx(1, rel=1e-9)
    assert row["swr_pixels"] == pytest.approx(1, rel=1e-9)


def test_distances_are_those_of_pot():
    """The Fréchet distance is the squared Bures-Wasserstein one; sets may differ in size."""
    random = np.random.default_rng(3)
    x, y = random.normal(size=(60, 4)), random.normal(size=(90, 4)) @ np.diag([1, 2, 0.5, 3]) + 1
    of_x, of_y = fid.moments(x), fid.moments(y)
    bures = ot.gaussian.bures_wasserstein_distance(of_x[0], of_y[0], of_x[1], of_y[1])
    assert fid.frechet_distance(*of_x, *of_y) == pytest.approx(bures**2, rel=1e-9)

    directions = sliced_wasserstein._directions(4, 128, 0)
    sliced = ot.sliced_wasserstein_distance(x, y, projections=directions, p=1)
    assert sliced_wasserstein.sliced_wasserstein(x, y) == pytest.approx(sliced, rel=1e-12)


def test_sliced_wasserstein_is_scipys():
    """In each direction; contributions are derivatives by the weight of a sample."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 3)), random.normal(size=(55, 3)) + 0.3
    found = sliced_wasserstein.slices(x, y, 70, seed=1)
    directions = sliced_wasserstein._directions(3, 70, 1)

    def distances(weights):
        columns = zip((x @ directions).T, (y @ directions).T, strict=True)
        return [wasserstein_distance(of_x, of_y, weights) for of_x, of_y in columns]

    assert not sliced_wasserstein.slices(x, np.tile(x, (3, 1)), 7, seed=1).distances.any()
    equal = np.full(40, 1 / 40)
    assert found.distances == pytest.approx(distances(equal), rel=1e-12)
    expected = found.distances.mean()
    assert sliced_wasserstein.sliced_wasserstein(x, y, 70, seed=1) == pytest.approx(expected)
    same_size = sliced_wasserstein.slices(x, y[:40], 70, seed=1).distances.mean()
    found_same = sliced_wasserstein.sliced_wasserstein(x, y[:40], 70, seed=1)
    assert found_same == pytest.approx(same_size, rel=1e-12)

    contributions = found.contributions - found.contributions.mean()
    for sample in (0, 7, 39):
        step = 1e-5 * (np.arange(40) == sample)
        more, less = (np.mean(distances((equal + s) / (equal + s).sum())) for s in (step, -step))
        assert contributions[sample] == pytest.approx((more - less) / 2e-5, rel=1e-4)


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"features": "pixels"}, "it needs held_out"),
        ({"features": "pixels+pixel", "reference_split": "train"}, "unknown network"),
        (
            {"features": "coarse:a+coarse:b", "reference_split": "train"},
            "2 networks are called coarse",
        ),
        ({"features": "pixels", "dataset_name": "npz:X"}, "a data set that has a held-out split"),
    ],
    ids=["reference is held out", "typo", "same name", "nothing held out"],
)
def test_a_mistake_is_one_line(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(NETWORKS, "coarse", coarse)
    write_npz(tmp_path / "x.npz", np.zeros((9, 8, 8, 1), np.uint8), np.zeros(9, int))
    with pytest.raises(UserError, match=words):
        flags = {"dataset_name": "digits", "load_dir": tmp_path / "x.npz"} | flags
        flags["dataset_name"] = flags["dataset_name"].replace("X", str(tmp_path / "x.npz"))
        call(capsys, metrics="fdr", **flags)
