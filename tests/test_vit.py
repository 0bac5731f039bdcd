"""The Vision Transformer against golden data of timm, its public models, and its files."""

import dataclasses
import json
import pathlib
import re

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from weight_rule import draw

from models.encoders import load_encoder
from models.vit import PUBLIC_MODELS, build, count_parameters, load_vit, parameter_shapes
from utils.errors import UserError

GOLDEN = pathlib.Path(__file__).parent / "golden"

# The golden folders and the public models that they stand for.
RECORDED = {
    "vit_mae_tiny": "mae",
    "vit_clip_tiny": "clip",
    "vit_clip_quickgelu_tiny": "clip_quickgelu",
    "vit_siglip_tiny": "siglip2",
}


def read_spec(folder):
    return json.loads((GOLDEN / folder / "spec.json").read_text())


def golden_tensors(folder):
    """Returns the tensors of a golden folder, by the weight rule."""
    spec = read_spec(folder)
    return {
        key: draw(key, tuple(shape), spec["weight_seed"], spec["gain"])
        for key, shape in spec["tensors"].items()
    }


def golden_config(folder):
    """Returns the recorded configuration; the norm's epsilon is that of the public model."""
    spec = read_spec(folder)
    config = {key: value for key, value in spec["config"].items() if key != "norm_layer"}
    return config | {"norm_eps": spec["published"]["norm_eps"]}


@pytest.mark.parametrize("folder", RECORDED)
def test_golden_values_and_the_gradient_to_the_image(folder):
    """Tokens, pooled and blocks to 1e-4; the gradient against a difference quotient in float64."""
    model, params = load_vit(golden_tensors(folder), **golden_config(folder))
    recorded = dict(np.load(GOLDEN / folder / "io.npz"))
    pixels = recorded.pop("pixel_values_nchw").transpose(0, 2, 3, 1)
    apply = jax.jit(model.apply)

    outputs = apply({"params": params}, pixels)
    assert set(outputs) == set(recorded)
    for name, expected in recorded.items():
        np.testing.assert_allclose(
            outputs[name], expected, atol=1e-4 * np.abs(expected).max(), err_msg=name
        )

    with jax.enable_x64(True):
        exact_params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        random = np.random.default_rng(0)
        image = jnp.asarray(pixels[:1], jnp.float64)
        direction = jnp.asarray(random.normal(size=image.shape))

        def projection(image, params):
            outputs = model.apply({"params": params}, image)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(outputs))

        value_and_gradient = jax.jit(jax.value_and_grad(projection))
        above, below = (
            value_and_gradient(image + step * direction, exact_params)[0] for step in (1e-6, -1e-6)
        )
        slope = jnp.sum(value_and_gradient(image, exact_params)[1] * direction)
        assert abs(slope) > 1e-2
        np.testing.assert_allclose(slope, (above - below) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize("folder, name", RECORDED.items())
def test_golden_values_through_the_encoder(folder, name, tmp_path, monkeypatch):
    """The public model's place is taken by the small recorded one; images are not normalised."""
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(golden_tensors(folder), path)
    public = dataclasses.replace(PUBLIC_MODELS[name], config=golden_config(folder))
    monkeypatch.setitem(PUBLIC_MODELS, name, public)
    recorded = np.load(GOLDEN / folder / "io.npz")
    pixels = recorded["pixel_values_nchw"].transpose(0, 2, 3, 1)
    images = (pixels * np.array(public.std) + np.array(public.mean)) * 2 - 1

    encode, params, _ = load_encoder(f"vit:{name}:{path}", names=("*",), statistics=("map",))
    sets = jax.jit(encode)(params, images.astype(np.float32))
    expected = {f"block{i}": recorded[f"block{i}_patches"] for i in range(3)}
    expected["pooled"] = recorded["pooled"][:, None]
    expected["patches"] = recorded["tokens"][:, int(public.config.get("class_token", True)) :]
    assert set(sets) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(sets[key], value, atol=1e-4 * np.abs(value).max(), err_msg=key)


@pytest.mark.parametrize("folder, name", RECORDED.items())
def test_public_models_are_as_published(folder, name):
    """Sizes, normalisation, hub id, key names and the number of parameters, by shapes alone."""
    published, public = read_spec(folder)["published"], PUBLIC_MODELS[name]
    model = build(**public.config)
    assert count_parameters(model) == public.parameters == published["params"]
    assert public.timm_name == read_spec(folder)["like"]
    assert public.repository == published["hub"]
    assert list(public.mean) == published["cfg"]["mean"]
    assert list(public.std) == published["cfg"]["std"]
    assert [3, public.img_size, public.img_size] == published["cfg"]["input_size"]

    activations = {"GELU": "gelu", "QuickGELU": "quick_gelu", "GELUTanh": "gelu_tanh"}
    expected = {
        "act_layer": activations[published["act"]],
        "class_token": published["class_token"],
        "depth": published["depth"],
        "embed_dim": published["width"],
        "global_pool": published["global_pool"],
        "norm_eps": published["norm_eps"],
        "num_heads": published["heads"],
        "patch_size": int(re.findall(r"\d+", published["patch"])[0]),
        "pre_norm": published["pre_norm"],
    }
    assert {key: getattr(model, key) for key in expected} == expected
    shapes = parameter_shapes(model)
    assert shapes["pos_embed"].shape == (1, published["tokens"], published["width"])
    hidden = round(published["mlp"] * published["width"])
    assert shapes["blocks.*"]["mlp.fc1"]["bias"].shape == (published["depth"], hidden)


# ---- files -----------------------------------------------------------------------------------

SMALL = "vit_mae_tiny"


@pytest.fixture
def small_file(tmp_path):
    """A small model in a folder as timm publishes one, with a classifier beside the features."""
    tensors = golden_tensors(SMALL) | {"head.weight": np.zeros((3, 64), np.float32)}
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return path


def test_files_folders_and_arrays_give_the_same_parameters(small_file):
    config = golden_config(SMALL)
    _, expected = load_vit(golden_tensors(SMALL), **config)
    for source in (small_file, str(small_file.parent), f"mae:{small_file}"):
        model, params = load_vit(source, **config)
        assert (model.embed_dim, model.depth, model.norm_eps) == (64, 3, 1e-6)
        jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_folder_of_timm_says_which_model_it_is(small_file):
    """With its `config.json` no sizes are needed; this one claims to be CLIP and is not."""
    config = {
        "architecture": "vit_large_patch14_clip_224",
        "pretrained_cfg": {"tag": "openai"},
    }
    (small_file.parent / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"attn.proj.bias has the shape \[64\], expected \[1024\]"):
        load_vit(small_file.parent)


@pytest.mark.parametrize(
    "name, repository",
    [
        ("mae", "timm/vit_large_patch16_224.mae"),
        ("timm/vit_large_patch16_224.mae", "timm/vit_large_patch16_224.mae"),
        ("hf://timm/vit_large_patch16_224.mae", "timm/vit_large_patch16_224.mae"),
        (
            "vit_large_patch14_clip_quickgelu_224.openai",
            "timm/vit_large_patch14_clip_224.openai",
        ),
        ("hf://someone/else", "someone/else"),
    ],
)
def test_without_a_network_the_message_says_what_to_copy(name, repository, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    config = {"depth": 3} if "else" in name else {}
    with pytest.raises(UserError, match=f"cannot fetch {repository}.*copy model.safetensors"):
        load_vit(name, **config)


def test_the_hub_is_read_by_name(small_file, monkeypatch):
    asked = []

    def download(repository, filename):
        asked.append((repository, filename))
        return str(small_file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model, _ = load_vit("mae", **golden_config(SMALL))
    assert model.depth == 3
    assert asked == [("timm/vit_large_patch16_224.mae", "model.safetensors")]


@pytest.mark.parametrize(
    "config, words",
    [
        ({"act_layer": "swish"}, "act_layer swish: expected one of gelu"),
        ({"class_token": False}, "global_pool token needs a class token"),
        ({"depths": 3}, "depths is no size of a Vision Transformer; did you mean depth"),
        ({"global_pool": "avg"}, "global_pool avg: expected one of token, map"),
        ({"num_heads": 5}, "no multiple of num_heads 5"),
        ({"patch_size": 7}, "no multiple of patch_size 7"),
        ({"depth": 4}, "lacks the tensor blocks.3"),
        ({"depth": 2}, "unexpected tensor blocks.2"),
        ({"mlp_ratio": 3.0}, r"blocks.0.mlp.fc1.bias has the shape \[256\], expected \[192\]"),
    ],
)
def test_wrong_sizes_are_one_line(config, words):
    with pytest.raises(UserError, match=words):
        load_vit(golden_tensors(SMALL), **golden_config(SMALL) | config)


def test_unknown_sources_are_one_line(small_file):
    with pytest.raises(UserError, match="no Vision Transformer at siglip; did you mean siglip2"):
        load_vit("siglip")
    with pytest.raises(UserError, match="which Vision Transformer is it"):
        load_vit(small_file)


def test_images_of_another_size_are_refused():
    model, params = load_vit(golden_tensors(SMALL), **golden_config(SMALL))
    with pytest.raises(UserError, match="takes images of 32x32, given 32x40"):
        model.apply({"params": params}, np.zeros((1, 32, 40, 3), np.float32))
