"""Reference statistics: every format is read, and provenance is kept and checked."""

import json
import subprocess
import sys

import numpy as np
import pytest
from absl.flags import FlagValues
from conftest import ROOT
from PIL import Image
from test_eval import tiny_generator

import data
from data import pipeline
from evaluation.evaluate import evaluate
from evaluation.image_files import batches, read_images, write_npz
from evaluation.load_reference import load_reference
from metrics.evidence import Evidence
from metrics.fid import frechet_distance, moments
from metrics.statistics import check_provenance, read_statistics, write_statistics
from scripts import compute_fid_stats
from utils import config as config_lib
from utils.errors import UserError

IMAGES = np.zeros((3, 8, 8, 3), np.uint8)
MU, SIGMA = moments(np.random.default_rng(0).normal(size=(50, 4)))
EVIDENCE = Evidence(50, MU, SIGMA, np.ones((50, 4), np.float32))
FACTS = {
    "network": "inception",
    "resize": "tf",
    "weights": "6726825d",
    "dataset_name": "digits",
    "split": "train",
    "image_shape": [32, 32, 3],
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "names, more, save",
    [
        (("mu", "sigma"), {}, np.savez),
        (("mu", "sigma"), {}, np.savez_compressed),
        (("ref_mu", "ref_sigma"), {}, np.savez),
        (("mu", "sigma"), {"arr_0": IMAGES, "mu_s": MU * 2, "sigma_s": SIGMA * 2}, np.savez),
    ],
    ids=["pytorch-fid, clean-fid, EDM, jax-flow", "JiT", "MeanFlow", "ADM, REPA"],
)
def test_formats(names, more, save, dtype, tmp_path):
    """Of images and statistics in one file the statistics count, but not the spatial ones."""
    save(tmp_path / "s.npz", **more, **{names[0]: MU.astype(dtype), names[1]: SIGMA.astype(dtype)})
    statistics = read_statistics(tmp_path / "s.npz")
    tolerance = 1e-12 if dtype == np.float64 else 1e-9
    mu, sigma = statistics.evidence.mu, statistics.evidence.sigma
    assert frechet_distance(mu, sigma, MU, SIGMA) < tolerance
    assert statistics.provenance == {} and statistics.evidence.features is None


def test_images_alone_are_no_statistics(tmp_path):
    np.savez(tmp_path / "images.npz", arr_0=IMAGES)
    assert read_statistics(tmp_path / "images.npz") is None


def test_ours_are_kept_to_the_bit(tmp_path):
    write_statistics(tmp_path / "s.npz", EVIDENCE, FACTS, features=True)
    (count, mu, sigma, features, _), provenance = read_statistics(tmp_path / "s.npz")
    assert np.array_equal(mu, MU) and mu.dtype == np.float64
    assert np.array_equal(sigma, SIGMA)
    assert np.array_equal(features, EVIDENCE.features)
    assert count == 50 and provenance == FACTS | {"count": 50}
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:  # as pytorch-fid reads it
        assert {"mu", "sigma"} <= set(file)


@pytest.mark.parametrize(
    "key, value",
    [("network", "dinov2"), ("resize", "clean"), ("weights", "0000"), ("image_shape", [64, 64, 3])],
)
def test_another_provenance_is_refused(key, value, tmp_path):
    write_statistics(tmp_path / "s.npz", EVIDENCE, FACTS)
    statistics = read_statistics(tmp_path / "s.npz")
    check_provenance("s.npz", statistics, FACTS, 4)
    with pytest.raises(UserError, match=f"made with {key}"):
        check_provenance("s.npz", statistics, FACTS | {key: value}, 4)
    statistics.provenance[key] = "a\nb " * 1000
    with pytest.raises(UserError, match="a b") as error:
        check_provenance("s.npz", statistics, FACTS, 4)
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)


def test_warnings(tmp_path, caplog):
    write_statistics(tmp_path / "s.npz", EVIDENCE, FACTS)
    expected = FACTS | {"dataset_name": "cifar10"}
    check_provenance("s.npz", read_statistics(tmp_path / "s.npz"), expected, 4)
    assert [r.message for r in caplog.records] == [
        "--fid_stats s.npz: made with dataset_name digits, but this evaluation has cifar10"
    ]
    caplog.clear()
    np.savez(tmp_path / "bare.npz", mu=MU, sigma=SIGMA)
    check_provenance("bare.npz", read_statistics(tmp_path / "bare.npz"), FACTS, 4)
    assert len(caplog.records) == 1 and "does not say where it comes from" in caplog.text
    with pytest.raises(UserError, match="4 features, but inception gives 2048"):
        check_provenance("bare.npz", read_statistics(tmp_path / "bare.npz"), FACTS, 2048)


GOOD = {"mu": MU, "sigma": SIGMA}


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"mean": MU}, "holds mean; expected mu and sigma"),
        ({f"x{i}": MU for i in range(9)}, "holds x0, x1, x2, x3, x4, x5 and 3 more; expected mu"),
        ({"mu": MU, "sigma": SIGMA[:3]}, "expected"),
        ({"mu": MU * np.nan, "sigma": SIGMA}, "not finite"),
        ({"mu": MU, "sigma": np.triu(np.ones((4, 4)))}, "not symmetric"),
        ({"mu": np.array([object()]), "sigma": SIGMA}, "plain arrays"),
        (GOOD | {"provenance": "[" * 200_000}, "too deep"),
        (GOOD | {"provenance": '{"count": %s}' % ("9" * 4000)}, "expected a number of images"),
        (
            GOOD | {"provenance": '{"count": 7}', "features": np.ones((5, 4))},
            "features of 5 images",
        ),
        (GOOD | {"features": np.full((5, 4), np.nan)}, "features that are not finite"),
    ],
    ids=[
        "other names",
        "many names",
        "shape",
        "not finite",
        "no covariance",
        "objects",
        "deep provenance",
        "a huge count",
        "another count",
        "features",
    ],
)
def test_broken_files(arrays, words, tmp_path):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(UserError, match=words) as error:
        read_statistics(tmp_path / "s.npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [0, 10, 300])
def test_truncated_file(cut, tmp_path):
    write_statistics(tmp_path / "s.npz", EVIDENCE, FACTS)
    (tmp_path / "s.npz").write_bytes((tmp_path / "s.npz").read_bytes()[:cut])
    with pytest.raises(UserError, match="damaged"):
        read_statistics(tmp_path / "s.npz")


# ---------------------------------------------------------------- images


def test_images(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)
    write_npz(tmp_path / "x.npz", x, np.arange(5))
    images = read_images(tmp_path / "x.npz")
    assert np.array_equal(images.items, x) and images.shape == (6, 7, 3)
    assert images.labels.tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "folder" / "b").mkdir(parents=True)
    for i, image in enumerate(x):
        Image.fromarray(image).save(tmp_path / "folder" / ("b" if i > 2 else "") / f"{i}.png")
    (tmp_path / "folder" / "notes.txt").write_text("")
    folder = read_images(tmp_path / "folder")
    assert len(folder) == 5
    for i in range(5):
        assert any(np.array_equal(folder[i], image) for image in x)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 8, 8, 3), np.float32),
        np.zeros((3, 8, 8, 4), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((3, 8), np.uint8),
    ],
)
def test_no_images(array, tmp_path):
    np.savez(tmp_path / "x.npz", array)
    with pytest.raises(UserError, match="expected images as arr_0, uint8"):
        read_images(tmp_path / "x.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images there"):
        read_images(tmp_path / "empty")


def test_mixed_sizes(tmp_path):
    for size in (4, 5):
        Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(tmp_path / f"{size}.png")
    images = read_images(tmp_path)
    with pytest.raises(UserError, match="mixed"):
        list(batches(images, range(2), 2))


# ---------------------------------------------------------------- the program


def compute(**flags):
    """Runs scripts/compute_fid_stats.py."""
    words = [f"--{name}={value}" for name, value in flags.items()]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "compute_fid_stats.py"), *words],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_program_and_its_use(tmp_path, caplog):
    out = tmp_path / "digits.npz"
    done = compute(
        dataset_name="digits", reference_split="test", features="pixels", keep_features=1, out=out
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts == {
        "out": str(out),
        "dataset_name": "digits",
        "split": "test",
        "network": "pixels",
        "resize": "",
        "weights": "",
        "image_shape": [8, 8, 1],
        "count": 540,
    }
    images, _ = pipeline.everything(data.load("digits", "test"))
    mu, sigma = moments(images.reshape(540, 64) / 127.5 - 1)
    statistics = read_statistics(out)
    np.testing.assert_allclose(statistics.evidence.mu, mu, rtol=1e-12)
    np.testing.assert_allclose(statistics.evidence.sigma, sigma, rtol=1e-12, atol=1e-15)

    caplog.clear()
    model, params = tiny_generator()
    scores = []
    for fid_stats in ("", str(out)):
        reference = load_reference("digits", fid_stats=fid_stats, metrics="fid,precision_recall")
        settings = {"cfg_scale": 1.0, "seed": 0, "num_samples": 100, "labels": "uniform"}
        scores.append(evaluate(model, params, reference, **settings))
    assert "--fid_stats" not in caplog.text
    gallery = load_reference("digits", fid_stats=str(out)).gallery
    np.testing.assert_array_equal(
        gallery.features[5].reshape(8, 8, 1), gallery.image(5) / 127.5 - 1
    )
    for name in ("fd_pixels", "precision", "recall"):
        assert scores[0][name] == pytest.approx(scores[1][name], rel=1e-12)


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"images": "nowhere.npz", "features": "pixels"}, "does not exist"),
        ({"images": "x.npz", "dataset_name": "digits"}, "give one of them"),
        ({"dataset_name": "digit"}, "did you mean digits"),
    ],
    ids=["no file", "two sources", "typo"],
)
def test_a_mistake_is_one_line(flags, words):
    values = config_lib.define_flags(
        compute_fid_stats.SHARED, compute_fid_stats.FLAGS, FlagValues()
    )
    given = ["compute_fid_stats.py", *(f"--{name}={value}" for name, value in flags.items())]
    with pytest.raises(UserError) as error:
        compute_fid_stats.main(config_lib.parse(given, values))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_reference_without_features_has_no_neighbours(tmp_path):
    path = str(tmp_path / "s.npz")
    write_statistics(path, Evidence(50, np.zeros(64), np.eye(64)), {"network": "pixels"})
    assert load_reference("digits", fid_stats=path).metrics == ("fid",)
    with pytest.raises(UserError, match="it needs features"):
        load_reference("digits", fid_stats=path, metrics="kid")


def test_images_as_reference(tmp_path):
    """An .npz of the held-out digits is the same reference as the data set's split."""
    images, labels = pipeline.everything(data.load("digits", "test"))
    write_npz(tmp_path / "real.npz", images, labels)
    from_file = load_reference("", fid_stats=str(tmp_path / "real.npz"), features="pixels")
    from_dataset = load_reference("digits")
    assert np.array_equal(from_file.real.mu, from_dataset.real.mu)
    assert np.array_equal(from_file.real.sigma, from_dataset.real.sigma)
    assert np.array_equal(from_file.labels, from_dataset.labels)
    assert config_lib.KEYS["fid_stats"].default == ""
