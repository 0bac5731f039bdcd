"""Streaming of parquet files: an order that can be entered anywhere, by one process or several,
what is read for it, and what is said when something is wrong.
"""

import io
import itertools
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from conftest import CHILD_XLA_FLAGS, ROOT
from PIL import Image
from test_data import caches, message, pictures, prepare_tfds, take, write_folder  # noqa: F401

import data
from data import pipeline, row_groups
from data.windows import Windows
from utils import sharding

datasets = pytest.importorskip("datasets")
N, WINDOW = 300, 64


def png(i):
    buffer = io.BytesIO()
    Image.fromarray(np.array([[[i % 256, i // 256, 7]]], np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def numbered(root, label="int64", files=3, rows=17):
    """Parquet files in row groups of `rows`; each of N images shows its own number, its label."""
    root.mkdir(parents=True, exist_ok=True)
    kind = datasets.ClassLabel(num_classes=N) if label == "class" else datasets.Value(label)
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    for k in range(files):
        own = range(k * N // files, (k + 1) * N // files)
        table = datasets.Dataset.from_dict(
            {
                "image": [{"bytes": png(i), "path": None} for i in own],
                "label": [str(i) if label == "string" else i for i in own],
            },
            features=features,
        )
        table.to_parquet(root / f"train-{k:05d}-of-{files:05d}.parquet", batch_size=rows)
    return f"hf:{root}"


OPTIONS = {"streaming": True, "stream_window": WINDOW}


@pytest.fixture(scope="module")
def name(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("parquet") / "set", "class")


@pytest.fixture(autouse=True)
def use_caches(caches):  # noqa: F811
    pass


def test_the_same_samples_as_without(name):
    streamed, stored = data.load(name, options=OPTIONS), data.load(name)
    assert streamed.shape == stored.shape
    assert streamed.class_names == stored.class_names
    assert len(streamed.samples) == N
    assert streamed.counts is None
    images, labels = pipeline.everything(streamed)
    stored_images, stored_labels = pipeline.everything(stored)
    np.testing.assert_array_equal(images, stored_images)
    np.testing.assert_array_equal(labels, stored_labels)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_each_sample_once_an_epoch(name, ranks):
    """Two epochs in batches of 10; the epochs differ, and no epoch is in the order of the files."""
    dataset = data.load(name, options=OPTIONS)
    per_rank = [
        take(pipeline.stream(dataset, 7, 10, rank=r, ranks=ranks), 2 * N // (10 * ranks))
        for r in range(ranks)
    ]
    order = np.stack(per_rank, 1).reshape(-1)  # [2 N] the order of the whole
    for epoch in (order[:N], order[N:]):
        assert sorted(epoch) == list(range(N))
        assert (np.abs(np.diff(epoch)) == 1).mean() < 0.1
    assert (order[:N] != order[N:]).mean() > 0.8
    images, labels = next(pipeline.stream(dataset, 7, 10))
    np.testing.assert_array_equal(images[:, 0, 0, 0] + 256 * images[:, 0, 0, 1].astype(int), labels)


@pytest.mark.parametrize("k", [1, 6, 16, 30, 61])
def test_resume_is_exact_also_on_another_number_of_ranks(name, k):
    dataset = data.load(name, options=OPTIONS)
    whole = take(pipeline.stream(dataset, 3, 10), 80)
    for ranks in (1, 2, 3, 4):
        position = 10 * k
        parts = [
            take(pipeline.stream(dataset, 3, 5, position, r, ranks, workers=6), 4)
            for r in range(ranks)
        ]
        np.testing.assert_array_equal(
            np.stack(parts, 1).reshape(-1), whole[position : position + 20 * ranks]
        )


def test_what_is_read():
    """A window permutes whole row groups, and of 2^k processes each reads its own part."""
    windows = Windows(np.full(100, 10), 0, 320)
    rows = windows.rows(0, 1)
    assert len(rows) == len(set(rows)) == 320
    assert len(windows.groups_of(rows)) == 32
    for ranks in (2, 4, 8):
        read = [len(windows.groups_of(rows[r::ranks])) for r in range(ranks)]
        assert max(read) <= 32 / ranks + 1
    stored_order = np.argsort(np.argsort(rows))
    correlation = np.corrcoef(np.arange(320), stored_order)[0, 1]
    assert abs(correlation) < 0.2  # There is no trace of the stored order.
    found = [windows.find(position) for position in range(1001)]
    by_position = [windows.rows(epoch, window)[offset] for epoch, window, offset in found[:1000]]
    by_window = np.concatenate([windows.rows(0, window) for window in range(4)])
    np.testing.assert_array_equal(by_position, by_window)
    assert found[1000] == (1, 0, 0)
    assert windows.after(0, 3) == (1, 0)
    assert windows.after(0, 2) == (0, 3)


def test_memory_is_that_of_two_windows(name):
    dataset = data.load(name, options=OPTIONS)
    order = dataset.order(dataset.samples, 0, 0, 1)
    most = max(len(order.windows.groups_of(order.windows.rows(0, w))) for w in range(4))
    for p in range(2 * N):
        order[p]
        assert len(order.groups.held) <= 2 * most + row_groups.SPARE


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def by_processes(ranks, name, options, position, batches, out, size=12):
    """The batches that so many processes read together, as process 0 has them."""
    port = free_port()
    env = os.environ | {
        "XLA_FLAGS": f"{CHILD_XLA_FLAGS} --xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    program = [sys.executable, str(ROOT / "tests" / "stream_process.py")]
    rest = [name, json.dumps(options), 3, size, position, batches, out]
    running = []
    for rank in range(ranks):
        arguments = [f"localhost:{port}", ranks, rank, *rest]
        command = [*program, *map(str, arguments)]
        running.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    for process in running:
        assert process.wait(timeout=300) == 0, process.stderr.read()
    with np.load(out) as file:
        return file["images"], file["labels"]


@pytest.mark.parametrize(
    "kind",
    [
        "streaming",
        pytest.param("folder", marks=pytest.mark.slow),
        pytest.param("tfds", marks=pytest.mark.slow),
        pytest.param("hf", marks=pytest.mark.slow),
    ],
)
def test_real_processes(name, kind, tmp_path):
    """One process stops inside the second epoch, and two go on: the order of one never stopped,
    and each sample once an epoch.
    """
    options, n = {}, 12
    if kind in ("streaming", "hf"):
        options, n = (OPTIONS if kind == "streaming" else {}), N
    elif kind == "folder":
        name = f"folder:{write_folder(tmp_path / 'set', pictures())}"
    else:
        name = f"tfds:{prepare_tfds(tmp_path / 'tfds', pictures())}"
    whole = pipeline.stream(data.load(name, options=options), 3, 12)
    expected = [next(whole) for _ in range(n // 12 + 3)]
    whole.close()
    stops = (0, n // 12 + 2, n // 12 + 3)
    found = []
    for ranks, (start, stop) in zip((1, 2), itertools.pairwise(stops), strict=True):
        out = tmp_path / f"{start}.npz"
        found.append(by_processes(ranks, name, options, 12 * start, stop - start, out))
    images, labels = (np.concatenate(part) for part in zip(*found, strict=True))
    expected_images, expected_labels = (np.concatenate(p) for p in zip(*expected, strict=True))
    np.testing.assert_array_equal(images, expected_images)
    np.testing.assert_array_equal(labels, expected_labels)
    if kind in ("streaming", "hf"):
        assert sorted(labels[:n]) == list(range(n))


@pytest.mark.parametrize("n", [3, 8, 10])
def test_rows_joined_on_devices(n):
    """One process on eight devices, also where they do not divide the rows."""
    rows = {"x": np.arange(16 * n, dtype=np.float32).reshape(n, 16), "k": np.arange(n)}
    mesh = sharding.make_mesh(8, 1)
    whole, within = sharding.replicated(mesh), sharding.within_samples(mesh, ("data",), (n, 16), 1)

    def add(params, rows):
        return rows | {"x": rows["x"] + params}

    for place, columns in ((whole, 16), (within, 2)):
        results = {"x": place, "k": whole}
        joined = sharding.RowExchange(mesh, n, add, np.float32(5), results)(rows)
        np.testing.assert_array_equal(joined["x"], rows["x"] + 5)
        np.testing.assert_array_equal(joined["k"], rows["k"])
        assert joined["k"].is_fully_replicated
        shards = joined["x"].addressable_shards
        assert [shard.data.shape for shard in shards] == [(n, columns)] * 8


def test_labels_and_mistakes(name, tmp_path, monkeypatch):
    monkeypatch.setattr(row_groups, "PAUSE", 0.01)

    def load(name, **options):
        return data.load(name, options=OPTIONS | options)

    numbers = numbered(tmp_path / "int")
    assert load(numbers).n_classes == N
    assert load(numbers, label_column="none").counts == (N,)
    texts = numbered(tmp_path / "text", "string")
    assert "does not tell its classes" in message(load, texts)
    unknown = message(load, name, label_column="lable")
    assert "no column 'lable'; did you mean label?" in unknown
    assert "is read where it lies" in message(load, "digits")
    files = str(tmp_path / "int" / "*.parquet")
    table = datasets.load_dataset("parquet", data_files=files, split="train")
    table.save_to_disk(str(tmp_path / "arrow"))
    assert "only parquet is streamed" in message(load, f"hf:{tmp_path / 'arrow'}")
    write_folder(tmp_path / "images", pictures())
    images = message(load, f"hf:{tmp_path / 'images'}")
    assert "holds imagefolder data, and only parquet" in images
    dataset = load(numbers)
    first = sorted((tmp_path / "int").glob("*.parquet"))[0]
    first.write_bytes(first.read_bytes()[:1000])
    cut = message(take, pipeline.stream(dataset, 0, 10), N // 10)
    assert "the same command goes on" in cut
    assert f"{first} cannot be read as parquet" in message(load, numbers)
    first.unlink()
    missing = message(take, pipeline.stream(dataset, 1, 10), N // 10)
    assert "the same command goes on" in missing


@pytest.mark.parametrize("label", [-1, None])
def test_samples_without_a_class_are_refused(label, tmp_path):
    """As the test split of ImageNet has them: the bank would take -1 for its last class."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    images = [{"bytes": png(i), "path": None} for i in range(40)]
    columns = {"image": images, "label": [label] * 40}
    table = datasets.Dataset.from_dict(columns, features=features)
    table = table.cast_column("label", datasets.ClassLabel(num_classes=2))
    table.to_parquet(tmp_path / "train-00000-of-00001.parquet")

    def load_and_take():
        dataset = data.load(f"hf:{tmp_path}", options=OPTIONS)
        take(pipeline.stream(dataset, 0, 10), 1)

    words = "has the label -1, expected 0 to 1" if label else "has no label in column 'label'"
    assert words in message(load_and_take)


def test_unreadable_images_are_skipped_in_place(tmp_path, monkeypatch):
    intact = png

    def png_but_one(i):
        return b"no image" if i == 42 else intact(i)

    monkeypatch.setattr(sys.modules[__name__], "png", png_but_one)
    name = numbered(tmp_path / "set")
    dataset = data.load(name, options=OPTIONS)
    order = take(pipeline.stream(dataset, 1, 10), N // 10)
    assert sorted(order) == sorted([*range(42), 43, *range(43, N)])
