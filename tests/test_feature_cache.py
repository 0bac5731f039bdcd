"""Features of real images on disk: used where they are the same, made again where they are not."""

import dataclasses
import logging
import os

import numpy as np
import pytest
from PIL import Image
from test_eval import call, convolution

from evaluation import networks
from evaluation.image_files import write_npz

HELD_OUT = 560  # 540 digits, and 20 to fill up the last batch


@pytest.fixture
def network(monkeypatch):
    """A stand-in for Inception; its `seen` counts the images that it was shown."""

    def load(source, resize):
        made = convolution()

        def features(params, images):
            load.seen += len(images)
            return made.features(params, images)

        facts = made.facts | load.changes
        return dataclasses.replace(made, features=features, facts=facts)

    load.seen, load.changes = 0, {}
    monkeypatch.setitem(networks.NETWORKS, "inception", load)
    return load


@pytest.fixture
def samples(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    write_npz(tmp_path / "samples.npz", images, None)
    return tmp_path / "samples.npz"


@pytest.fixture
def warnings():
    """The warnings of the programs, which have handlers of their own."""
    lines = []

    class Handler(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    handler = Handler(logging.WARNING)
    logging.getLogger("eval").addHandler(handler)
    yield lines
    logging.getLogger("eval").removeHandler(handler)


def evaluate(capsys, network, samples, **flags):
    """Returns the row, and how many images the network has seen, in batches of 40, filled up."""
    before = network.seen
    words = {"load_dir": samples, "features": "inception", "sample_batch_size": 40} | flags
    row = call(capsys, feature_cache=samples.parent / "cache", **words)
    return row, network.seen - before


def test_a_second_evaluation_costs_its_samples_alone(network, samples, capsys):
    flags = {"dataset_name": "digits", "reference_split": "test"}
    first, seen = evaluate(capsys, network, samples, **flags)
    assert seen == HELD_OUT + 40 and first["recall_40"] >= 0
    second, seen = evaluate(capsys, network, samples, **flags)
    assert second == first and seen == 40

    # Moments alone serve another metric, and features are added where a metric needs them.
    for path in (samples.parent / "cache").iterdir():
        path.unlink()
    _, seen = evaluate(capsys, network, samples, metrics="fid", **flags)
    assert seen == HELD_OUT + 40
    assert evaluate(capsys, network, samples, metrics="fid", **flags)[1] == 40
    assert evaluate(capsys, network, samples, metrics="kid", **flags)[1] == HELD_OUT + 40
    assert evaluate(capsys, network, samples, metrics="fid,kid", **flags)[1] == 40
    assert len(list((samples.parent / "cache").iterdir())) == 1

    # The held-out reals are the same as before, though they are asked for something else.
    both = {"dataset_name": "digits", "reference_split": "train", "metrics": "fid,fdr"}
    assert evaluate(capsys, network, samples, **both)[1] == 1280 + 40
    again, seen = evaluate(capsys, network, samples, **both)
    assert seen == 40 and again["held_out_count"] == 540


def test_other_features_are_made_anew(network, samples, capsys, warnings):
    flags = {"dataset_name": "digits", "reference_split": "test", "metrics": "fid"}
    row, _ = evaluate(capsys, network, samples, **flags)
    network.changes = {"weights": "others"}
    assert evaluate(capsys, network, samples, **flags)[1] == HELD_OUT + 40
    network.changes = {}
    files = sorted((samples.parent / "cache").iterdir(), key=os.path.getmtime)
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:-200])
    assert evaluate(capsys, network, samples, **flags) == (row, HELD_OUT + 40)
    assert any("it is made again" in line for line in warnings)
    assert evaluate(capsys, network, samples, **flags) == (row, 40)
    assert (
        call(capsys, load_dir=samples, features="inception", feature_cache="none", **flags) == row
    )


def test_images_in_files_may_change(network, samples, tmp_path, capsys):
    """A folder whose picture was replaced under the same name is read again."""
    folder = tmp_path / "reals"
    folder.mkdir()
    for i, image in enumerate(np.random.default_rng(1).integers(0, 256, (40, 8, 8), np.uint8)):
        Image.fromarray(image).save(folder / f"{i}.png")
    for source in ({"fid_stats": folder}, {"dataset_name": f"folder:{folder}"}):
        flags = {"metrics": "fid"} | source
        assert evaluate(capsys, network, samples, **flags)[1] == 80
        row, seen = evaluate(capsys, network, samples, **flags)
        assert seen == 40
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "7.png")
        os.utime(folder / "7.png", (1, 1))
        changed, seen = evaluate(capsys, network, samples, **flags)
        assert seen == 80
        os.utime(folder / "7.png", (2, 2))
        if "fid_stats" in source:
            assert changed["fid_40"] != row["fid_40"]


def test_a_cache_that_cannot_be_written(network, samples, tmp_path, capsys, warnings):
    (tmp_path / "cache").write_text("a file")
    flags = {"dataset_name": "digits", "reference_split": "test", "metrics": "fid"}
    row, seen = evaluate(capsys, network, samples, **flags)
    assert seen == HELD_OUT + 40 and row["fid_40"] > 0
    assert any("--feature_cache: could not write" in line for line in warnings)
