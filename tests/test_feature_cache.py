"""Features of real images on disk: used where they are the same, made again where they are not."""

import dataclasses
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from test_eval import call, convolution

from evaluation import feature_cache, networks
from evaluation.feature_cache import image_facts
from evaluation.image_files import Images, write_npz
from metrics.evidence import Evidence

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


def test_labels_are_kept_with_the_features():
    items = np.zeros((4, 8, 8, 1), np.uint8)
    of_labels = (None, np.arange(4), np.arange(4)[::-1])
    assert len({str(image_facts(Images("x", items, labels))) for labels in of_labels}) == 3


def test_a_full_cache_loses_what_was_used_longest_ago(network, samples, capsys):
    folder = samples.parent / "cache"
    flags = {"dataset_name": "digits", "reference_split": "test", "metrics": "fid"}

    def seen(weights, **more):
        network.changes = {"weights": weights}
        return evaluate(capsys, network, samples, **flags, **more)[1]

    for weights in "abc":
        assert seen(weights) == HELD_OUT + 40
    of_age = sorted(folder.iterdir(), key=os.path.getmtime)
    foreign = [folder / name for name in ("mine.npz", "0.txt")]
    killed = folder / f".{'0' * 32}.12345.npz"
    for path in [*foreign, killed]:
        path.write_bytes(bytes(100))
        os.utime(path, (1, 1))
    for age, path in enumerate(of_age):
        os.utime(path, (2 + age, 2 + age))
    assert seen("a") == 40  # so b is the oldest
    size = of_age[0].stat().st_size
    assert seen("d", feature_cache_gib=3.5 * size / 2**30) == HELD_OUT + 40
    assert not killed.exists() and not of_age[1].exists()
    assert all(path.exists() for path in [*foreign, of_age[0], of_age[2]])
    assert [seen(weights) for weights in "acd"] == [40] * 3
    assert seen("e", feature_cache_gib=0) == HELD_OUT + 40  # the newest stays
    assert len(list(folder.iterdir())) == 3 and seen("e") == 40


def test_programs_share_a_cache(tmp_path):
    """Two clear it at once while a third writes: the newest of each is there, and none fails."""
    names = [f"{n:032x}.npz" for n in range(300)]

    def fill(offset):
        for name in names[offset::3]:
            path = tmp_path / name
            feature_cache._write(path, name, (Evidence(1, np.zeros(1), np.eye(1)), None), False)
            feature_cache._remove_oldest(tmp_path, 4000, path)
            assert feature_cache._read(path, name, False) or not path.exists()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(fill, range(3)))
    left = list(tmp_path.iterdir())
    assert 1 <= len(left) <= 8 and all(path.name in names for path in left)


def test_a_cache_that_cannot_be_written(network, samples, tmp_path, capsys, warnings):
    (tmp_path / "cache").write_text("a file")
    flags = {"dataset_name": "digits", "reference_split": "test", "metrics": "fid"}
    row, seen = evaluate(capsys, network, samples, **flags)
    assert seen == HELD_OUT + 40 and row["fid_40"] > 0
    assert any("--feature_cache: could not write" in line for line in warnings)
