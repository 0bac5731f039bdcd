"""The published artifact format: names, bytes, and every way a folder can be wrong."""

import json
import pathlib
import shutil

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization, traverse_util

from models.dit import DiT
from models.mlp import MLPGenerator
from models.published_names import generator_names, to_published
from models.weights import (
    generator_shapes,
    load_generator,
    save_generator,
)
from utils.errors import UserError

GOLDEN = pathlib.Path(__file__).parent / "golden"
ARTIFACTS = ["latent_tiny", "pixel_tiny", "plain_tiny"]


def restore(folder):
    """Returns the artifact's tensors by their published names."""
    tree = serialization.msgpack_restore((folder / "ema_params.msgpack").read_bytes())
    return traverse_util.flatten_dict(tree, sep="/")


def assert_same_params(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", ARTIFACTS)
def test_saving_gives_back_the_published_file(name, tmp_path):
    model, params, metadata = load_generator(GOLDEN / name)
    save_generator(tmp_path / "new", model, params, metadata)
    published, ours = restore(GOLDEN / name), restore(tmp_path / "new")
    assert list(ours) == list(published)
    for key, value in published.items():
        assert ours[key].dtype == value.dtype and ours[key].shape == value.shape, key
        assert ours[key].tobytes() == value.tobytes(), key
    assert json.loads((tmp_path / "new/metadata.json").read_text()) == metadata


def test_own_fields_and_bfloat16_survive(tmp_path):
    published, _, _ = load_generator(GOLDEN / "pixel_tiny")
    own = {"null_class": True, "clip_output": True, "clip_margin": 0.25, "refine_channels": 3}
    own["antialias"] = 0.25
    model = published.clone(remat=True, input_size=(16, 8), **own)
    rng = np.random.default_rng(0)
    leaves = {}
    for name, shape in generator_shapes(model).items():
        leaves[name] = jnp.asarray(rng.standard_normal(shape), jnp.bfloat16)
    params = traverse_util.unflatten_dict(leaves, sep="/")
    save_generator(tmp_path, model, params, {"step": 7})
    again, restored, metadata = load_generator(tmp_path)
    assert again == model and metadata["step"] == 7 and metadata["kind"] == "gen"
    assert_same_params(restored, params)


def test_running_options_are_not_part_of_an_artifact(tmp_path):
    model, params, _ = load_generator(GOLDEN / "pixel_tiny")
    fast = model.clone(attention="cudnn", use_bf16=True, attn_fp32=False, zero_init_output=True)
    save_generator(tmp_path, fast, params, {})
    assert load_generator(tmp_path)[0] == model.clone(use_bf16=True, attn_fp32=False)


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (GOLDEN / "official_specs").glob("gen_*.json"))
)
def test_names_and_shapes_of_the_published_sizes(name):
    spec = json.loads((GOLDEN / "official_specs" / f"{name}.json").read_text())
    config = dict(spec["model_config"], num_classes=spec["num_classes"])
    model = DiT(remat=config.pop("use_remat", False), **config)
    zeros = {}
    for key, shape in generator_shapes(model).items():
        zeros[key] = np.broadcast_to(np.float32(0), shape)  # it takes no memory
    params = traverse_util.unflatten_dict(zeros, sep="/")
    tensors = to_published(params, generator_names(model))
    assert {key: list(value.shape) for key, value in tensors.items()} == spec["tensors"]


def test_hub_names(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(repo_id, allow_patterns):
        asked.update(repo_id=repo_id, allow_patterns=allow_patterns)
        shutil.copytree(
            GOLDEN / "plain_tiny", tmp_path / "models/gen/jax/small", dirs_exist_ok=True
        )
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert_same_params(load_generator("hf://small")[1], load_generator(GOLDEN / "plain_tiny")[1])
    assert asked == dict(repo_id="Goodeat/drifting", allow_patterns=["models/gen/jax/small/*"])
    assert_user_error("hf://other", "no folder models/gen/jax/other")


def test_hub_out_of_reach(monkeypatch):
    def snapshot_download(*args, **kwargs):
        raise ConnectionError("several\nlines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert_user_error("hf://small", "ConnectionError", "models/gen/jax/small", "give its path")


# ---- mistakes ----


def assert_user_error(source, *words):
    """The generator is refused in one line with these words."""
    with pytest.raises(UserError) as error:
        load_generator(source)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.fixture
def artifact(tmp_path):
    return pathlib.Path(shutil.copytree(GOLDEN / "plain_tiny", tmp_path / "artifact"))


def edit_tensors(folder, edit):
    """Writes the artifact's tensors again after edit(tensors) changed them."""
    tensors = restore(folder)
    edit(tensors)
    tree = traverse_util.unflatten_dict(tensors, sep="/")
    (folder / "ema_params.msgpack").write_bytes(serialization.msgpack_serialize(tree))


def edit_metadata(folder, **changes):
    """Changes the metadata, and returns the model_config that they had."""
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps(metadata | changes))
    return metadata["model_config"]


KERNEL = "LightningDiT_0/blocks_1/Attention_0/TorchLinear_0/Dense_0/kernel"


def test_missing_tensor(artifact):
    edit_tensors(artifact, lambda tensors: tensors.pop(KERNEL))
    assert_user_error(artifact, "ema_params.msgpack", f"no tensor {KERNEL}")


def test_tensor_of_another_shape(artifact):
    edit_tensors(artifact, lambda tensors: tensors.update({KERNEL: tensors[KERNEL].T}))
    assert_user_error(artifact, KERNEL, "(96, 32)", "(32, 96)")


def test_tensor_without_a_place(artifact):
    edit_tensors(
        artifact, lambda tensors: tensors.update({"LightningDiT_0/blocks_2/extra": np.zeros(3)})
    )
    assert_user_error(artifact, "LightningDiT_0/blocks_2/extra")


def test_config_of_another_model(artifact):
    config = edit_metadata(artifact)
    edit_metadata(artifact, model_config=config | {"depth": 3})
    assert_user_error(artifact, "no tensor LightningDiT_0/blocks_2/")
    edit_metadata(artifact, model_config=config | {"depth": 1})
    assert_user_error(artifact, "LightningDiT_0/blocks_1/")
    edit_metadata(artifact, model_config=config | {"dept": 2})
    assert_user_error(artifact, "metadata.json", "unknown: dept")
    del config["depth"]
    edit_metadata(artifact, model_config=config)
    assert_user_error(artifact, "metadata.json", "missing: depth")


def test_encoder_instead_of_generator(artifact):
    edit_metadata(artifact, kind="mae")
    assert_user_error(artifact, "is an encoder, but a generator is needed")


@pytest.mark.parametrize("end", [0, 10, 1000, -1])
def test_truncated_parameters(artifact, end):
    file = artifact / "ema_params.msgpack"
    file.write_bytes(file.read_bytes()[:end])
    assert_user_error(artifact, str(file), "cut short")


def test_missing_files(artifact):
    (artifact / "ema_params.msgpack").unlink()
    assert_user_error(artifact, "has no ema_params.msgpack")
    (artifact / "metadata.json").unlink()
    assert_user_error(artifact, "has no metadata.json")
    assert_user_error(artifact / "nowhere", "is not a folder")


@pytest.mark.parametrize(
    "text, words",
    [("{", "not JSON"), ("[]", "no model_config"), ('{"kind": "gen"}', "no model_config")],
)
def test_broken_metadata(artifact, text, words):
    (artifact / "metadata.json").write_text(text)
    assert_user_error(artifact, "metadata.json", words)


def test_saving_needs_the_models_own_params(tmp_path):
    model, params, _ = load_generator(GOLDEN / "plain_tiny")
    with pytest.raises(UserError, match="expects blocks/"):
        save_generator(tmp_path, model.clone(depth=5), params, {})
    with pytest.raises(UserError, match="it has no extra"):
        save_generator(tmp_path, model, params | {"extra": jnp.zeros(3)}, {})
    mlp = MLPGenerator(
        cond_dim=8,
        num_classes=1,
        noise_classes=0,
        noise_coords=1,
        sample_shape=(2,),
        hidden_size=8,
        depth=1,
        mlp_ratio=1.0,
        use_bf16=False,
    )
    with pytest.raises(UserError, match="not MLPGenerator"):
        save_generator(tmp_path, mlp, {}, {})
    assert not list(tmp_path.iterdir())
