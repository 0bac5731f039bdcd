"""Networks of scores that are encoders too, and the warning where they judge what they taught."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from absl import flags
from safetensors.numpy import save_file
from test_vit import golden_config, golden_tensors

import data
from evaluation import evaluate_command, judge, load_reference, networks
from evaluation.flags import define_evaluation_flags
from metrics.resize import resize
from models.efficientnet import package_file
from models.encoders import dinov2
from models.vit import PUBLIC_MODELS, load_vit
from training import drift
from utils import config as config_lib
from utils import sharding
from utils.errors import UserError

GOLDEN = pathlib.Path(__file__).parent / "golden"


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())


# ---- the networks ----


def test_efficientnet_has_the_recorded_features():
    """Two photographs of its own size; scores are called after it, without a number of samples."""
    recorded = np.load(GOLDEN / "efficientnet_lite0" / "io.npz")
    network = networks.load_network("efficientnet", "", "")
    outputs = network.features(network.params, recorded["images"])
    close(outputs["features"], recorded["pooled"])
    assert network.facts == {"network": "efficientnet", "resize": "", "weights": "lite0"}
    assert network.score_name("fd", 1000) == "fd_efficientnet"
    assert network.score_name("recall", 1000) == "recall_efficientnet"


def test_efficientnet_of_another_size():
    """lite2 takes 1,280 features of grey images that it enlarges to 260."""
    network = networks.load_network("efficientnet:lite2", "", "")
    images = jax.ShapeDtypeStruct((3, 28, 28, 1), np.uint8)
    outputs = jax.eval_shape(network.features, network.params, images)
    assert outputs["features"].shape == (3, 1280)
    assert network.facts["weights"] == "lite2"


@pytest.fixture
def siglip(tmp_path, monkeypatch):
    """A file of the small recorded SigLIP, which takes the place of the public one."""
    path = tmp_path / "model.safetensors"
    save_file(golden_tensors("vit_siglip_tiny"), path)
    config = golden_config("vit_siglip_tiny")
    small = dataclasses.replace(PUBLIC_MODELS["siglip2"], config=config)
    monkeypatch.setitem(PUBLIC_MODELS, "siglip2", small)
    return path


def test_vit_is_the_pooled_token_of_normalised_images(siglip):
    config = golden_config("vit_siglip_tiny")
    network = networks.load_network(f"vit:siglip2:{siglip}", "", "")
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), np.uint8)
    outputs = network.features(network.params, images)
    pixels = resize(images, 32, "clean") / 127.5 - 1  # SigLIP's mean and deviation are 0.5
    model, params = load_vit(siglip, **config)
    expected = jax.jit(model.apply)({"params": params}, pixels)["pooled"]
    close(outputs["features"], expected)
    assert network.score_name("fd", 50_000) == "fd_vit_siglip2"
    assert network.score_name("fd", 5_000) == "fd_vit_siglip2_5k"
    assert network.facts["weights"] not in ("siglip2", "")


@pytest.mark.parametrize(
    "features, resize_mode, words",
    [
        ("vit", "", "--features vit: say which, for example vit:mae"),
        ("vit:mae", "tf", "--resize tf: vit has one way"),
        ("efficientnet", "clean", "--resize clean: efficientnet has one way"),
        ("efficientnet:lite9", "", "no weights at lite9"),
        ("eficientnet", "", "did you mean efficientnet"),
    ],
)
def test_what_cannot_be_is_one_line(features, resize_mode, words):
    with pytest.raises(UserError, match=words):
        networks.load_network(features, resize_mode, "")


# ---- the judge and the teacher ----


@pytest.mark.parametrize(
    "name, path, features, same",
    [
        ("efficientnet", "", "efficientnet", True),
        ("efficientnet", "", "efficientnet:lite2", False),
        ("efficientnet", "lite2", "efficientnet:lite2", True),
        ("none+efficientnet", ",lite1", "efficientnet:lite1", True),
        ("efficientnet", "PACKAGE", "efficientnet:lite0", True),
        ("efficientnet", "", "efficientnet:FILE", False),
        ("dinov2", "", "dinov2", False),  # small teaches and large judges
        ("dinov2", "large", "dinov2", True),
        ("dinov2", "hf://facebook/dinov2-base", "dinov2:base", True),
        ("dinov2", "FILE", "dinov2:FILE", True),
        ("dinov2", "FILE", "dinov2:small", False),
        ("vit", "", "vit:mae", True),
        ("vit", "clip", "vit:clip_quickgelu", True),  # the same weights with another GELU
        ("vit", "hf://timm/vit_large_patch16_224.mae", "vit:mae", True),
        ("vit", "mae", "vit:siglip2", False),
        ("vit", "mae:FILE", "vit:mae", True),
        ("vit", "mae:FILE", "vit:siglip2:FILE", False),
        ("none", "", "pixels", False),
        ("dinov2", "", "", False),
    ],
)
def test_judges_that_are_teachers(name, path, features, same, tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"some weights")
    places = {"PACKAGE": str(package_file("lite0")), "FILE": str(file)}
    for place, real in places.items():
        path, features = path.replace(place, real), features.replace(place, real)
    run = config_lib.resolve({"encoder.name": name, "encoder.path": path})
    assert judge.judge_is_encoder(features, run) == same


def test_a_file_of_published_weights_is_known_by_its_checksum(tmp_path, monkeypatch):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"some weights")
    checksum = judge.weights_identity("dinov2", str(file))
    published = dinov2.Published("facebook/dinov2-small", checksum + "0" * 16)
    monkeypatch.setitem(dinov2.PUBLISHED, "small", published)
    run = config_lib.resolve({"encoder.name": "dinov2", "encoder.path": str(file)})
    assert judge.judge_is_encoder("dinov2:small", run)


def inception_is_usual(shape):
    return "inception"


def out_of_reach(source, resize):
    raise UserError("cannot fetch the Inception weights")


@pytest.mark.parametrize(
    "encoders, judge",
    [
        ([], "efficientnet:lite0"),
        (["none"], "efficientnet:lite0"),
        (["none+efficientnet"], "efficientnet:lite2"),
        (["none", "efficientnet"], "efficientnet:lite2"),  # two runs, one judge
        (["efficientnet:lite2", "efficientnet:lite0"], "pixels"),
    ],
)
def test_what_stands_in_is_no_teacher(encoders, judge, tmp_path, monkeypatch):
    """Of images that Inception is usual for, where its weights cannot be had."""
    monkeypatch.setitem(networks.NETWORKS, "inception", out_of_reach)
    images = np.zeros((4, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(4))
    runs = []
    for encoder in encoders:
        name, _, path = encoder.partition(":")
        runs.append(config_lib.resolve({"encoder.name": name, "encoder.path": path}))
    reference = load_reference.load_reference(f"npz:{tmp_path / 'images.npz'}", runs=runs)
    assert reference.network.asked == judge


def test_the_command_warns_and_its_json_says_so(siglip, tmp_path, capsys, monkeypatch):
    """A run in the features of the small SigLIP is scored in SigLIP, and in what stands in.

    Where no network is asked for and Inception is not there, its teacher is the first to stand in,
    and pixels are next.
    """
    config = config_lib.resolve(
        {
            "dataset_name": "digits",
            "save_dir": str(tmp_path / "run"),
            "batch_size": 40,
            "max_steps": 1,
            "drift.n_neg": 4,
            "drift.n_pos": 4,
            "drift.bank_per_class": 8,
            "encoder.name": "vit",
            "encoder.path": f"siglip2:{siglip}",
            "encoder.layers": "pooled",
            "encoder.cache": "off",
            "model.name": "mlp",
            "model.hidden_size": 16,
            "model.depth": 1,
            "optim.schedule": "constant",
            "optim.warmup_steps": 0,
            "sample_interval": 0,
            "eval_interval": 0,
        }
    )
    parts = drift.build(config, data.load("digits"), sharding.make_mesh(1, 1))
    drift.train(parts, drift.open_run(config))

    own, other = f"vit:siglip2:{siglip}", "pixels"
    monkeypatch.setattr(load_reference, "default_network", inception_is_usual)
    monkeypatch.setitem(networks.NETWORKS, "inception", out_of_reach)
    monkeypatch.setattr(networks, "STAND_INS", (own, other))
    for features, teacher, distance, suffix in (
        (own, True, "fd_vit_siglip2_40", "_vit_siglip2_40"),
        ("", False, "fd_pixels", ""),
    ):
        words = [
            f"--load_dir={tmp_path / 'run'}",
            f"--features={features}",
            "--num_samples=40",
            "--metrics=fid,precision_recall,density_coverage",
        ]
        values = define_evaluation_flags(flags.FlagValues())
        evaluate_command.main(config_lib.parse(["eval_fid.py", *words], values))
        printed = capsys.readouterr()
        row = json.loads(printed.out.splitlines()[-1])
        assert row["judge_is_encoder"] is teacher
        stood_in = f"scores are of pixels, and not of {own}, which the run was trained in"
        assert (stood_in in printed.err) == (features == "")
        assert ("trained in the features of this very network" in printed.err) == teacher
        names = {f"{name}{suffix}" for name in ("precision", "recall", "density", "coverage")}
        names.add(distance)
        assert names <= set(row) and all(np.isfinite(row[name]) for name in names)
