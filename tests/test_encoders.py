"""Encoders with public weights, their files and how they are joined.

They are compared with golden data of transformers and timm, finite differences and naive code.
"""

import dataclasses
import json
import os
import pathlib
import pickle
import sys
import types

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from weight_rule import draw, torch_tensors

from models.efficientnet import VARIANTS, EfficientNetLite, Variant
from models.encoders import (
    ENCODERS,
    FrozenEncoder,
    encoder_of_set,
    join_sources,
    load_encoder,
    make_set_weight,
    options_from_flags,
    split_sources,
    takes_pixels,
)
from models.encoders.convnextv2 import ConvNextV2
from models.encoders.dinov2 import Dinov2, cubic_matrix, resize_positions
from models.encoders.resnet import RESNETS, ResNet
from models.frozen_layers import IMAGENET_MEAN, IMAGENET_STD
from models.standin import load_shapes as load_shapes_of
from models.vit import PUBLIC_MODELS, build
from utils import config as config_lib
from utils.errors import UserError
from utils.weight_files.tensors import expected_shapes, match, read_tensors, rename, strip_prefix

GOLDEN = pathlib.Path(__file__).parent / "golden"


def golden(name):
    """Returns (tensors by the weight rule, config, recorded arrays in NHWC)."""
    spec = json.loads((GOLDEN / name / "spec.json").read_text())
    tensors = {}
    for key, shape in spec["tensors"].items():
        tensors[key] = draw(key, tuple(shape), spec["weight_seed"], spec["gain"])
    recorded = {}
    for key, value in np.load(GOLDEN / name / "io.npz").items():
        if key.endswith("_nchw"):
            value = value.transpose(0, 2, 3, 1)
        recorded[key.removesuffix("_nchw")] = value
    return tensors, spec["config"], recorded


def run(model, tensors, images, ignore=()):
    shapes = expected_shapes(model, images.shape)
    return jax.jit(model.apply)({"params": match(tensors, shapes, "golden", ignore)}, images)


def close(actual, expected, tolerance=1e-4):
    np.testing.assert_allclose(actual, expected, atol=tolerance * np.abs(expected).max())


TINY_LITE = Variant(32, depths=(1, 2, 1, 1, 1, 1, 1), channels=(8, 8, 8, 16, 16, 16, 16))
TINY_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
TINY = {
    "dinov2": (Dinov2(64, 2, 1, 14, 5, 0, None), 28),
    "dinov2_registers": (Dinov2(64, 2, 1, 14, 5, 2, None), 28),
    "convnextv2": (ConvNextV2((1, 2, 1, 1), (4, 8, 8, 8), None), 32),
    "resnet18": (ResNet((1, 2, 1, 1), False, 4, None), 32),
    "resnet50": (ResNet((1, 2, 1, 1), True, 4, None), 32),
    "efficientnet": (EfficientNetLite(TINY_LITE), 32),
    "vit": (build(**TINY_VIT), 32),
}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """tiny(name) -> the source of a small encoder, its weights in a file as if published."""

    def make(name):
        model, size = TINY[name]
        encoder = name.removesuffix("_registers")
        if encoder.startswith("resnet"):
            monkeypatch.setitem(RESNETS, encoder, model)
        path = tmp_path / f"{name}.safetensors"
        safetensors.numpy.save_file(torch_tensors(model, size), path)
        if name == "efficientnet":
            monkeypatch.setitem(VARIANTS, "lite0", TINY_LITE)
        if name == "vit":
            small = dataclasses.replace(PUBLIC_MODELS["mae"], config=TINY_VIT)
            monkeypatch.setitem(PUBLIC_MODELS, "mae", small)
            return f"vit:mae:{path}"
        return f"{encoder}:{path}"

    return make


# ---- the architectures ----


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_golden_resnet(name):
    tensors, _, io = golden(name)
    maps = run(RESNETS[name], tensors, io["pixel_values"], ("fc.*", "*.num_batches_tracked"))
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        close(maps[stage], io[stage])
    close(maps["pooled"][:, 0], io["pooled"])


def test_golden_convnextv2():
    tensors, config, io = golden("convnextv2_tiny")
    model = ConvNextV2(tuple(config["depths"]), tuple(config["hidden_sizes"]), None)
    maps = run(model, tensors, io["pixel_values"])
    close(maps["embeddings"], io["stage_0"])
    for stage in range(1, 5):
        close(maps[f"stage{stage}"], io[f"stage_{stage}"])
    close(maps["pooled"][:, 0], io["pooled"])


def test_golden_dinov2_from_a_file_with_the_published_names(tmp_path):
    """56 x 84 pixels: position embeddings of 37 x 37 are interpolated to 4 x 6."""
    tensors, _, io = golden("dinov2_small")
    published = {
        ".attention.q_proj.": ".attention.attention.query.",
        ".attention.k_proj.": ".attention.attention.key.",
        ".attention.v_proj.": ".attention.attention.value.",
        ".attention.o_proj.": ".attention.output.dense.",
    }
    tensors = {f"dinov2.{name}": value for name, value in rename(tensors, published).items()}
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    encode, params, _ = load_encoder(
        f"dinov2:{tmp_path}",
        image_size=(56, 84),
        names=("layer3", "layer11", "cls", "patches"),
        statistics=("map",),
    )
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    sets = jax.jit(encode)(params, (io["pixel_values"] * std + mean) * 2 - 1)
    assert set(sets) == {"layer3", "layer11", "cls", "patches"}
    close(np.concatenate([sets["cls"], sets["patches"]], 1), io["last_hidden_state"])
    for layer in ("3", "11"):
        close(sets[f"layer{layer}"], io[f"hidden_{layer}"][:, 1:])


def test_cubic_matrix():
    """The cubic with a = -0.75, at half and at quarter distances, by hand; borders are repeated."""
    half = [-0.09375, 0.59375, 0.59375, -0.09375]
    np.testing.assert_allclose(cubic_matrix(4, 2)[0], [half[0] + half[1], *half[2:], 0])
    # The sample lies 1/4 right of its second neighbour.
    quarter = [-0.10546875, 0.87890625, 0.26171875, -0.03515625]
    np.testing.assert_allclose(cubic_matrix(4, 8)[3], quarter)


@pytest.mark.parametrize("antialias", [False, True])
def test_positions_of_the_trained_grid_are_untouched(antialias):
    positions = np.random.default_rng(0).normal(size=(5, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(resize_positions(positions, (5, 5), antialias), positions, atol=1e-6)
    constant = resize_positions(np.ones((5, 5, 1), np.float32), (2, 7), antialias)
    np.testing.assert_allclose(constant, np.ones((2, 7, 1)), atol=1e-6)


def test_registers_take_part_and_have_no_position(tiny):
    encode, params, _ = load_encoder(
        tiny("dinov2_registers"),
        image_size=28,
        names=("cls", "registers", "patches"),
        statistics=("map",),
    )
    x = np.random.default_rng(0).uniform(-1, 1, (1, 28, 28, 3)).astype(np.float32)
    run = jax.jit(encode)
    sets = run(params, x)
    shapes = {name: value.shape for name, value in sets.items()}
    assert shapes == {"cls": (1, 1, 64), "registers": (1, 2, 64), "patches": (1, 4, 64)}
    tokens = params["embeddings.register_tokens"]
    swapped = run(params | {"embeddings.register_tokens": tokens[:, ::-1]}, x)
    close(swapped["registers"], sets["registers"][:, ::-1])
    close(swapped["cls"], sets["cls"])
    changed = run(params | {"embeddings.register_tokens": 5 * tokens}, x)
    assert not np.allclose(changed["cls"], sets["cls"], atol=1e-3)


def test_frozen_batch_norm_against_its_definition():
    module = ResNet((1, 1, 1, 1), False, 4, None)
    tensors = torch_tensors(module, 32)
    x = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    kernel = tensors["conv1.weight"].transpose(2, 3, 1, 0)
    axes = ("NHWC", "HWIO", "NHWC")
    padding = ((3, 3), (3, 3))
    y = jax.lax.conv_general_dilated(x, kernel, (2, 2), padding, dimension_numbers=axes)
    names = ("weight", "bias", "running_mean", "running_var")
    weight, bias, mean, var = (tensors[f"bn1.{name}"] for name in names)
    expected = np.maximum((y - mean) / np.sqrt(var + 1e-5) * weight + bias, 0)
    close(run(module, tensors, x)["conv1"], expected, 1e-5)


# ---- gradients ----


@pytest.mark.parametrize("name", list(TINY))
def test_gradient_to_the_image(name, tiny):
    """Through resizing, normalisation, network and statistics, in float64.

    It is compared with a central difference along a random direction.
    """
    encode, params, _ = load_encoder(
        tiny(name),
        names=("*",),
        statistics=("map", "mean", "std"),
        patch_sizes=(2,),
        image_size=TINY[name][1],
    )
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), params)
        x, direction = (jnp.asarray(a) for a in rng.uniform(-1, 1, (2, 1, 20, 24, 3)))

        @jax.jit
        @jax.value_and_grad
        def projection(x):
            sets = encode(params, x)
            assert all(y.dtype == jnp.float64 for y in sets.values())
            total = 0
            for y in sets.values():
                weights = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
                total += jnp.sum(y * weights)
            return total

        up, down = projection(x + 1e-7 * direction)[0], projection(x - 1e-7 * direction)[0]
        slope = (up - down) / 2e-7
        exact = jnp.sum(projection(x)[1] * direction)
        assert abs(slope) > 1e-3
        np.testing.assert_allclose(exact, slope, rtol=1e-5)


# ---- the contract ----


def test_none_is_the_flattened_sample():
    encode, params, metadata = load_encoder("none")
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 5)).astype(np.float32)
    sets = encode(params, x.astype(jnp.bfloat16))
    assert set(sets) == {"global"} and sets["global"].dtype == jnp.float32
    np.testing.assert_array_equal(encode(params, x)["global"], x.reshape(2, 1, -1))
    assert encoder_of_set("global", metadata) == "none"


def test_whitened_samples_vary_alike_in_all_directions():
    """But for the softening; directions that hardly vary are left out."""
    random = np.random.default_rng(0)
    turn = np.linalg.qr(random.normal(size=(12, 12)))[0]
    deviations = np.array([3, 2, 1, 1, *np.geomspace(0.1, 0.01, 8)])  # four hold 95%
    samples = (random.normal(size=(4000, 12)) * deviations @ turn + 0.3).astype(np.float32)
    samples = samples.reshape(-1, 2, 3, 2)
    encode, params, _ = load_encoder("none+whiten", samples=lambda: samples)
    sets = encode(params, jnp.asarray(samples))
    assert {name: value.shape[1:] for name, value in sets.items()} == {
        "global": (1, 12),
        "white": (1, 4),
    }
    white = np.asarray(sets["white"])[:, 0]
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)
    softened = deviations + 0.5 * np.sqrt(np.mean(deviations**2))
    covariance = np.diag((deviations / softened)[:4] ** 2)
    np.testing.assert_allclose(np.cov(white, rowvar=False), covariance, atol=0.02)

    with pytest.raises(UserError, match="fitted on training data"):
        load_encoder("whiten")
    with pytest.raises(UserError, match="12,288 numbers, and it takes at most 4,096"):
        load_encoder("whiten", samples=lambda: np.zeros((2, 64, 64, 3), np.float32))


def test_contrast_is_the_deviation_in_each_window():
    """Of 28 pixels 7 windows, of 8 four, of 15 five; a prime side is one window."""
    images = np.random.default_rng(0).uniform(-1, 1, (3, 28, 15, 2)).astype(np.float32)
    encode, params, _ = load_encoder("none+contrast")
    found = encode(params, jnp.asarray(images))["contrast"]
    windows = images.reshape(3, 7, 4, 5, 3, 2)
    np.testing.assert_allclose(
        found, np.sqrt(windows.var((2, 4)) + 1e-4).reshape(3, 1, 70), rtol=1e-5
    )
    for size, number in ((8, 16), (32, 64), (31, 1)):
        flat = jnp.zeros((1, size, size, 1))
        total, gradient = jax.value_and_grad(lambda x: encode(params, x)["contrast"].sum())(flat)
        assert total == pytest.approx(0.01 * number) and not gradient.any()
    with pytest.raises(UserError, match="a single place"):
        encode(params, jnp.zeros((1, 1, 1, 9)))
    with pytest.raises(UserError, match="has no weights"):
        load_encoder("contrast:/some/file")


def test_composition(tiny):
    dino, resnet = tiny("dinov2"), tiny("resnet18")
    options = {
        "image_size": {"dinov2": 28, "resnet18": 32},
        "names": {"dinov2": ("cls",), "resnet18": ("layer[34]",)},
        "statistics": ("mean",),
        "patch_sizes": (),
    }
    x = np.random.default_rng(0).uniform(-1, 1, (2, 28, 28, 3)).astype(np.float32)
    encode, params, metadata = load_encoder(f"none+{dino}+{resnet}", **options)
    sets = jax.jit(encode)(params, x)
    assert set(sets) == {"global", "dinov2/cls", "resnet18/layer3_mean", "resnet18/layer4_mean"}
    owners = [encoder_of_set(name, metadata) for name in sorted(sets)]
    assert owners == ["dinov2", "none", "resnet18", "resnet18"]
    for source, name in [(dino, "dinov2"), (resnet, "resnet18")]:
        encode, params, _ = load_encoder(source, **options)
        for key, value in jax.jit(encode)(params, x).items():
            close(sets[f"{name}/{key}"], value, 1e-6)
    # With only the raw sample beside it an encoder's sets keep their names.
    encode, params, metadata = load_encoder(f"none+{dino}", **options)
    sets = jax.eval_shape(encode, params, x)
    assert set(sets) == {"global", "cls"} and encoder_of_set("cls", metadata) == "dinov2"


def test_latents_reach_a_pixel_encoder_through_the_decoder(tiny):
    source = tiny("dinov2")
    kernel = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)

    def decode(kernel, z):
        return jnp.tanh(jax.image.resize(z, (z.shape[0], 28, 28, 4), "nearest") @ kernel)

    options = {"image_size": 28, "names": {"dinov2": ("cls",)}}
    encode, params, _ = load_encoder(f"none+{source}", decode=(decode, kernel), **options)
    pixels, pixel_params, _ = load_encoder(source, **options)
    z = np.random.default_rng(1).normal(size=(2, 7, 7, 4)).astype(np.float32)
    sets = jax.jit(encode)(params, z)
    np.testing.assert_array_equal(sets["global"], z.reshape(2, 1, -1))
    close(sets["cls"], jax.jit(pixels)(pixel_params, decode(kernel, z))["cls"])
    gradient = jax.jit(jax.grad(lambda z: (encode(params, z)["cls"] ** 2).sum()))(z)
    assert (np.abs(gradient).max((1, 2, 3)) > 0).all()


def test_grey_images_are_three_equal_channels(tiny):
    encode, params, _ = load_encoder(tiny("resnet18"), names=("layer4",), image_size=32)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 1)).astype(np.float32)
    run = jax.jit(encode)
    for name, value in run(params, x.repeat(3, -1)).items():
        close(run(params, x)[name], value, 1e-6)


def test_convnext_locations_are_standardised(tiny):
    encode, params, _ = load_encoder(tiny("convnextv2"), image_size=64)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    sets = jax.jit(encode)(params, x)
    assert {"stage1_mean", "stage1_std", "stage2", "stage4", "pooled"} <= set(sets)
    assert "stage1" not in sets
    np.testing.assert_allclose(sets["stage2"].mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(sets["stage2"].std(-1), 1, atol=0.05)


def test_split_sources(tmp_path):
    folder = tmp_path / "a+b"
    folder.mkdir()
    assert split_sources("dinov2+mae") == [("dinov2", ""), ("mae", "")]
    assert split_sources(f"mae:{folder}+none") == [("mae", str(folder)), ("none", "")]
    assert split_sources(folder) == [("mae", str(folder))]
    assert split_sources("hf://mae_latent_640+convnextv2:base") == [
        ("mae", "hf://mae_latent_640"),
        ("convnextv2", "base"),
    ]
    wrong = [("dino", "dino"), ("none+none", "twice"), ("", "neither"), (tmp_path / "x", "neither")]
    for source, word in wrong:
        with pytest.raises(UserError, match=word):
            split_sources(source)


def test_a_new_encoder_is_one_file_and_one_line(monkeypatch):
    """What joins, resizes and plans encoders asks the table and the file for everything else."""

    def halve(params, images):
        return {"half": params["factor"] * images}

    def load_shapes(name, source, bf16):
        factor = jax.ShapeDtypeStruct((), jnp.float32)
        return FrozenEncoder(halve, {"factor": factor}, 3, 8, ("*",), ("mean",), ())

    def load(name, source, bf16, sha256):
        shapes = load_shapes(name, source, bf16)
        return dataclasses.replace(shapes, params={"factor": jnp.float32(source)})

    file = types.ModuleType("models.encoders.halving")
    file.load, file.load_shapes = load, load_shapes
    monkeypatch.setitem(sys.modules, file.__name__, file)
    monkeypatch.setitem(ENCODERS, "halving", file.__name__)

    encode, params, _ = load_encoder("none+halving:0.5")
    sets = encode(params, jnp.ones((2, 4, 4, 3)))
    assert set(sets) == {"global", "half_mean"} and takes_pixels("none+halving")
    np.testing.assert_allclose(sets["half_mean"], 0.5 * np.ones((2, 1, 3)))
    assert load_shapes_of("halving")[1] == {"factor": jax.ShapeDtypeStruct((), jnp.float32)}


def test_join_sources():
    assert join_sources("dinov2+none+mae", "/a,,/b") == "dinov2:/a+none+mae:/b"
    assert join_sources("mae", "hf://mae_latent_640") == "mae:hf://mae_latent_640"
    assert join_sources("dinov2+mae", "") == "dinov2+mae"
    with pytest.raises(UserError, match="2 paths"):
        join_sources("mae", "/a,/b")
    for name in ("dinov2:base", "none+mae:runs/a", "hf://mae_latent_640"):
        with pytest.raises(UserError, match="--encoder.path"):
            join_sources(name, "")


@pytest.mark.parametrize(
    "name", ["dinov2_registers", "convnextv2", "resnet50", "efficientnet", "vit"]
)
def test_bfloat16_returns_float32(name, tiny):
    encode, params, _ = load_encoder(tiny(name), bf16=True, image_size=TINY[name][1])
    sets = jax.eval_shape(encode, params, jnp.zeros((1, 8, 8, 3)))
    assert all(value.dtype == jnp.float32 for value in sets.values())
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


# ---- files ----


def refused(source, *words, **options):
    """The encoder is refused in one line with these words."""
    with pytest.raises(UserError) as error:
        load_encoder(source, **options)
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_weights_of_another_architecture(tiny, tmp_path):
    source = tiny("resnet18")
    path = pathlib.Path(source.partition(":")[2])
    tensors = read_tensors(path)

    def change(changed):
        safetensors.numpy.save_file(changed, path)

    refused(f"dinov2:{path}", "embeddings.cls_token")
    refused(f"convnextv2:{path}", "embeddings.patch_embeddings.weight")
    change({k: v for k, v in tensors.items() if k != "layer3.0.bn2.running_var"})
    refused(source, "lacks", "layer3.0.bn2.running_var")
    change(tensors | {"layer2.0.conv1.weight": tensors["layer2.0.conv1.weight"][:, :-1]})
    refused(source, "layer2.0.conv1.weight", "[8, 3, 3, 3]", "[8, 4, 3, 3]")
    change(tensors | {"layer5.0.conv1.weight": tensors["conv1.weight"]})
    refused(source, "unexpected", "layer5.0.conv1.weight")
    change({k: v for k, v in torch_tensors(*TINY["dinov2"]).items() if "layer.1.mlp" not in k})
    refused(f"dinov2:{path}", "lacks", "encoder.layer.1.mlp.fc1")


def test_damaged_files(tiny, tmp_path):
    source = tiny("resnet18")
    path = pathlib.Path(source.partition(":")[2])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(source, "truncated", str(path))
    refused(f"resnet18:{tmp_path / 'absent.safetensors'}", "no weights at")
    for name in ("w.npz", "w.msgpack", "w.pth"):
        (tmp_path / name).write_bytes(whole[:1000])
        refused(f"resnet18:{tmp_path / name}", name)


def test_checksums(tiny, tmp_path):
    source = tiny("resnet18")
    refused(source, "SHA-256", sha256="0123456789abcdef")
    # PyTorch writes the start of the checksum into the name.
    named = tmp_path / "resnet18-f37072fd.pth"
    named.write_bytes(b"something else")
    refused(f"resnet18:{named}", "SHA-256", "f37072fd")
    dated = tmp_path / "resnet18-20231105.pth"
    dated.write_bytes(b"something else")
    refused(f"resnet18:{dated}", "resnet18-20231105.pth is damaged")


def test_a_pth_with_code_is_not_run(tmp_path):
    witness = tmp_path / "executed"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(witness),)

    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"layer1.0.conv1.weight": Attack()}))
    refused(f"resnet18:{path}", str(path), "mkdir", "not run")
    assert not witness.exists()


def test_no_network(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("unreachable")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    refused("dinov2", "facebook/dinov2-small", "PATH")
    refused("dinov2:hf://someone/else", "someone/else")
    refused("hf://mae_latent_640", "mae_latent_640")


def test_a_contrastive_checkpoint_loses_its_prefix(tiny, tmp_path):
    source = tiny("resnet18")
    tensors = read_tensors(source.partition(":")[2])
    moco = {f"state_dict.module.encoder_k.{k}": v * 0 for k, v in tensors.items()}
    moco |= {f"state_dict.module.encoder_q.{k}": v for k, v in tensors.items()}
    moco |= {
        "state_dict.module.encoder_q.fc.0.weight": np.ones((4, 4)),
        "state_dict.module.queue": np.ones((4, 8)),
        "epoch": np.array(3),
    }
    path = tmp_path / "moco.npz"
    np.savez(path, **moco)
    params = load_encoder(f"resnet18:{path}")[1]
    jax.tree.map(np.testing.assert_array_equal, params, load_encoder(source)[1])
    with pytest.raises(UserError, match="layer1.0.conv1.weight"):
        strip_prefix({"a": np.ones(1)}, "layer1.0.conv1.weight", "x")


def test_half_precision_weights_become_float32(tiny, tmp_path):
    path = pathlib.Path(tiny("dinov2").partition(":")[2])
    half = {k: v.astype(jnp.bfloat16) for k, v in read_tensors(path).items()}
    safetensors.numpy.save_file(half, tmp_path / "half.safetensors")
    params = load_encoder(f"dinov2:{tmp_path / 'half.safetensors'}")[1]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    np.testing.assert_array_equal(
        params["embeddings.cls_token"], half["embeddings.cls_token"].astype(np.float32)
    )


def test_wrong_calls(tiny):
    source = tiny("dinov2")
    refused(source, "nmaes", nmaes=("cls",))
    refused("mae", "mae:FOLDER")
    encode, params, _ = load_encoder(source, image_size=30)
    with pytest.raises(UserError, match="30x30.*14"):
        encode(params, jnp.zeros((1, 28, 28, 3)))
    with pytest.raises(UserError, match="3 channels, given 4"):
        encode(params, jnp.zeros((1, 28, 28, 4)))
    encode, params, _ = load_encoder(source, image_size=28, names=("layer7",))
    with pytest.raises(UserError, match="layer7.*layer1, layer2"):
        encode(params, jnp.zeros((1, 28, 28, 3)))


# ---- flags ----


def flags(**changes):
    """The group `encoder` of the configuration with these flags."""
    given = {f"encoder.{flag}": value for flag, value in changes.items()}
    return config_lib.resolve({"recipe": "none"} | given).encoder


def test_options_by_flags():
    assert options_from_flags(flags(name="dinov2")) == {
        "names": {},
        "statistics": {},
        "patch_sizes": {},
        "image_size": {},
    }
    chosen = options_from_flags(
        flags(
            name="none+mae+dinov2",
            layers="+layer3*,!conv1+cls",
            statistics="+map,mean",
            patch_sizes="+none",
            image_size="++98",
            bf16="on",
        )
    )
    assert chosen == {
        "names": {"mae": ("layer3*", "!conv1"), "dinov2": ("cls",)},
        "statistics": {"mae": ("map", "mean")},
        "patch_sizes": {"mae": ()},
        "image_size": {"dinov2": 98},
        "bf16": True,
    }
    wrong = [
        ({"layers": "a+b"}, "for 2 encoders"),
        ({"patch_sizes": "2,x"}, "sizes such as 2,4"),
        ({"image_size": "0"}, "a side in pixels"),
        ({"name": "none", "layers": "x"}, "nothing to choose"),
    ]
    for changes, words in wrong:
        with pytest.raises(UserError, match=words):
            options_from_flags(flags(**{"name": "mae"} | changes))


def test_weights_by_flags():
    weight = make_set_weight(flags(name="none+mae+dinov2", weights="1,0.5,2"))
    assert [weight(name) for name in ("global", "mae/layer1", "dinov2/cls")] == [1, 0.5, 2]
    assert make_set_weight(flags(name="none+mae", weights="1,3"))("layer1_mean") == 3
    assert make_set_weight(flags(name="mae", weights="2"))("norm_x") == 2
    for given in ("1,2", "0", "x", "nan", ""):
        with pytest.raises(UserError, match="--encoder.weights"):
            make_set_weight(flags(name="mae", weights=given))
