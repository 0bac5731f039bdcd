"""Evaluation: scores are the same however they are computed; what is refused; tables and pictures.

Batches, devices and processes do not change them.
"""

import csv
import dataclasses
import io
import itertools
import json
import logging
import os
import pathlib
import socket
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.flags import FlagValues
from conftest import CHILD_XLA_FLAGS, ROOT, share_steps
from PIL import Image
from safetensors.numpy import save_file
from weight_rule import draw

import data
from data import pipeline
from evaluation import curves, evaluate, evaluate_command, fid_csv, networks, score_generator
from evaluation.alphas import golden_section, parse_alphas
from evaluation.fid_csv import SETTINGS
from evaluation.flags import define_evaluation_flags
from evaluation.image_files import read_images, write_npz
from evaluation.labels import choose_labels, label_kind
from evaluation.load_reference import feature_count, load_reference
from evaluation.progress import with_bar
from evaluation.request import Request, find_run
from metrics import collect as collect_lib
from metrics.collect import collect
from metrics.fid import frechet_distance, moments
from metrics.neighbours import nearest, usual_distance
from metrics.networks import Network, enlarge
from metrics.precision_recall import precision_recall
from metrics.resize import resize
from models.build import build_generator
from models.encoders import load_encoder
from models.generator import init_params
from models.sampling import generate
from models.weights import load_generator
from training import drift
from utils import config as config_lib
from utils import processes, sharding
from utils.errors import UserError
from utils.figures import to_uint8
from utils.logging import without_warnings

GOLDEN = pathlib.Path(__file__).parent / "golden"
TINY = {
    "dataset_name": "digits",
    "batch_size": 40,
    "drift.n_neg": 4,
    "drift.alpha_max": 3.0,
    "drift.n_unc": 4,
    "model.hidden_size": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "optim.warmup_steps": 1,
    "optim.learning_rate": 2e-2,
    "max_steps": 6,
    "log_interval": 2,
    "save_interval": 2,
    "keep_interval": 2,
    "sample_interval": 6,
    "eval_interval": 3,
}


def tiny_generator():
    """Returns (model, params) of a generator that is untrained, but far from collapsed."""
    config = config_lib.resolve(TINY)
    model = build_generator(config.model, (8, 8, 1), 10)
    return model, init_params(model, jax.random.key(1))


def convolution() -> Network:
    """Returns a stand-in for Inception that compiles at once.

    It gives 20 features and 7 logits of uint8 images, which it enlarges as Inception does.
    """
    kernel = 0.2 * jax.random.normal(jax.random.key(0), (3, 3, 3, 20))

    @jax.jit
    def features(params, images):
        x = enlarge(jnp.repeat(images, 3, -1)).astype(jnp.float32) / 255
        x = jax.lax.conv_general_dilated(
            x,
            params,
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )
        x = jax.nn.relu(x).mean((1, 2))
        return {"features": x, "logits": 50 * x[:, :7]}

    facts = {"network": "inception", "resize": "tf", "weights": "drawn"}
    names = {"fd": "fid", "kd": "kid", "kd_std": "kid_std"}
    return Network("inception", features, kernel, facts, names)


@pytest.fixture
def small_inception(monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "inception", lambda source, resize: convolution())


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """The folder of a run of six steps, with checkpoints at 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train({"save_dir": str(folder)})
    return folder


def train(changes):
    """Trains TINY with some changes; all runs that this makes share a step."""
    config = config_lib.resolve(TINY | changes)
    parts = drift.build(config, data.load("digits"), sharding.make_mesh(1, 1))
    with pytest.MonkeyPatch.context() as patch:
        share_steps(patch)
        drift.train(parts, drift.open_run(config))


def mesh_sharding(n):
    """Returns the sharding of a batch over n devices."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:n]), ("data",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))


def on_devices(params, n):
    """Returns the parameters, whole on each of n devices."""
    return jax.device_put(params, sharding.replicated(mesh_sharding(n).mesh))


def evaluate_on(devices, batch_size, model, params, reference, count):
    """Returns (the row of an evaluation, its images) by so many devices and images per call."""
    batches = []
    row = evaluate.evaluate(
        model,
        on_devices(params, devices),
        reference,
        cfg_scale=1.5,
        seed=3,
        num_samples=count,
        batch_size=batch_size,
        sharding=mesh_sharding(devices),
        on_batch=batches.append,
    )
    return row, np.concatenate(batches)


# ---------------------------------------------------------------- the same figure everywhere


@pytest.mark.parametrize(
    "features, ways",
    [("pixels", ((1, 101), (8, 32))), ("inception", ((1, 101), (1, 16), (2, 16), (8, 32)))],
    ids=["pixels", "inception"],
)
def test_batches_and_devices_do_not_change_scores(features, ways, small_inception):
    model, params = tiny_generator()
    reference = load_reference(
        "digits",
        features=features,
        split="test",
        metrics="fid,kid,precision_recall,density_coverage",
        sharding=mesh_sharding(1),
    )
    results, images = [], []
    for devices, batch_size in ways:
        result, drawn = evaluate_on(devices, batch_size, model, params, reference, 101)
        results.append(result)
        images.append(drawn)
        assert images[-1].shape == (101, 8, 8, 1)
        np.testing.assert_allclose(
            images[-1], images[0], atol=2e-6, err_msg="sample i is the same image"
        )
    for result in results[1:]:
        assert result.keys() == results[0].keys()
        for name in fid_csv.scores(result):
            assert result[name] == pytest.approx(results[0][name], rel=1e-6), name


def two_processes(folder, *args):
    """Returns what each of two processes of one device wrote (tests/two_processes.py)."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "XLA_FLAGS": f"{CHILD_XLA_FLAGS} --xla_force_host_platform_device_count=1",
        "PYTHONPATH": str(ROOT / "tests"),
    }
    jobs = []
    for rank in range(2):
        words = [ROOT / "tests" / "two_processes.py", rank, 2, port, folder, *args]
        job = subprocess.Popen(
            [sys.executable, *map(str, words)],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        jobs.append(job)
    errors = [job.communicate(timeout=600)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], errors
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(2)]


def check_same(results, alone, images):
    """Scores of both processes are those of one to 1e-6, and sample i is the same image."""
    np.testing.assert_allclose(np.concatenate([r["images"] for r in results]), images, atol=2e-6)
    for result in results:
        assert result["num_samples"] == len(images)
        assert "8 of 16 samples are not finite" in str(result["refused"])
        for name, value in fid_csv.scores(alone).items():
            assert float(result[name]) == pytest.approx(value, rel=1e-6), name


def test_processes(tmp_path):
    """Two processes of one device each give the images and scores of one."""
    both = two_processes(tmp_path)
    model, params = tiny_generator()
    seen = []
    alone = evaluate.evaluate(
        model,
        params,
        load_reference("digits"),
        cfg_scale=1.5,
        seed=3,
        num_samples=101,
        batch_size=64,
        on_batch=seen.append,
    )
    check_same(both, alone, np.concatenate(seen))


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory):
    """A file of weights of Inception, drawn by the rule of the golden data."""
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    save_file(drawn_tensors("inception_fid"), path)
    return path


def drawn_tensors(network):
    """Returns the weights of a golden network, drawn by the rule in its spec.json."""
    spec = json.loads((GOLDEN / network / "spec.json").read_text())
    return {
        name: draw(name, tuple(shape), spec["weight_seed"], spec["gain"])
        for name, shape in spec["tensors"].items()
    }


@pytest.mark.slow
def test_inception_everywhere(tmp_path, inception_weights, caplog):
    """With Inception itself, batch sizes, devices and processes do not change the scores."""
    reals, labels = pipeline.everything(data.load("digits", "test"))
    real = tmp_path / "real.npz"
    write_npz(real, reals[:24], labels[:24])
    model, params = tiny_generator()
    results, images = [], []
    for devices, batch_size in ((1, 21), (1, 4), (2, 8), (8, 8)):
        reference = load_reference(
            "digits",
            features="inception",
            inception_weights=str(inception_weights),
            fid_stats=str(real),
            batch_size=batch_size,
            sharding=mesh_sharding(devices),
        )
        result, drawn = evaluate_on(devices, batch_size, model, params, reference, 21)
        results.append(result)
        images.append(drawn)
    for result, drawn in zip(results[1:], images[1:], strict=True):
        np.testing.assert_allclose(drawn, images[0], atol=2e-6)
        for name in ("fid_21", "is_21", "precision_21", "recall_21"):
            assert result[name] == pytest.approx(results[0][name], rel=1e-6), name
    check_same(two_processes(tmp_path, inception_weights, real), results[0], images[0])


def test_pixels_are_the_plain_definition():
    """On digits: clipped, unquantised pixels against the held-out split, in float64."""
    model, params = tiny_generator()
    images, labels = pipeline.everything(data.load("digits", "test"))
    x = np.concatenate(list(generate(model, params, labels, 1.0, 0)))
    fake = np.clip(x, -1, 1).reshape(540, 64).astype(np.float64)
    real = images.reshape(540, 64) / 127.5 - 1
    result = evaluate.evaluate(model, params, load_reference("digits"), cfg_scale=1.0, seed=0)
    assert result["num_samples"] == 540 and "class_agreement" in result
    assert result["fd_pixels"] == pytest.approx(
        frechet_distance(*moments(fake), *moments(real)), rel=1e-12
    )
    assert (result["precision"], result["recall"]) == precision_recall(real, fake, k=3)


def test_collect_is_moments_of_all(monkeypatch):
    """Of batches in parts, on eight devices: 40 images go through the network as 16, 16 and 8."""
    monkeypatch.setattr(collect_lib, "BLOCK", 16)
    monkeypatch.setattr(collect_lib, "ROWS_ON_A_CPU", 2)
    assert collect_lib.most_at_once(40, mesh_sharding(8)) == 16
    images = np.random.default_rng(0).integers(0, 256, (75, 8, 8, 1), np.uint8)
    network = convolution()
    cut = [images[:5], images[5:45], images[45:]]
    evidence = collect(network, cut, 40, with_features=True, sharding=mesh_sharding(8))
    expected = np.asarray(network.features(network.params, images)["features"])
    np.testing.assert_allclose(evidence.features, expected, rtol=1e-5)
    mu, sigma = moments(evidence.features)
    np.testing.assert_allclose(evidence.mu, mu, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(evidence.sigma, sigma, rtol=1e-9, atol=1e-15)
    assert evidence.count == 75 and evidence.logits.shape == (75, 7)


# ---------------------------------------------------------------- names, samples, labels


def test_a_batch_may_be_used_again():
    """The network reads it after `add` has returned."""
    buffer = np.zeros((4, 8, 8, 1), np.uint8)

    def refilled():
        for value in (0, 10, 20, 30):
            buffer[:] = value
            yield buffer

    network = convolution()
    found = collect(network, refilled(), 4, with_features=True)
    images = np.repeat(np.array([0, 10, 20, 30], np.uint8), 4)[:, None, None, None]
    separate = [np.broadcast_to(images[i : i + 4], (4, 8, 8, 1)).copy() for i in range(0, 16, 4)]
    expected = collect(network, separate, 4, with_features=True)
    np.testing.assert_array_equal(found.features, expected.features)


def test_names_say_what_does_not_compare():
    inception = convolution()
    names = [inception.score_name("fd", count) for count in (50_000, 5_000, 540)]
    assert names == ["fid", "fid_5k", "fid_540"]
    assert inception.score_name("precision", 10_000) == "precision_10k"
    clean = dataclasses.replace(inception, facts=inception.facts | {"resize": "clean"})
    assert clean.score_name("fd", 50_000) == "fid_clean"
    assert networks.NETWORKS["pixels"]("", "").score_name("fd", 540) == "fd_pixels"


@pytest.mark.parametrize("value, words", [(np.nan, "not finite"), (200.0, "latents, or 0 to 255")])
def test_broken_samples_are_refused(value, words):
    with pytest.raises(UserError, match=words):
        collect(convolution(), [np.full((4, 8, 8, 1), value, np.float32)], 4, with_features=False)


def test_bytes_are_those_of_the_files():
    """What the networks see is what would be written as PNG."""
    x = np.random.default_rng(0).uniform(-1.3, 1.3, (4, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(collect_lib.quantise(x), to_uint8(x))


def test_too_few_samples_warn(caplog):
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), np.uint8)
    collect(convolution(), [images], 9, with_features=False)
    assert sum("9 samples of 20 features" in r.message for r in caplog.records) == 1


def test_labels(tmp_path, caplog):
    reference = load_reference("digits")
    assert label_kind("", reference, tiny_generator()[0]) == "reference"
    labels = choose_labels("reference", reference, 1000, 10)
    assert np.array_equal(labels[:540], reference.labels)
    assert np.isin(labels[540:], reference.labels).all()
    # Folders and many files are sorted by class.
    by_class = dataclasses.replace(reference, read=lambda: (None, np.sort(reference.labels)))
    counts = np.bincount(choose_labels("reference", by_class, 270, 10), minlength=10)
    assert counts.min() > 10 and (counts <= np.bincount(reference.labels)).all()
    assert np.array_equal(choose_labels("uniform", reference, 25, 10), np.arange(25) % 10)
    np.save(tmp_path / "y.npy", np.array([1, 2, 2]))
    (tmp_path / "y.txt").write_text("1\n2\n2\n")
    np.savez(tmp_path / "y.npz", np.zeros((3, 8, 8, 1), np.uint8), np.array([1, 2, 2]))
    assert not caplog.records
    for name in ("y.npy", "y.txt", "y.npz"):
        assert choose_labels(str(tmp_path / name), reference, 4, 10).tolist() == [1, 2, 2, 1]
    assert "8 of 10 classes are not among the labels" in caplog.text
    with pytest.raises(UserError, match="expected uniform"):
        choose_labels(str(tmp_path / "none.txt"), reference, 4, 2)
    with pytest.raises(UserError, match="the generator knows 0 to 1"):
        choose_labels(str(tmp_path / "y.npy"), reference, 4, 2)


def test_golden_section():
    tried = []

    def valley(alpha):
        tried.append(alpha)
        return (alpha - 1.73) ** 2

    best = golden_section(valley, 1.0, 4.0)
    assert best == pytest.approx(1.73, abs=0.03) and len(tried) < 14
    assert golden_section(lambda a: a, 1.0, 4.0) == 1.0


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1", ([1.0], None)),
        ("1,1.5,2", ([1.0, 1.5, 2.0], None)),
        ("search", ([], (1.0, 4.0))),
        ("search:1,2", ([], (1.0, 2.0))),
    ],
)
def test_alphas(text, expected):
    assert parse_alphas(text) == expected


def test_what_one_process_does_alone_waits_for_no_other(monkeypatch):
    """As the first does for its report; asking the others would wait for them forever."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with processes.alone():
        assert processes.text_of_first("mine") == "mine"
        assert [a.tolist() for a in processes.concatenate_all(np.arange(2))] == [[0, 1]]
        processes.wait_for_all("nobody")
    assert not processes.is_single()


def test_flags_that_change_the_images_are_settings_of_a_row():
    given = {"vae": "v", "data.image_size": 32, "data.dir": "d", "data.flip": True, "step": 3}
    of_row = Request.row_settings.fget(types.SimpleNamespace(given=given))
    assert of_row == {"vae": "v", "data": "flip=true image_size=32"}
    assert set(of_row) <= set(SETTINGS)


def test_a_name_of_the_hub_is_no_run_of_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    config_lib.save_json(config_lib.resolve({"recipe": "none"}), tmp_path / "config.json")
    monkeypatch.chdir(tmp_path)
    assert find_run(".") and find_run("hf://name") is None


def test_nearest_finds_copies():
    gallery = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    order, distance = nearest(gallery[[7, 200]], gallery, 3)
    assert order[:, 0].tolist() == [7, 200] and distance[:, 0].tolist() == [0, 0]
    assert (np.diff(distance) > 0).all()
    d = np.linalg.norm(gallery[:, None] - gallery[None], axis=-1) + 1e9 * np.eye(300)
    assert usual_distance(gallery[:1]) == 0
    assert usual_distance(gallery, most=100) == pytest.approx(np.median(d.min(1)[::3]), rel=1e-6)


# ---------------------------------------------------------------- the program


def call(capsys, **flags):
    """Runs the command of eval_fid.py in this process and returns the JSON of its last line."""
    words = [f"--{name}={value}" for name, value in flags.items()]
    values = define_evaluation_flags(FlagValues())
    evaluate_command.main(config_lib.parse(["eval_fid.py", *words], values))
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def rows_of(folder):
    with open(folder / "fid.csv") as file:
        return list(csv.DictReader(file))


def test_training_evaluates(run_folder):
    """The trainer's rows are of digits in pixels, with as many samples as are held out."""
    rows = rows_of(run_folder)
    assert [row["step"] for row in rows] == ["3", "6"]
    for row in rows:
        settings = (row["num_samples"], row["features"], row["reference"])
        assert settings == ("540", "pixels", "digits:test")
        assert float(row["fd_pixels"]) > 0


def test_all_checkpoints_and_alphas(run_folder, tmp_path, capsys, small_inception, monkeypatch):
    flags = {
        "load_dir": run_folder,
        "all": 1,
        "ema": "raw",
        "cfg_scale": "1,2,3",
        "features": "inception",
        "num_samples": 64,
        "out": tmp_path,
        "reference_split": "test",
    }
    last = call(capsys, **flags)
    rows = rows_of(tmp_path)
    expected = list(itertools.product(("2", "4", "6"), ("1.0", "2.0", "3.0")))
    assert [(row["step"], row["cfg_scale"]) for row in rows] == expected
    assert len({row["fid_64"] for row in rows}) == 9 and "fid" not in rows[0]
    assert {
        "fid_64",
        "is_64",
        "precision_64",
        "recall_64",
        "step",
        "ema",
        "cfg_scale",
        "seed",
        "features",
        "resize",
        "weights",
        "reference",
        "labels",
        "dataset_name",
        "load_dir",
    } <= last.keys()
    pictures = [*tmp_path.glob("*.png"), *tmp_path.glob("samples/*.png")]
    assert {p.name for p in pictures} == {
        "fid_64_by_step.png",
        "fid_64_by_alpha.png",
        *(f"eval_step_0000000{s}.png" for s in (2, 4, 6)),
    }
    assert all(Image.open(p).size[0] > 200 for p in pictures)
    before = (tmp_path / "fid.csv").read_bytes()
    monkeypatch.setattr(score_generator, "measure", None)  # all are done
    assert call(capsys, **flags)["fid_64"] == last["fid_64"]
    assert (tmp_path / "fid.csv").read_bytes() == before


def test_two_runs_on_the_same_noise(run_folder, tmp_path, capsys):
    """A run is not told apart from itself, but an earlier checkpoint from it, by paired noise."""
    flags = {"load_dir": run_folder, "against": run_folder, "out": tmp_path}
    same = call(capsys, **flags)["against"]
    assert same["step"] == 6 and same["load_dir"] == str(run_folder)
    for found in same["scores"].values():
        assert found["difference"] == found["error"] == 0 and found["better"] == "not told apart"
    before = (tmp_path / "fid.csv").read_text()

    row = call(capsys, step=2, **flags)
    found = row["against"]["scores"]["fd_pixels"]
    assert found["other"] + found["difference"] == pytest.approx(row["fd_pixels"])
    assert 0 < found["error"] < row["fd_pixels_error"]
    assert found["better"] == ("against" if found["difference"] > 0 else "load_dir")
    # The other's row is not written.
    assert len((tmp_path / "fid.csv").read_text().splitlines()) == len(before.splitlines()) + 1

    row = call(capsys, load_dir=run_folder, error_groups=0, out=tmp_path / "none")
    assert not any(name.endswith(("_error", "_inf")) for name in row)


def test_a_bar_on_a_terminal_alone(monkeypatch):
    """It says how many images are done and the time left, and lets every batch through."""
    batches = [np.zeros((3, 2, 2, 1)), np.ones((2, 2, 2, 1))]

    def through(is_terminal, is_first=True):
        shown = io.StringIO()
        monkeypatch.setattr(shown, "isatty", lambda: is_terminal)
        monkeypatch.setattr(sys, "stderr", shown)
        monkeypatch.setattr(processes, "is_first", lambda: is_first)
        passed = []
        for batch in with_bar(iter(batches), 5, "reals"):
            passed.append(batch)
            time.sleep(0.12)  # the bar is drawn ten times a second
        assert all(found is given for found, given in zip(passed, batches, strict=True))
        return shown.getvalue()

    bar = through(True)
    assert "reals:  60%" in bar and "3/5 [00:00<00:00" in bar and bar.endswith("\r")
    assert through(False) == through(True, is_first=False) == ""


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"all": 1}, "one checkpoint at one alpha"),
        ({"cfg_scale": "1,2"}, "one checkpoint at one alpha"),
        ({"error_groups": 0}, "it needs errors"),
        ({"against": "/nowhere"}, "--against /nowhere: no such file"),
        ({"against": GOLDEN / "metrics.npz"}, "give two of a kind"),
    ],
)
def test_what_cannot_be_compared(flags, words, run_folder, tmp_path, capsys):
    with pytest.raises(UserError, match=words):
        call(capsys, **({"load_dir": run_folder, "against": run_folder, "out": tmp_path} | flags))


def test_search_ends_at_the_least(run_folder, tmp_path, capsys, small_inception):
    last = call(
        capsys,
        load_dir=run_folder,
        cfg_scale="search:1,2",
        features="inception",
        num_samples=40,
        metrics="fid",
        out=tmp_path,
    )
    rows = rows_of(tmp_path)
    assert len(rows) >= 5 and last["fid_40"] == min(float(r["fid_40"]) for r in rows)


def test_npz_and_folder_give_the_scores_of_the_run(run_folder, tmp_path, capsys):
    """The samples as ADM's .npz, and as PNGs, have the run's scores but for rounding to bytes.

    In pixels the neighbours are drawn too.
    """
    npz, folder = tmp_path / "samples.npz", tmp_path / "png"
    run = call(capsys, load_dir=run_folder, num_samples=120, samples_npz=npz, out=tmp_path)
    assert (tmp_path / "samples" / "eval_step_00000006_neighbours.png").exists()
    images = read_images(npz)
    labels = choose_labels("reference", load_reference("digits"), 120, 10)
    assert len(images) == 120 and images.labels.tolist() == labels.tolist()
    folder.mkdir()
    for i in range(120):
        Image.fromarray(images[i][..., 0]).save(folder / f"{i:03d}.png")
    from_npz = call(capsys, load_dir=npz, dataset_name="digits", features="pixels")
    table = tmp_path / "table"
    for _ in range(2):
        from_folder = call(capsys, load_dir=folder, dataset_name="digits", out=table)
    call(capsys, load_dir=npz, dataset_name="digits", out=table)
    assert [row["samples"] for row in rows_of(table)] == [str(folder), str(npz)]  # once each
    assert fid_csv.scores(from_npz) == fid_csv.scores(from_folder)
    assert from_npz["num_samples"] == 120
    assert from_npz["fd_pixels"] == pytest.approx(run["fd_pixels"], rel=0.01)


def test_a_run_in_several_networks(run_folder, tmp_path, capsys, small_inception):
    """One row has the scores of each network, and what is known stays."""
    flags = {"load_dir": run_folder, "num_samples": 120, "out": tmp_path, "all": 1}
    flags["reference_split"] = "train"
    both = call(capsys, features="pixels+inception", **flags)
    assert (both["features"], both["resize"]) == ("pixels+inception", "tf")
    for features, metrics in (("pixels", "fid,class_agreement"), ("inception", "fid")):
        alone = call(capsys, features=features, metrics=metrics, **flags)
        names = [name for name in alone if name.startswith(("fd_", "fid", "class_agreement"))]
        assert len(names) >= metrics.count(",") + 1
        assert all(both[name] == alone[name] for name in names), names
    with pytest.raises(UserError, match="looks in one network, not in 2"):
        call(capsys, features="pixels+inception", cfg_scale="search", load_dir=run_folder)
    rows = rows_of(tmp_path)
    call(capsys, features="pixels+inception", **flags)
    assert rows_of(tmp_path) == rows and len(rows) == 9  # three checkpoints, three batteries


def test_published_artifact(tmp_path, capsys):
    """Its distance is that of the moments of its samples; its rows and pictures are its own."""
    real = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "real.npz", real, np.arange(50) % 10)
    last = call(
        capsys,
        load_dir=GOLDEN / "pixel_tiny",
        fid_stats=tmp_path / "real.npz",
        num_samples=100,
        cfg_scale=1.5,
        out=tmp_path / "out",
    )
    model, params, _ = load_generator(GOLDEN / "pixel_tiny")
    samples = np.concatenate(list(generate(model, params, np.arange(100) % 10, 1.5, 0)))
    x = np.clip(samples, -1, 1).reshape(100, -1).astype(np.float64)
    expected = frechet_distance(*moments(x), *moments(real.reshape(50, -1) / 127.5 - 1))
    assert last["fd_pixels"] == pytest.approx(expected, rel=1e-6) and last["labels"] == "reference"
    assert [r["samples"] for r in rows_of(tmp_path / "out")] == [str(GOLDEN / "pixel_tiny")]
    assert (tmp_path / "out" / "samples" / "eval_step_00000100_neighbours.png").exists()


def test_only_all_scores_are_done(tmp_path):
    """A row with as many scores, but others, is not the evaluation that is asked for."""
    table = tmp_path / "fid.csv"
    row = {"step": 1, "ema": "0.999", "cfg_scale": 1.0, "num_samples": 9, "reference": "007"}
    fid_csv.append_row(table, row | {"fid_5k": 1.0, "precision_5k": 0.5, "recall_5k": 0.5})
    assert fid_csv.find_row(table, row, ["fid_5k", "recall_5k"])["fid_5k"] == 1
    assert fid_csv.find_row(table, row, ["fid_5k", "kid_5k"]) is None
    assert fid_csv.find_row(table, row | {"cfg_scale": 2.0}, ["fid_5k"]) is None


def test_warnings_of_others_are_heard():
    heard = []

    class Ear(logging.Handler):
        def emit(self, record):
            heard.append(record.name)

    handler = Ear()
    logging.getLogger().addHandler(handler)
    with without_warnings("metrics"):
        for name in ("metrics.fid", "checkpoint", "metricsfan"):
            logging.getLogger(name).warning("something")
        logging.getLogger("metrics.fid").error("worse")
    logging.getLogger("metrics.fid").warning("after")
    assert heard == ["checkpoint", "metricsfan", "metrics.fid", "metrics.fid"]


def test_unreadable_images_are_left_out(tmp_path, caplog):
    """Where a data set allows some, they are not scored, and labels stay with their images."""
    images, labels = pipeline.everything(data.load("digits", "test"))
    for i in range(60):
        (tmp_path / str(labels[i])).mkdir(exist_ok=True)
        Image.fromarray(images[i][..., 0]).save(tmp_path / str(labels[i]) / f"{i}.png")
    first = sorted(tmp_path.rglob("*.png"))[0]
    first.write_bytes(first.read_bytes()[:40])
    options = {"max_corrupt": 0.1, "channels": 1}
    reference = load_reference(
        f"folder:{tmp_path}", data_options=options, shape=(8, 8, 1), batch_size=16
    )
    good, y = pipeline.everything(data.load(f"folder:{tmp_path}", "train", options))
    assert reference.real.count == len(good) == 59
    np.testing.assert_allclose(
        reference.real.mu, good.reshape(59, 64).mean(0) / 127.5 - 1, atol=1e-12
    )
    np.testing.assert_array_equal(reference.labels, y)


def test_rows_of_the_same_settings_are_one(tmp_path):
    path = tmp_path / "fid.csv"
    row = {
        "step": 1,
        "ema": "0.999",
        "cfg_scale": 1.0,
        "seed": 0,
        "num_samples": 9,
        "features": "pixels",
        "reference": "digits:test",
        "labels": "reference",
    }
    fid_csv.append_row(path, row | {"fd_pixels": 2.0})
    fid_csv.append_row(path, row | {"precision": 0.5})
    fid_csv.append_row(path, row | {"reference": "digits:train", "fd_pixels": 3.0})
    first, second = fid_csv.read_rows(path)
    assert fid_csv.scores(first) == {"fd_pixels": 2.0, "precision": 0.5}
    assert fid_csv.scores(second) == {"fd_pixels": 3.0}

    whole = path.read_bytes()
    for old, new, reason in (
        (b"0.999", b"0.99\xae", "invalid start byte"),
        (b"1.0", b"1,0", "row 1 has more values than there are columns"),
        (b"cfg_scale", b"cfg_scele", "row 1 has a step, but no cfg_scale"),
        (b"3.0", b"3.o", "row 2 has no number as fd_pixels"),
    ):
        path.write_bytes(whole.replace(old, new, 1))
        with pytest.raises(UserError, match=f"is damaged .*{reason}.*: correct or delete it"):
            fid_csv.read_rows(path)
    path.write_bytes(whole.replace(b"step", b"stop"))  # then it is of no step, and in no curve
    assert curves.draw_curves(tmp_path, row | {"fd_pixels": 2.0}) == []


def test_sanity_at_the_first_step(tmp_path, small_inception, monkeypatch):
    """An evaluation that cannot work stops the training at its first step."""
    statistics = tmp_path / "stats.npz"
    np.savez(statistics, mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(UserError, match="2048 features, but pixels gives 64"):
        train({"save_dir": str(tmp_path / "run"), "fid_stats": str(statistics)})
    counts = []

    def fail(*_, num_samples, **__):
        counts.append(num_samples)
        raise ZeroDivisionError

    monkeypatch.setattr(evaluate, "evaluate", fail)
    with pytest.raises(ZeroDivisionError):
        train({"save_dir": str(tmp_path / "run2")})
    assert counts == [32] and not (tmp_path / "run2" / "fid.csv").exists()


# Flags of eval_fid.py, and words of the error. RUN and the like stand for paths, see the test.
MISTAKES = [
    ({}, "--load_dir is missing"),
    ({"load_dir": "nowhere"}, "no such file"),
    ({"load_dir": "RUN", "features": "incepton"}, "did you mean inception"),
    ({"load_dir": "RUN", "features": "inception"}, "cannot fetch the Inception weights"),
    (
        {"load_dir": "RUN", "features": "inception", "inception_weights": "none.pth"},
        "no Inception weights",
    ),
    ({"load_dir": "RUN", "features": "inception", "resize": "lanczos"}, "tf, pytorch, clean"),
    ({"load_dir": "RUN", "metrics": "fids"}, "unknown metric"),
    ({"load_dir": "RUN", "metrics": ","}, "unknown metric"),
    ({"load_dir": "RUN", "data.image_size": "7"}, "has no use for it"),
    ({"load_dir": "RUN", "metrics": "inception_score"}, "it needs logits"),
    ({"load_dir": "RUN", "cfg_scale": "0.5"}, "expected a number from 1 on"),
    ({"load_dir": "RUN", "ema": "0.5"}, "keeps"),
    ({"load_dir": "RUN", "step": "5"}, "no checkpoint of step 5"),
    ({"load_dir": "RUN", "fid_stats": "none.npz"}, "does not exist"),
    ({"load_dir": "RUN", "reference_split": "valid"}, "split"),
    ({"load_dir": "RUN", "num_samples": "1"}, "too few"),
    ({"load_dir": "RUN", "num_samples": "3"}, "precision_recall needs at least 4"),
    ({"load_dir": "RUN", "step": "2", "all": "1"}, "give one of them"),
    (
        {"load_dir": "RUN", "metrics": "precision_recall", "cfg_scale": "search"},
        "add fid to --metrics",
    ),
    ({"load_dir": "RUN", "cfg_scale": "searching"}, "expected a number from 1 on"),
    ({"load_dir": "RUN", "samples_npz": "samples.png"}, "ends in .npz"),
    ({"load_dir": "RUN", "labels": "unifrom"}, "expected uniform"),
    ({"load_dir": "RUN", "labels": "EMPTY"}, "expected a list of integers"),
    ({"load_dir": "RUN", "out": "EMPTY"}, "cannot write in"),
    ({"load_dir": "EMPTY", "dataset_name": "digits"}, "not a zip file"),
    (
        {"load_dir": "IMAGES", "dataset_name": "digits", "cfg_scale": "2", "ema": "raw"},
        "--ema, --cfg_scale",
    ),
    ({"load_dir": "IMAGES"}, "nothing to compare with"),
    ({"load_dir": "IMAGES", "dataset_name": "digits"}, "bring them to one size"),
    ({"load_dir": "ARTIFACT", "fid_stats": "IMAGES", "all": "1"}, "one set of parameters"),
    ({"load_dir": "ARTIFACT", "dataset_name": "digits"}, "bring them to one size"),
    (
        {"load_dir": "LATENTS", "fid_stats": "IMAGES", "vae": "nowhere"},
        "neither a folder nor a hub id",
    ),
]


@pytest.mark.parametrize(
    "flags, words", MISTAKES, ids=[" ".join(map("=".join, flags.items())) for flags, _ in MISTAKES]
)
def test_a_mistake_is_one_error(flags, words, run_folder, tmp_path, capsys, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    np.savez(tmp_path / "images.npz", np.zeros((20, 16, 16, 3), np.uint8))
    (tmp_path / "empty.txt").touch()
    paths = {
        "RUN": run_folder,
        "EMPTY": tmp_path / "empty.txt",
        "IMAGES": tmp_path / "images.npz",
        "ARTIFACT": GOLDEN / "pixel_tiny",
        "LATENTS": GOLDEN / "latent_tiny",
    }
    with pytest.raises(UserError) as error:
        call(capsys, **{name: paths.get(value, value) for name, value in flags.items()})
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_mistake_is_one_line():
    done = subprocess.run(
        [sys.executable, str(ROOT / "eval_fid.py"), "--load_dir", "nowhere"],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"XLA_FLAGS": CHILD_XLA_FLAGS, "PYTHONWARNINGS": "default"},
        cwd=ROOT,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


def test_dinov2_by_name(tmp_path):
    """`dinov2:FILE` is the class token of the encoder of models/, of images brought to 224."""
    name = f"dinov2:{tmp_path / 'small.safetensors'}"
    save_file(drawn_tensors("dinov2_small"), tmp_path / "small.safetensors")
    network = networks.load_network(name, "", "")
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    found = np.asarray(network.features(network.params, images)["features"])
    assert found.shape == (2, 384) and feature_count(network, (8, 8, 1)) == 384

    encode, params, _ = load_encoder(name)
    x = resize(np.repeat(images, 3, -1), 224, "clean") / 127.5 - 1
    expected = encode(params, x)["cls"][:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(found).max())
    assert network.score_name("fd", 50_000) == "fd_dinov2"
