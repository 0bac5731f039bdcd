"""The VAE against activations recorded from diffusers, and its files, right and wrong ones."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from conftest import ROOT
from weight_rule import draw

from models.vae import CONFIG, WEIGHTS, load_vae
from utils.errors import UserError

GOLDEN = ROOT / "tests" / "golden"
OLD = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def spec_of(name):
    return json.loads((GOLDEN / name / "spec.json").read_text())


def tensors_of(spec):
    """Returns the weights of a golden VAE, which are drawn by rule."""
    return {
        key: draw(key, tuple(shape), spec["weight_seed"], spec["gain"])
        for key, shape in spec["tensors"].items()
    }


def write(folder, config, tensors):
    """Writes a folder as diffusers does, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps({"_class_name": "AutoencoderKL"} | config))
    safetensors.numpy.save_file(tensors, folder / WEIGHTS)
    return folder


@pytest.fixture(scope="module")
def tiny():
    spec = spec_of("vae_tiny")
    return spec["config"], tensors_of(spec)


def nhwc(a):
    return a.transpose(0, 2, 3, 1)


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, nhwc(expected), rtol=0, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("name, n", [("vae_tiny", 2), ("vae_sd", 1)])
def test_reproduces_diffusers(name, n, tmp_path):
    """n: samples taken of the recorded ones; one is enough for the large network."""
    spec = spec_of(name)
    vae, params = load_vae(write(tmp_path, spec["config"], tensors_of(spec)))
    with np.load(GOLDEN / name / "io.npz") as file:
        io = {key: file[key][:n] for key in file.files}
    mean, logvar = jax.jit(vae.encode)(params, nhwc(io["images_nchw"]))
    assert_close(mean, io["latent_mean_nchw"])
    assert_close(logvar, io["latent_logvar_nchw"])
    assert_close(jax.jit(vae.decode)(params, nhwc(io["z_nchw"])), io["decoded_nchw"])
    assert vae.scaling_factor == 0.18215
    assert vae.reduction == 2 ** (len(spec["config"]["block_out_channels"]) - 1)


def test_reads_what_diffusers_writes():
    """A folder of its `save_pretrained` with random weights, and what its own loader then gave.

    The versions are in io.npz.
    """
    folder = GOLDEN / "vae_diffusers"
    vae, params = load_vae(folder)
    with np.load(folder / "io.npz") as io:
        mean, logvar = jax.jit(vae.encode)(params, nhwc(io["images_nchw"]))
        assert_close(mean, io["latent_mean_nchw"])
        assert_close(logvar, io["latent_logvar_nchw"])
        assert_close(jax.jit(vae.decode)(params, nhwc(io["z_nchw"])), io["decoded_nchw"])


def test_older_names_half_precision_and_a_subfolder(tiny, tmp_path):
    """The published files of Stable Diffusion 1 give the same parameters as new ones.

    They have the names query, key, value and proj_attn, 1x1 convolutions in the place of linear
    layers, float16, and lie in a pipeline's subfolder `vae`.
    """
    config, tensors = tiny
    new = {name: value.astype(np.float16) for name, value in tensors.items()}
    old = {}
    for name, value in new.items():
        for new_part, old_part in OLD.items():
            if new_part in name:
                name = name.replace(new_part, old_part)
                if value.ndim == 2:
                    value = value[..., None, None]
        old[name] = value
    assert sum(value.ndim == 4 and "attentions" in name for name, value in old.items()) == 8
    _, now = load_vae(write(tmp_path / "new", config, new))
    _, before = load_vae(write(tmp_path / "pipeline" / "vae", config, old).parent)
    jax.tree.map(np.testing.assert_array_equal, now, before)
    assert {leaf.dtype for leaf in jax.tree.leaves(now)} == {np.dtype("float32")}


def test_scaling_is_inverted(tiny, tmp_path):
    config, tensors = tiny
    config = config | {"scaling_factor": 0.5, "shift_factor": 0.1}
    vae, _ = load_vae(write(tmp_path, config, tensors))
    z = np.array([0.1, 2.1], np.float32)
    np.testing.assert_allclose(vae.scale(z), [0, 1], atol=1e-6)
    np.testing.assert_allclose(vae.unscale(vae.scale(z)), z, rtol=1e-6)


def test_wrong_files_are_one_line(tiny, tmp_path, monkeypatch):
    config, tensors = tiny

    def message(source):
        with pytest.raises(UserError) as caught:
            load_vae(source)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def broken(name, config=config, tensors=tensors):
        return write(tmp_path / name, config, tensors)

    assert "neither a folder nor a hub id" in message(tmp_path / "nowhere")
    assert CONFIG in message(tmp_path)
    assert "UNet" in message(broken("kind", {"_class_name": "UNet"}))
    block = "AttnDownEncoderBlock2D"
    assert block in message(broken("block", config | {"down_block_types": [block] * 2}))
    first = "encoder.conv_in.weight"
    others = {name: value for name, value in tensors.items() if name != first}
    assert first in message(broken("lacks", tensors=others))
    changed = tensors | {first: tensors[first][:, :1].copy()}
    assert first in message(broken("shape", tensors=changed))
    more = tensors | {"extra": np.zeros(3, np.float32)}
    assert "unexpected tensor extra" in message(broken("extra", tensors=more))
    (broken("no_json") / CONFIG).write_text("{")
    assert "not a JSON object" in message(tmp_path / "no_json")
    file = broken("cut") / WEIGHTS
    file.write_bytes(file.read_bytes()[:5000])
    assert "damaged or truncated" in message(tmp_path / "cut")
    (broken("pickle") / WEIGHTS).rename(tmp_path / "pickle" / "diffusion_pytorch_model.bin")
    assert "save the VAE with safetensors" in message(tmp_path / "pickle")

    import huggingface_hub

    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    assert "Offline, copy config.json" in message("stabilityai/sd-vae-ft-ema")


def test_wrong_shapes_are_named(tiny, tmp_path):
    vae, params = load_vae(write(tmp_path, *tiny))
    with pytest.raises(UserError, match=r"\[1, 33, 32, 3\]"):
        vae.encode(params, np.zeros((1, 33, 32, 3), np.float32))
    with pytest.raises(UserError, match="latents"):
        vae.decode(params, np.zeros((1, 8, 8, 3), np.float32))
