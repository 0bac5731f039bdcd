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
from evaluation import evaluate_command, reals, score_images, scoring
from evaluation import networks as all_networks
from evaluation.flags import define_evaluation_flags
from evaluation.image_files import batches, write_npz
from evaluation.networks import NETWORKS, network_name
from metrics import fid, networks, sliced_wasserstein
from metrics.compare import compare
from metrics.evidence import Comparison, Evidence
from metrics.ratios import SIX, mean_name
from metrics.table import METRICS
from scripts import compute_fid_stats
from utils import config as config_lib
from utils.errors import UserError


def call(capsys, **flags):
    """Returns the row that eval_fid.py prints."""
    return call_and_log(capsys, **flags)[0]


def call_and_log(capsys, **flags):
    """Returns the row that eval_fid.py prints, and its log."""
    words = [f"--{name}={value}" for name, value in flags.items()]
    values = define_evaluation_flags(FlagValues())
    evaluate_command.main(config_lib.parse(["eval_fid.py", *words], values))
    printed = capsys.readouterr()
    return json.loads(printed.out.splitlines()[-1]), printed.err


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

    for module in (score_images, reals):
        monkeypatch.setattr(module, "batches", count_passes)
    both = "pixels+coarse"
    row = call(capsys, load_dir=tmp_path / "darker.npz", features=both, out=tmp_path, **flags)
    assert row["features"] == both and row["fdr_pixels"] != row["fdr_coarse"]
    mean = (row["fdr_pixels"] + row["fdr_coarse"]) / 2
    assert row["fdr2_540"] == pytest.approx(mean) and "fdr1_540" not in row
    assert "fdr2_540" in (tmp_path / "fid.csv").read_text()
    # Over the samples, the training images and those held out: once each, for both networks.
    assert [len(images) for images in passes] == [540, 1257, 540]
    errors = [row[f"{name}_error"] for name in ("fdr_pixels", "fdr_coarse", "fdr2_540")]
    # The networks see the same samples, so their errors hardly average out.
    assert np.hypot(*errors[:2]) / 2 < errors[2] <= sum(errors[:2]) / 2

    assert row["swr2_540"] == pytest.approx((row["swr_pixels"] + row["swr_coarse"]) / 2)
    assert row["swr_pixels"] > 2 and row["swr2_540_error"] > 0
    assert (row["directions"], row["directions_seed"]) == (100, 0)

    both = [networks.pixels(), coarse("", "")]
    from_arrays = compare(darker, training, both, ["fdr"], held_out=held_out)
    for name, value in from_arrays.items():
        assert row[name] == pytest.approx(value), name
    assert "fdr2_540_error" in from_arrays

    row = call(capsys, load_dir=tmp_path / "real.npz", features="pixels", **flags)
    assert row["fdr_pixels"] == pytest.approx(1, rel=1e-9)
    assert row["swr_pixels"] == pytest.approx(1, rel=1e-9)


def test_reals_out_of_files(tmp_path, monkeypatch, capsys):
    """Statistics of both kinds of reals, a file for each network, give the scores of the data."""

    def on_the_device(source, resize_mode):
        return dataclasses.replace(coarse(source, resize_mode), params=np.zeros(1))

    monkeypatch.setitem(NETWORKS, "coarse", on_the_device)
    held_out, _ = pipeline.everything(data.load("digits", "test"))
    write_npz(tmp_path / "darker.npz", (held_out * 0.8).astype(np.uint8), None)
    write_npz(tmp_path / "held_out.npz", held_out, None)
    battery = {"load_dir": tmp_path / "darker.npz", "features": "pixels+coarse", "metrics": "fdr"}
    expected = call(capsys, dataset_name="digits", reference_split="train", **battery)
    files = {}
    for split in ("train", "test"):
        files[split] = f"{tmp_path}/{split}_{{network}}.npz"
        flags = {"dataset_name": "digits", "reference_split": split, "features": "pixels+coarse"}
        compute_stats(out=files[split], **flags)
    names = ("fdr_pixels", "fdr_coarse", "fdr2_540")
    sources = {"fid_stats": files["train"], "held_out": files["test"]}
    row = call(capsys, **battery, **sources)
    images = call(capsys, **battery, **(sources | {"held_out": tmp_path / "held_out.npz"}))
    for name in names:
        assert row[name] == pytest.approx(expected[name], rel=1e-9)
        assert images[name] == pytest.approx(expected[name], rel=1e-9)
        # With moments alone, the noise of the held-out reals is not known.
        assert row[f"{name}_error"] < images[f"{name}_error"]
        assert images[f"{name}_error"] == pytest.approx(expected[f"{name}_error"], rel=1e-6)


def compute_stats(**flags):
    """Runs scripts/compute_fid_stats.py."""
    words = [f"--{name}={value}" for name, value in flags.items()]
    values = config_lib.define_flags(
        compute_fid_stats.SHARED, compute_fid_stats.FLAGS, FlagValues()
    )
    compute_fid_stats.main(config_lib.parse(["compute_fid_stats.py", *words], values))


def test_what_is_at_hand_of_the_published_six(tmp_path, monkeypatch, capsys):
    """Networks whose weights cannot be had are named, and the mean is called after the others."""

    def missing(source, resize_mode):
        raise UserError("its weights cannot be fetched; give their path")

    def stand_in(name):
        def load(source, resize_mode):
            network = coarse(source, resize_mode)
            facts = network.facts | {"network": name}
            return dataclasses.replace(network, name=name, facts=facts, suffix=f"_{name}")

        return load

    for name in ("inception", "convnextv2"):
        monkeypatch.setitem(NETWORKS, name, stand_in(name))
    for name in ("dinov2", "vit"):
        monkeypatch.setitem(NETWORKS, name, missing)
    held_out, _ = pipeline.everything(data.load("digits", "test"))
    write_npz(tmp_path / "real.npz", held_out, None)
    flags = {"load_dir": tmp_path / "real.npz", "dataset_name": "digits", "metrics": "fdr6"}
    flags["against"] = flags["load_dir"]
    row, log = call_and_log(capsys, reference_split="train", **flags)
    assert row["fdr2_540"] == pytest.approx(1) and row["features"] == "inception+convnextv2"
    assert row["missing_networks"] == ["dinov2", "vit_mae", "vit_siglip2", "vit_clip"]
    assert "without vit_clip: its weights cannot be fetched" in log
    assert mean_name("fdr", SIX) == "fdr6"
    assert tuple(map(network_name, all_networks.SIX)) == SIX
    assert mean_name("fdr", [*SIX[:5], "pixels"]) == "fdr6_other"


def test_reals_against_reals_have_the_ratio_one(monkeypatch):
    """1 lies within 1.96 errors in 90 to 98% of cases, since the held-out reals vary too."""
    monkeypatch.setattr(sliced_wasserstein, "DIRECTIONS", 50)
    random = np.random.default_rng(5)

    def draw(count):
        features = random.normal(size=(count, 8))
        return Evidence(count, *fid.moments(features), features)

    held = {"fdr": 0, "swr": 0}
    for _ in range(100):
        comparison = Comparison(draw(300), draw(900), held_out=draw(300))
        for name in held:
            found = METRICS[name].estimate(comparison)[name]
            held[name] += abs(found.value - 1) <= 1.96 * found.error
    assert 90 <= held["fdr"] <= 98 and 90 <= held["swr"] <= 98, held


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
        ({"features": "pixels,coarse", "reference_split": "train"}, r"joined by \+"),
        ({"features": "pixels", "metrics": "fdr6"}, "its own six networks"),
        ({"features": "pixels+coarse", "resize": "clean"}, "it is of Inception"),
        ({"features": "pixels", "metrics": "fid", "held_out": "X"}, "no metric compares with it"),
        (
            {"features": "pixels", "held_out": "{network}.npz"},
            "pixels.npz.* (no such|does not exist)|does not exist",
        ),
        ({"features": "pixels", "held_out": "LARGER"}, "bring them to one size"),
        (
            {"features": "coarse:a+coarse:b", "reference_split": "train"},
            "2 networks are called coarse",
        ),
        (
            {"features": "pixels", "dataset_name": "npz:X"},
            "that has a held-out split, or --held_out",
        ),
    ],
    ids=[
        "reference is held out",
        "typo",
        "comma",
        "networks of fdr6",
        "resize",
        "useless",
        "no file",
        "size",
        "same name",
        "nothing",
    ],
)
def test_a_mistake_is_one_line(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(NETWORKS, "coarse", coarse)
    write_npz(tmp_path / "x.npz", np.zeros((9, 8, 8, 1), np.uint8), np.zeros(9, int))
    with pytest.raises(UserError, match=words):
        flags = {"dataset_name": "digits", "load_dir": tmp_path / "x.npz"} | flags
        np.savez(tmp_path / "larger.npz", np.zeros((9, 16, 16, 1), np.uint8))
        places = {"X": tmp_path / "x.npz", "LARGER": tmp_path / "larger.npz"}
        for name in ("dataset_name", "held_out"):
            for word, path in places.items():
                if name in flags:
                    flags[name] = flags[name].replace(word, str(path))
        call(capsys, **({"metrics": "fdr"} | flags))
