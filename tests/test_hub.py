"""A run goes to the hub, here one on this machine, and comes back with the same samples."""

import json
import types

import fake_hub
import huggingface_hub
import huggingface_hub.constants
import numpy as np
import pytest
import safetensors.numpy
from test_eval import train
from test_web_page import with_exporter

from evaluation.export_command import export
from evaluation.fid_csv import append_row
from evaluation.hub_card import hub_name
from evaluation.hub_folder import without_paths
from evaluation.sample_command import load
from models.artifacts import read_artifact_tensors
from models.runs import is_run
from models.sampling import generate
from utils.errors import UserError

FLAGS = {"max_steps": 3, "eval_interval": 0, "save_interval": 3, "sample_interval": 0}
# As eval_fid.py writes it of such a run.
ROW = {"step": 3, "ema": "0.99", "cfg_scale": 1.0, "seed": 0, "num_samples": 540}
ROW |= {"features": "pixels", "reference": "digits:test", "fd_pixels": 43.27, "recall": 0.25}
ROW |= {"fd_pixels_error": 0.5}


def flags_of(run, **changes):
    """Returns the flags of scripts/export.py."""
    values = dict(load_dir=str(run), out="", step=0, ema="", seed=0, vae="", format="published")
    values |= dict(weights="float16", onnxruntime_web="", push="me/digits", space=False)
    return types.SimpleNamespace(**(values | {"license": ""} | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(FLAGS | {"save_dir": str(folder)})
    append_row(folder / "fid.csv", ROW)
    append_row(folder / "fid.csv", ROW | {"step": 2, "fd_pixels": 1.0})
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub of the test, to which the client has logged in."""
    constants = huggingface_hub.constants
    with fake_hub.running() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + template)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # another test may have set it
        monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
        yield server


def samples(source):
    model, params, _ = load(str(source), 0, "")
    labels = np.arange(20, dtype=np.int32) % model.num_classes
    return np.concatenate(list(generate(model, params, labels, 1.5, seed=3)))


def test_what_was_pushed_loads_back_to_the_same_samples(run, hub):
    line = export(flags_of(run, license="mit"))
    assert line == f"{hub.address}/me/digits: pushed; load it by --load_dir hf://me/digits"
    np.testing.assert_array_equal(samples("hf://me/digits"), samples(run))
    files = hub.repositories["models/me/digits"]
    assert sorted(files) == sorted(
        ["README.md", "config.json", "ema_params.msgpack", "metadata.json", "model.safetensors"]
        + ["samples/grid.png"]
    )
    assert hub.large_files and files["samples/grid.png"].startswith(b"\x89PNG")
    again = safetensors.numpy.load(files["model.safetensors"])
    published = read_artifact_tensors(run / "hub")
    assert again.keys() == published.keys()
    for name, tensor in published.items():
        np.testing.assert_array_equal(again[name], tensor)
    assert not is_run(run / "hub") and is_run(run)
    everything = files["config.json"] + files["metadata.json"] + files["README.md"]
    assert str(run.parent).encode() not in everything
    assert json.loads(files["config.json"])["save_dir"] == "digits"
    export(flags_of(run, license="mit"))  # once more: the repository is there


def test_the_card_has_the_scores_of_the_run(run, hub):
    export(flags_of(run))
    card = huggingface_hub.ModelCard.load(run / "hub" / "README.md")
    card.validate()
    assert card.data.license == "unknown" and "has not stated one" in card.text
    measured = {result.metric_type: result for result in card.data.eval_results}
    assert len(card.data.eval_results) == 2 and measured["recall"].dataset_name == "digits"
    assert measured["fd_pixels"].metric_value == 43.27
    settings = measured["fd_pixels"].metric_args
    assert settings["num_samples"] == 540 and settings["standard_error"] == 0.5
    assert "| fd_pixels | 43.27 ± 0.5 | 1 | 540 | pixels | digits:test |" in card.text
    assert "| max_steps | 3 | 2500 |" in card.text and "hf://me/digits" in card.text
    card.data.license = None
    with pytest.raises(ValueError, match="license"):
        card.validate()
    export(flags_of(run, ema="raw"))
    card = huggingface_hub.ModelCard.load(run / "hub" / "README.md")
    assert card.data.eval_results is None and "None yet at this step" in card.text


@pytest.mark.slow
def test_a_space_has_the_page(run, hub):
    with_exporter()
    try:
        line = export(flags_of(run, space=True, out=str(run.parent / "out")))
    except UserError as error:
        if "npm" not in str(error):
            raise
        pytest.skip(str(error))
    assert f"{hub.address}/spaces/me/digits" in line
    files = hub.repositories["spaces/me/digits"]
    assert {"index.html", "model.onnx", "page.js", "README.md"} <= files.keys()
    assert b"models:\n- me/digits" in files["README.md"] and b"sdk: static" in files["README.md"]


def test_what_cannot_be_pushed_is_one_line_and_written_all_the_same(run, hub, monkeypatch):
    def refused(*words, **changes):
        with pytest.raises(UserError) as error:
            export(flags_of(run, **changes))
        assert "\n" not in str(error.value)
        for word in words:
            assert word in str(error.value)

    refused("expected OWNER/NAME", push="digits")
    refused("--space 1", format="web")
    refused("holds a run", out=str(run))
    refused("is not the folder of a run", load_dir=str(run / "samples"))
    refused("--push OWNER/NAME", push="", out="x", space=True)
    refused('"license" must be', f"hf upload me/digits {run}/hub .", license="my-own")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused("is written, but not pushed", "401", "hf auth login")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("the hub is out of reach", f"run hf upload me/digits {run}/hub .")
    with pytest.raises(UserError, match="no answer.*copy metadata.json and ema_params.msgpack"):
        load("hf://me/digits", 0, "")


def test_a_repository_that_is_not_there(hub):
    with pytest.raises(UserError, match="there is no .*nobody/nothing, or it is private"):
        load("hf://nobody/nothing", 0, "")
    with pytest.raises(UserError, match="expected hf://NAME, or hf://OWNER/REPOSITORY"):
        load("hf://me/digits/hub", 0, "")


def test_paths_of_this_machine_are_not_published():
    kept = ["hf://small", "stabilityai/sd-vae-ft-ema", "runs/mae", "digits", "a/b,c", "vit:mae"]
    assert without_paths(kept) == kept
    paths = ["/home/me/vae", "folder:/home/me/my pictures/", "/a/b,/c/d", "~/x/y", "mae:/a/b"]
    assert without_paths(paths) == ["vae", "folder:my pictures", "b,d", "y", "mae:b"]
    assert without_paths({"a": [1, None, {"b": "/x/y"}]}) == {"a": [1, None, {"b": "y"}]}
    assert hub_name("cifar10") == "uoft-cs/cifar10" and hub_name("hf:a/b") == "a/b"
    assert hub_name("folder:a") == ""
