"""Data sets of every source: their pixels, labels and splits, the stream of their samples, and what
is said when something is wrong.
"""

import dataclasses
import importlib
import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import types

import numpy as np
import pytest
from conftest import CHILD_XLA_FLAGS, ROOT
from einops import reduce
from PIL import Image

import data
from benchmarks.data import as_tfrecord
from data import pipeline, tfds
from data.hub_cards import CARDS
from data.images import Corrupt, center_crop, decode, to_mode
from training import drift
from utils import config as config_lib
from utils import sharding
from utils.errors import UserError

datasets = pytest.importorskip("datasets")
CLASSES = ("ant", "bee", "cat")
PER_CLASS, SIDE = 4, 8


def file_of(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pictures(side=SIDE, kind="JPEG"):
    """[(bytes of a file, label)], distinct smooth colour images."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(len(CLASSES) * PER_CLASS):
        small = Image.fromarray(rng.integers(0, 256, (3, 3, 3), np.uint8))
        image = small.resize((side, side), Image.Resampling.BICUBIC)
        files.append((file_of(image, kind), i // PER_CLASS))
    return files


def write_folder(root, files, suffix=".jpg"):
    for i, (content, label) in enumerate(files):
        folder = root / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:03d}{suffix}").write_bytes(content)
    return root


def table_of(files):
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    columns = {
        "img": [{"bytes": content, "path": None} for content, _ in files],
        "label": [label for _, label in files],
    }
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture
def caches(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def prepare_tfds(root, files):
    """The folder that TFDS prepares, without TensorFlow, in array_record files."""
    import tensorflow_datasets as tfds

    class Odd(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = root

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=list(CLASSES)),
                "name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, (content, label) in enumerate(files):
                yield i, {"image": io.BytesIO(content), "label": label, "name": str(i)}

    builder = Odd(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    return builder.data_path


def write(kind, root, files):
    """The name of a data set that holds these files."""
    if kind in ("folder", "hf imagefolder"):
        write_folder(root, files)
        scheme = "folder" if kind == "folder" else "hf"
        return f"{scheme}:{root}"
    root.mkdir(parents=True, exist_ok=True)
    if kind.startswith("tfds"):
        folder = prepare_tfds(root, files)
        if kind == "tfds tfrecord":
            folder = as_tfrecord(folder)
        return f"tfds:{folder}"
    table = table_of(files)
    if kind == "hf parquet":
        table.to_parquet(root / "train-00000-of-00001.parquet")
    elif kind == "hf one file":
        table.to_parquet(root / "some.parquet")
        return f"hf:{root / 'some.parquet'}"
    else:
        datasets.DatasetDict({"train": table}).save_to_disk(str(root))
    return f"hf:{root}"


def message(call, *args, **kw):
    """The text of the UserError that a call raises, which is one line."""
    with pytest.raises(UserError) as caught:
        call(*args, **kw)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "kind",
    [
        "folder",
        "hf imagefolder",
        "hf parquet",
        "hf one file",
        "hf arrow",
        "tfds array_record",
        "tfds tfrecord",
    ],
)
@pytest.mark.parametrize("image_size", [0, 5])
def test_same_pixels_whatever_the_source(kind, image_size, tmp_path, caches):
    files = pictures()
    dataset = data.load(write(kind, tmp_path / "set", files), options={"image_size": image_size})
    side = image_size or SIDE
    assert dataset.shape == (side, side, 3)
    assert dataset.dtype == "uint8"
    assert dataset.class_names == CLASSES
    assert dataset.counts == (PER_CLASS,) * 3
    assert len(dataset.samples) == len(files)
    images, labels = pipeline.everything(dataset)
    if kind.startswith("tfds"):  # which shuffles when it prepares
        files = sorted(files, key=lambda file: decode(file[0], 3, image_size).tobytes())
        order = sorted(range(len(images)), key=lambda i: images[i].tobytes())
        images, labels = images[order], labels[order]
    for image, label, (content, expected) in zip(images, labels, files, strict=True):
        truth = Image.open(io.BytesIO(content)).convert("RGB")
        if image_size:
            truth = center_crop(truth, image_size)
        np.testing.assert_array_equal(image, np.asarray(truth))
        assert label == expected


SMALL = {
    "model.preset": "debug",
    "model.name": "mlp",
    "model.hidden_size": 16,
    "optim.ema": 0.99,
    "batch_size": 12,
    "drift.n_neg": 4,
    "drift.n_pos": 2,
    "drift.n_unc": 0,
    "drift.alpha_max": 1.0,
    "drift.bank_per_class": 4,
    "drift.bank_global": 0,
    "drift.bank_push": 4,
    "max_steps": 3,
    "log_interval": 1,
    "sample_interval": 3,
    "eval_interval": 3,
    "mesh.devices": 1,
    "data.flip": True,
    "data.image_size": SIDE,
}


@pytest.mark.parametrize(
    "kind, workers",
    [
        ("folder", 1),
        *(
            pytest.param(kind, 0, marks=pytest.mark.slow)
            for kind in (
                "streaming",
                "hf imagefolder",
                "hf parquet",
                "hf arrow",
                "tfds array_record",
                "tfds tfrecord",
            )
        ),
    ],
)
def test_trains_from_the_command_line(kind, workers, tmp_path, caches):
    """Bank, steps, checkpoint, scores and grid of a tiny run, from images of another size."""
    written = "hf parquet" if kind == "streaming" else kind
    name = write(written, tmp_path / "set", pictures(side=2 * SIDE))
    flags = SMALL | {
        "dataset_name": name,
        "save_dir": tmp_path / "run",
        "data.workers": workers,
        "data.streaming": kind == "streaming",
    }
    env = os.environ | {
        "XLA_FLAGS": CHILD_XLA_FLAGS,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [
        sys.executable,
        str(ROOT / "train_drift.py"),
        *(f"--{k}={v}" for k, v in flags.items()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert (tmp_path / "run" / "fid.csv").exists()
    assert list((tmp_path / "run" / "samples").glob("*.png"))


# ---------------------------------------------------------------- odd images

COLOUR = np.random.default_rng(1).integers(0, 256, (6, 4, 3), np.uint8)  # 4 wide, 6 high
GREY = np.arange(24, dtype=np.uint8).reshape(6, 4) * 10


def test_grey_palette_cmyk_transparent():
    grey3 = np.repeat(GREY[..., None], 3, -1)
    np.testing.assert_array_equal(decode(file_of(Image.fromarray(GREY)), 3, 0), grey3)
    np.testing.assert_array_equal(decode(file_of(Image.fromarray(GREY)), 1, 0), GREY[..., None])
    np.testing.assert_array_equal(decode(GREY, 3, 0), grey3)
    np.testing.assert_array_equal(decode(COLOUR, 3, 0), COLOUR)
    palette = Image.fromarray(COLOUR).quantize(24)
    np.testing.assert_array_equal(
        decode(file_of(palette), 3, 0), np.asarray(palette.convert("RGB"))
    )
    bits = Image.fromarray(GREY > 100)
    assert bits.mode == "1"
    np.testing.assert_array_equal(decode(file_of(bits), 3, 0)[..., 0], (GREY > 100) * 255)
    cmyk = Image.new("CMYK", (4, 6), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    red = decode(file_of(cmyk, "JPEG", quality=100), 3, 0).astype(int)
    assert np.abs(red - [255, 0, 0]).max() <= 3
    clear = np.dstack([COLOUR, np.where(GREY > 100, 255, 0).astype(np.uint8)])
    np.testing.assert_array_equal(
        decode(file_of(Image.fromarray(clear)), 3, 0), np.where(GREY[..., None] > 100, COLOUR, 255)
    )


def test_sixteen_bits():
    """Values are scaled by 1/257, not cut off at 255."""
    deep = np.arange(24, dtype=np.uint16).reshape(6, 4) * 2849
    image = Image.fromarray(deep)
    assert image.mode.startswith("I;16")
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(
            decode(file_of(image, kind), 3, 0)[..., 1], np.round(deep / 257)
        )
    with pytest.raises(ValueError, match="floating-point"):
        to_mode(Image.fromarray(deep.astype(np.float32)), "L")


@pytest.mark.parametrize(
    "orientation, turned",
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (6, lambda a: np.rot90(a, -1)),
        (8, np.rot90),
    ],
)
def test_exif_rotation(orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation  # Exif 2.3, tag Orientation
    np.testing.assert_array_equal(
        decode(file_of(Image.fromarray(COLOUR), "PNG", exif=exif), 3, 0), turned(COLOUR)
    )


def test_center_crop():
    """Box filter by halves, then bicubic, then the centre, step by step."""
    wide = np.random.default_rng(2).integers(0, 256, (40, 70, 3), np.uint8)  # 70 wide
    out = center_crop(Image.fromarray(wide), 16)
    # Halved once, as 40 >= 2 * 16, but 20 < 2 * 16.
    halved = reduce(wide.astype(np.float64), "(h 2) (w 2) c -> h w c", "mean")
    expected = Image.fromarray(np.floor(halved + 0.5).astype(np.uint8))
    expected = expected.resize((28, 16), Image.Resampling.BICUBIC).crop((6, 0, 22, 16))
    assert out.size == (16, 16)
    difference = np.asarray(out).astype(int) - np.asarray(expected).astype(int)
    assert np.abs(difference).max() <= 2  # Pillow rounds after each axis.
    same = Image.fromarray(wide[:16, :16])
    np.testing.assert_array_equal(center_crop(same, 16), same)


def test_corrupt_images_are_skipped_counted_and_named(tmp_path, caplog):
    files = pictures()
    root = write_folder(tmp_path / "set", files)
    victim = root / "bee" / "005.jpg"
    victim.write_bytes(files[5][0][: len(files[5][0]) // 2])
    dataset = data.load(f"folder:{root}", options={"max_corrupt": 0.1})
    with pytest.raises(Corrupt, match="005.jpg"):
        dataset.samples[5]
    images, labels = pipeline.everything(dataset)
    assert len(images) == 11 and np.bincount(labels).tolist() == [4, 3, 4]
    stream = pipeline.stream(dataset, 0, 4)
    seen = [next(stream)[1] for _ in range(6)]
    assert sum(map(len, seen)) == 24
    named = [
        record
        for record in caplog.records
        if str(victim) in record.message and "1 so far" in record.message
    ]
    assert len(named) == 2  # once by each of the two readings
    for i in (1, 9):
        (root / CLASSES[i // PER_CLASS] / f"{i:03d}.jpg").write_bytes(b"no image")
    dataset = data.load(f"folder:{root}", options={"max_corrupt": 0.2})
    assert "3 unreadable images" in message(pipeline.everything, dataset)
    assert "3 unreadable images" in message(take, pipeline.stream(dataset, 0, 4), 6)
    dataset = data.load(f"folder:{root}", options={"max_corrupt": 1.0})
    for file in root.rglob("*.jpg"):
        file.write_bytes(b"no image")
    assert "none of its 12 samples can be read" in message(pipeline.everything, dataset)


def test_other_sizes_are_named(tmp_path):
    root = write_folder(tmp_path, pictures() + [pictures(side=12)[-1]])
    assert "8x8, 12x12" in message(data.load, f"folder:{root}")
    assert data.load(f"folder:{root}", options={"image_size": 6}).shape == (6, 6, 3)


def test_channels_are_found_or_given(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(file_of(Image.fromarray(GREY)))
    grey = data.load(f"folder:{tmp_path}")
    assert grey.shape == (6, 4, 1)
    assert grey.class_names == ("all",)
    assert grey.counts == (3,)
    assert data.load(f"folder:{tmp_path}", options={"channels": 3}).shape == (6, 4, 3)
    for i in range(3, 80):
        image = Image.fromarray(COLOUR if i == 75 else GREY)
        (tmp_path / f"{i}.png").write_bytes(file_of(image))
    mixed = data.load(f"folder:{tmp_path}")
    assert "75.png is of colour (RGB)" in message(pipeline.everything, mixed)
    turned, _ = pipeline.everything(data.load(f"folder:{tmp_path}", options={"channels": 1}))
    assert len(turned) == 80
    assert "--data.channels 2" in message(data.load, f"folder:{tmp_path}", options={"channels": 2})


# ---------------------------------------------------------------- splits, labels, columns


def test_folder_splits(tmp_path, caplog):
    files = pictures()
    write_folder(tmp_path / "train", files)
    assert data.load(f"folder:{tmp_path}", "test").split == "train"
    assert "stands in" in caplog.text
    write_folder(tmp_path / "val", files[::2])
    (tmp_path / "test").mkdir()  # without classes, as ImageNet's
    held_out = data.load(f"folder:{tmp_path}", "test")
    assert held_out.split == "test"
    assert len(held_out.samples) == 6
    assert len(data.load(f"folder:{tmp_path}").samples) == 12
    assert "did you mean val?" in message(data.load, f"folder:{tmp_path}", "vall")
    (tmp_path / "train" / "dog").mkdir()
    assert data.load(f"folder:{tmp_path}").class_names == CLASSES
    assert data.load(f"folder:{tmp_path}", "test").split == "test"
    (tmp_path / "train" / "dog").rmdir()
    (tmp_path / "train" / "loose.png").write_bytes(file_of(Image.fromarray(GREY)))
    assert "loose.png" in message(data.load, f"folder:{tmp_path}")
    assert "is not a folder" in message(data.load, f"folder:{tmp_path}/none")
    (tmp_path / "empty").mkdir()
    assert "no images in" in message(data.load, f"folder:{tmp_path}/empty")


def parquet(folder, columns, features=None, name="train.parquet"):
    folder.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / name)
    return f"hf:{folder}"


def test_a_path_or_a_name_of_the_hub_gets_its_scheme(tmp_path):
    assert f"did you mean folder:{tmp_path}?" in message(data.load, str(tmp_path))
    assert "did you mean folder:./no?" in message(data.load, "./no")
    assert "did you mean npz:pets.npz?" in message(data.load, "pets.npz")
    told = message(data.load, "Maysee/tiny-imagenet")
    assert "hf:Maysee/tiny-imagenet, or tiny_imagenet, which has a recipe" in told
    assert "did you mean hf:owner/name?" in message(data.load, "owner/name")
    assert "did you mean tiny_imagenet?" in message(data.load, "tiny-imagenet")


def test_labels_of_every_kind(tmp_path, caches, caplog):
    images = [{"bytes": b, "path": None} for b, _ in pictures()[:4]]
    image = datasets.Image()
    texts = data.load(
        parquet(
            tmp_path / "texts",
            {"pic": images, "label": ["b", "a", "b", "c"]},
            datasets.Features({"pic": image, "label": datasets.Value("string")}),
        )
    )
    assert texts.class_names == ("a", "b", "c")
    assert texts.counts == (1, 2, 1)
    assert texts.samples[0]["label"] == 1
    numbers = parquet(
        tmp_path / "numbers",
        {"pic": images, "kind": [2, 0, 1, 2]},
        datasets.Features({"pic": image, "kind": datasets.Value("int64")}),
    )
    assert data.load(numbers, options={"label_column": "kind"}).counts == (1, 1, 2)
    none = data.load(numbers)
    assert none.class_names == ("all",)
    assert none.counts == (4,)
    assert none.samples[3]["label"] == 0
    assert "no column 'kindd'; did you mean kind?" in message(
        data.load, numbers, options={"label_column": "kindd"}
    )
    assert "no column 'img'" in message(data.load, numbers, options={"image_column": "img"})
    labels = datasets.ClassLabel(names=["x", "y"])
    both = parquet(
        tmp_path / "both",
        {"pic": images, "coarse": [0, 1, 0, 1], "fine": [1, 1, 0, 0]},
        datasets.Features({"pic": image, "coarse": labels, "fine": labels}),
    )
    assert data.load(both).samples[0]["label"] == 0
    assert "coarse, not from fine" in caplog.text
    assert data.load(both, options={"label_column": "fine"}).samples[0]["label"] == 1
    assert data.load(both, options={"label_column": "none"}).n_classes == 1
    hole = datasets.Features({"pic": image, "label": datasets.ClassLabel(names=["x", "y", "z"])})
    without = data.load(parquet(tmp_path / "hole", {"pic": images, "label": [0, 2, 0, 2]}, hole))
    assert (without.class_names, without.counts) == (("x", "z"), (2, 2))
    assert "labels from -1" in message(
        data.load, parquet(tmp_path / "hidden", {"pic": images, "label": [-1] * 4}, hole)
    )
    assert "no column of images" in message(
        data.load, parquet(tmp_path / "text", {"text": ["a", "b"]})
    )


def test_hub_splits_of_a_short_name_from_a_local_copy(tmp_path, caches):
    """--data.dir: a copy of the hub's folder, with the hub's names of splits."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=200)}
    )
    image = {"bytes": file_of(Image.fromarray(GREY).resize((64, 64))), "path": None}
    for name, n in (("train", 200), ("valid", 400)):
        parquet(
            tmp_path / "copy",
            {"image": [image] * n, "label": [i % 200 for i in range(n)]},
            features,
            f"{name}-00000-of-00001.parquet",
        )
    train, test = (
        data.load("tiny_imagenet", split, {"dir": str(tmp_path / "copy")})
        for split in ("train", "test")
    )
    assert len(train.samples) == 200
    assert len(test.samples) == 400
    assert train.shape == (64, 64, 3)
    assert train.samples[0]["image"].shape == (64, 64, 3)


def test_hub_errors_say_what_to_do(tmp_path, monkeypatch):
    def failing(error):
        def load_dataset(*_, **__):
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    failing(ConnectionError("Couldn't reach the Hub"))
    command = "hf download uoft-cs/cifar10 --repo-type dataset --local-dir DIR"
    assert command in message(data.load, "cifar10")
    assert "--data.dir DIR" in message(data.load, "cifar10")
    assert "hf:DIR" in message(data.load, "hf:me/mine")
    not_found = datasets.exceptions.DatasetNotFoundError
    failing(not_found("Dataset 'ILSVRC/imagenet-1k' is a gated dataset on the Hub."))
    assert "hf auth login" in message(data.load, "imagenet256")
    assert "accept its terms" in message(data.load, "imagenet64")
    failing(not_found("Dataset 'me/set403' doesn't exist on the Hub or cannot be accessed."))
    assert "does not exist or is private" in message(data.load, "hf:me/set403")
    for status, words in ((401, "does not exist or is private"), (403, "accept its terms")):
        cause = OSError("an answer of the server")
        cause.response = types.SimpleNamespace(status_code=status)
        error = not_found("cannot be accessed")
        error.__cause__ = cause
        failing(error)
        assert words in message(data.load, "hf:me/mine")
    failing(ConnectionError("<object at 0x7f24031a0b10>: no route"))
    assert "cannot be reached" in message(data.load, "hf:me/mine")
    failing(not_found("Dataset 'me/mine' doesn't exist on the Hub or cannot be accessed."))
    assert "does not exist or is private" in message(data.load, "hf:me/mine")
    failing(OSError(28, "No space left on device"))
    assert "disk is full" in message(data.load, "mnist")
    assert "does not exist" in message(data.load, "hf:/no/such/place")
    assert "did you mean cifar10 or cifar100?" in message(data.load, "cifar1")
    assert "hf:owner/name" in message(data.load, "zzz:thing")


def test_facts_of_short_names_need_no_network():
    for name in data.HUB:
        known = data.load(name, facts_only=True)
        assert len(known.samples) == CARDS[name].train[1] >= 28_000
        assert known.shape[0] == known.shape[1]
        assert known.counts is None or sum(known.counts) == len(known.samples)
    assert data.load("imagenet256", facts_only=True).shape == (256, 256, 3)
    assert data.load("mnist", facts_only=True).shape == (28, 28, 1)
    assert data.load("cifar10", "test", {"image_size": 16}, facts_only=True).shape == (16, 16, 3)


def test_a_new_reader_is_one_file_and_one_line(monkeypatch):
    source = types.ModuleType("data.flowers")

    def load(name, split, options):
        samples = [{"image": np.full((2, 2, 1), options.channels, np.uint8), "label": 0}] * 3
        return data.Dataset(name, split, samples, (2, 2, 1), "uint8", ("all",), (3,))

    source.load = load
    monkeypatch.setitem(sys.modules, "data.flowers", source)
    monkeypatch.setitem(data.SOURCES, "flowers", "data.flowers")
    dataset = data.load("flowers", options={"channels": 1})
    assert data.load("flowers", "test", facts_only=True).split == "test"
    assert data.origin("flowers", {"channels": 1}) == ("flowers", {"channels": 1})
    images, labels = next(pipeline.stream(dataset, 0, 4))
    assert images.shape == (4, 2, 2, 1)
    assert images.min() == 1 and not labels.any()
    assert "is read where it lies" in message(data.load, "flowers", options={"streaming": True})


class Relabelled:
    """Samples with one label for all."""

    def __init__(self, samples, label):
        self.samples, self.label = samples, label

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index] | {"label": self.label}


def test_many_record_files(tmp_path):
    """More files than a process may have open."""

    def record(i):
        return struct.pack("<QI", 8, 0) + struct.pack("<Q", i) + bytes(4)

    files = [tmp_path / f"{k}" for k in range(60)]
    for k, file in enumerate(files):
        file.write_bytes(record(2 * k) + record(2 * k + 1))
    records = tfds.TFRecords([str(file) for file in files])
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limit[1]))
    try:
        assert [struct.unpack("<Q", records[i])[0] for i in range(len(records))] == list(range(120))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_options_without_a_use_are_refused(tmp_path):
    places = {
        "digits": ("image_size", "channels", "dir", "image_column", "label_column"),
        "mnist_5k": ("image_size", "dir", "label_column"),
        "folder:/set": ("dir", "image_column"),
        "hf:/set": ("dir",),
    }
    for name, flags in places.items():
        for flag in flags:
            value = 7 if flag in ("image_size", "channels") else "x"
            assert f"--data.{flag} {value}: " in message(data.load, name, options={flag: value})
    assert "has no columns" in message(
        data.load, write("folder", tmp_path / "set", pictures()), options={"label_column": "x"}
    )


def test_one_class_of_every_source(tmp_path, caches):
    for name in ("digits", "mnist_5k", write("folder", tmp_path / "set", pictures())):
        dataset = data.load(name, options={"label_column": "none"})
        assert dataset.class_names == ("all",)
        assert dataset.counts == (len(dataset.samples),)
        _, labels = pipeline.everything(dataset)
        assert not labels.any()


def test_tfds_without_tensorflow(tmp_path, caplog):
    """A name under --data.dir; pickled for worker processes; damaged and missing files; columns."""
    folder = prepare_tfds(tmp_path / "odd", pictures())
    options = {"dir": str(tmp_path / "odd")}
    dataset = data.load("tfds:odd", options=options)
    again = pickle.loads(pickle.dumps(dataset.samples))
    np.testing.assert_array_equal(again[3]["image"], dataset.samples[3]["image"])
    negative = dataclasses.replace(dataset, samples=Relabelled(dataset.samples, -1))
    assert "sample 0 has the label -1, expected 0 to 2" in message(pipeline.everything, negative)
    assert "tensorflow" not in sys.modules
    assert data.load("tfds:odd", options=options | {"label_column": "none"}).class_names == ("all",)
    assert "no feature 'labels'; did you mean label?" in message(
        data.load, "tfds:odd", options=options | {"label_column": "labels"}
    )
    assert "tfds build nothere" in message(data.load, "tfds:nothere", options=options)
    first = sorted(as_tfrecord(folder).glob("*.tfrecord-*"))[0]
    content = first.read_bytes()
    first.write_bytes(content[:-5])
    assert "cut short" in message(data.load, "tfds:odd", options=options)
    first.write_bytes(content[: 16 + struct.unpack("<Q", content[:8])[0]])
    assert "hold 7 samples, but dataset_info.json says 12" in message(
        data.load, "tfds:odd", options=options
    )
    first.unlink()
    assert "is missing" in message(data.load, "tfds:odd", options=options)
    assert pickle.loads(pickle.dumps(dataset.samples)).shape == dataset.shape


@pytest.mark.parametrize("name", data.HUB)
def test_dry_run_of_every_short_name(name):
    """The recipe fits the data set's facts: parts are built and reported without a network."""
    config = config_lib.resolve({"dataset_name": name, "dry_run": True})
    assert config.recipe == name
    dataset = data.load(name, options=config.data, facts_only=True)
    report = drift.report(drift.build(config, dataset, sharding.make_mesh(1, 1)))
    assert f"{len(dataset.samples):,} samples of {dataset.shape}" in report
    header = importlib.import_module(f"configs.{name}").__doc__
    for words in (f"--dataset_name {name}", "Hardware", "Time", "Expected", "Measured"):
        assert words in header
    script = (ROOT / "scripts" / f"train_{name}.sh").read_text()
    assert f"--dataset_name {name} " in script


# ---------------------------------------------------------------- the stream


class Numbers:
    """Sample i is the image of the number i."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return {"image": np.full((1, 1, 1), index, np.uint8), "label": np.int32(index)}


def numbers(n):
    return data.Dataset(
        "numbers", "train", Numbers(n), (1, 1, 1), "uint8", tuple(map(str, range(n)))
    )


def take(stream, batches):
    """The labels of the next batches; the stream is closed."""
    taken = [next(stream)[1] for _ in range(batches)]
    stream.close()
    return np.concatenate(taken)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_each_sample_once_an_epoch(ranks):
    """Two epochs in batches: no sample comes twice, none is left out, and the epochs differ."""
    n, batch = 60, 5
    per_rank = [
        take(pipeline.stream(numbers(n), 7, batch, rank=r, ranks=ranks), 2 * n // (batch * ranks))
        for r in range(ranks)
    ]
    order = np.stack(per_rank, 1).reshape(-1)  # [2 n] the order of the whole
    for epoch in (order[:n], order[n:]):
        assert sorted(epoch) == list(range(n))
    assert (order[:n] != order[n:]).any() and (order[:n] != np.arange(n)).any()


@pytest.mark.parametrize("k", [1, 4, 11, 12, 29])
def test_resume_is_exact_also_on_another_number_of_ranks(k):
    """k batches on two ranks, then some on one, then on two: the order of one never stopped."""
    n, batch, seed = 37, 4, 3  # Epochs end inside batches.
    whole = take(pipeline.stream(numbers(n), seed, batch), 80)
    two = np.stack(
        [take(pipeline.stream(numbers(n), seed, batch, rank=r, ranks=2), k) for r in (0, 1)], 1
    ).reshape(-1)
    position = 2 * k * batch
    one = take(pipeline.stream(numbers(n), seed, batch, position), 5)
    again = np.stack(
        [take(pipeline.stream(numbers(n), seed, batch, position + 20, r, 2), 1) for r in (0, 1)], 1
    ).reshape(-1)
    np.testing.assert_array_equal(np.concatenate([two, one, again]), whole[: position + 28])


@pytest.mark.parametrize(
    "batch_size, threads, ahead",
    [(8, 4, 64), (64, 4, 8), (1024, 4, 5), (1024, 16, 17)],
    ids=["small", "512 samples", "large", "many threads"],
)
def test_every_thread_has_a_batch_to_read(batch_size, threads, ahead):
    assert pipeline.batches_ahead(batch_size, threads) == ahead


def test_worker_processes_give_the_same_batches(tmp_path):
    """Also from a folder, from the middle of an epoch, and their errors are one line."""
    root = write_folder(tmp_path / "set", pictures())
    dataset = data.load(f"folder:{root}", options={"max_corrupt": 0.0})
    threads = pipeline.stream(dataset, 1, 5, 7)
    processes = pipeline.stream(dataset, 1, 5, 7, workers=2)
    for _ in range(4):
        images, labels = next(threads)
        same_images, same_labels = next(processes)
        np.testing.assert_array_equal(images, same_images)
        np.testing.assert_array_equal(labels, same_labels)
    processes.close()
    (root / "bee" / "005.jpg").write_bytes(b"no image")
    assert "005.jpg" in message(take, pipeline.stream(dataset, 1, 5, workers=1), 4)
