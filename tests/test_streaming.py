"""Streaming of parquet files: an order that can be entered anywhere, each sample once, by one process or several; what is read, and what is said."""

import io
import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT
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
    """Parquet files of N images that show their own number, which is their label too; row groups of `rows`."""
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
    assert (
        streamed.shape == stored.shape
        and streamed.class_names == stored.class_names
        and len(streamed.samples) == N
        and streamed.counts is None
    )
    for a, b in zip(pipeline.everything(streamed), pipeline.everything(stored)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_each_sample_once_an_epoch(name, ranks):
    """Two epochs in batches of 10; the epochs differ, and no epoch is in the order of the files."""
    dataset = data.load(name, options=OPTIONS)
    order = np.stack(
        [
            take(pipeline.stream(dataset, 7, 10, rank=r, ranks=ranks), 2 * N // (10 * ranks))
            for r in range(ranks)
        ],
        1,
    ).reshape(-1)
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
    """Every window is a permutation of whole pieces; 2^k processes read about their share each; the memory is that of two windows."""
    windows = Windows([10] * 100, 0, 320)
    rows = windows.rows(0, 1)
    assert len(rows) == 320 and len(set(rows)) == 320 and len(windows.groups_of(rows)) == 32
    for ranks in (2, 4, 8):
        shares = [len(windows.groups_of(rows[r::ranks])) for r in range(ranks)]
        assert max(shares) <= 32 / ranks + 1
    place = np.argsort(np.argsort(rows))
    assert abs(np.corrcoef(np.arange(320), place)[0, 1]) < 0.2  # no trace of the stored order
    where = [windows.find(p) for p in range(2500)]
    assert [windows.rows(e, w)[o] for e, w, o in where[:1000]] == [
        int(x) for e in (0,) for w in range(4) for x in windows.rows(e, w)
    ][:1000]
    assert (
        where[1000] == (1, 0, 0) and windows.after(0, 3) == (1, 0) and windows.after(0, 2) == (0, 3)
    )


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
    port = free_port()
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    command = [
        sys.executable,
        str(ROOT / "tests" / "stream_process.py"),
        f"localhost:{port}",
        str(ranks),
    ]
    rest = [name, json.dumps(options), "3", str(size), str(position), str(batches), str(out)]
    running = [
        subprocess.Popen([*command, str(r), *rest], env=env, stderr=subprocess.PIPE, text=True)
        for r in range(ranks)
    ]
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
    """Two processes take an epoch and stop inside the next, one goes on, two again: the order of one that was never stopped, each sample once an epoch."""
    options, n = {}, 12
    if kind in ("streaming", "hf"):
        options, n = (OPTIONS if kind == "streaming" else {}), N
    elif kind == "folder":
        name = f"folder:{write_folder(tmp_path / 'set', pictures())}"
    else:
        name = f"tfds:{prepare_tfds(tmp_path / 'tfds', pictures())}"
    whole = pipeline.stream(data.load(name, options=options), 3, 12)
    expected = [next(whole) for _ in range(n // 12 + 5)]
    whole.close()
    stops = (0, n // 12 + 2, n // 12 + 3, n // 12 + 5)
    found = [
        by_processes(ranks, name, options, 12 * a, b - a, tmp_path / f"{a}.npz")
        for ranks, a, b in zip((2, 1, 2), stops, stops[1:])
    ]
    for part in (0, 1):
        np.testing.assert_array_equal(
            np.concatenate([f[part] for f in found]), np.concatenate([e[part] for e in expected])
        )
    if kind in ("streaming", "hf"):
        assert sorted(np.concatenate([f[1] for f in found])[:n]) == list(range(n))


@pytest.mark.parametrize("n", [3, 8, 10])
def test_shares_joined_on_devices(n):
    """One process on eight devices, also where they do not divide the rows; `each` runs with its parameters."""
    rows = {"x": np.arange(2 * n, dtype=np.float32).reshape(n, 2), "k": np.arange(n)}
    joined = sharding.RowExchange(
        sharding.make_mesh(8, 1),
        n,
        lambda params, rows: rows | {"x": rows["x"] + params},
        np.float32(5),
    )(rows)
    np.testing.assert_array_equal(joined["x"], rows["x"] + 5)
    np.testing.assert_array_equal(joined["k"], rows["k"])
    assert (
        joined["x"].is_fully_replicated
        and len(joined["x"].sharding.device_set) == 8
        and isinstance(joined["x"], jax.Array)
    )


def test_labels_and_mistakes(name, tmp_path, monkeypatch):
    monkeypatch.setattr(row_groups, "PAUSE", 0.01)
    assert data.load(numbered(tmp_path / "int"), options=OPTIONS).n_classes == N
    assert data.load(
        numbered(tmp_path / "int"), options=OPTIONS | {"label_column": "none"}
    ).counts == (N,)
    assert "does not tell its classes" in message(
        data.load, numbered(tmp_path / "text", "string"), options=OPTIONS
    )
    assert "no column 'lable'; did you mean label?" in message(
        data.load, name, options=OPTIONS | {"label_column": "lable"}
    )
    assert "is read where it lies" in message(data.load, "digits", options=OPTIONS)
    table = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "int" / "*.parquet"), split="train"
    )
    table.save_to_disk(str(tmp_path / "arrow"))
    assert "only parquet is streamed" in message(
        data.load, f"hf:{tmp_path / 'arrow'}", options=OPTIONS
    )
    write_folder(tmp_path / "images", pictures())
    assert "holds imagefolder data, and only parquet" in message(
        data.load, f"hf:{tmp_path / 'images'}", options=OPTIONS
    )
    dataset = data.load(f"hf:{tmp_path / 'int'}", options=OPTIONS)
    first = sorted((tmp_path / "int").glob("*.parquet"))[0]
    first.write_bytes(first.read_bytes()[:1000])
    assert "the same command goes on" in message(
        lambda: [0 for _ in zip(pipeline.stream(dataset, 0, 10), range(N // 10))]
    )
    assert f"{first} cannot be read as parquet" in message(
        data.load, f"hf:{tmp_path / 'int'}", options=OPTIONS
    )
    first.unlink()
    assert "the same command goes on" in message(
        lambda: [0 for _ in zip(pipeline.stream(dataset, 1, 10), range(N // 10))]
    )


@pytest.mark.parametrize("label", [-1, None])
def test_samples_without_a_class_are_refused(label, tmp_path):
    """As the test split of ImageNet has them: the bank would take -1 for its last class."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": png(i), "path": None} for i in range(40)], "label": [label] * 40},
        features=features,
    )
    table = table.cast_column("label", datasets.ClassLabel(num_classes=2))
    table.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    dataset = data.load(f"hf:{tmp_path}", options=OPTIONS)
    words = "has the label -1, expected 0 to 1" if label else "unreadable images among"
    assert words in message(lambda: next(pipeline.stream(dataset, 0, 10)))


def test_unreadable_images_are_skipped_in_place(tmp_path, monkeypatch):
    real = png
    monkeypatch.setattr(sys.modules[__name__], "png", lambda i: b"no image" if i == 42 else real(i))
    name = numbered(tmp_path / "set")
    dataset = data.load(name, options=OPTIONS)
    order = take(pipeline.stream(dataset, 1, 10), N // 10)
    assert sorted(order) == sorted([*range(42), 43, *range(43, N)])
