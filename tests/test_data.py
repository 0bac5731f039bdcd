"""Data sources: the same pixels whatever the source, odd images, labels, and what is said when something is wrong."""

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

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import data
from benchmarks.data import as_tfrecord
from data import pipeline, tfds
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
    small = [rng.integers(0, 256, (3, 3, 3), np.uint8) for _ in range(len(CLASSES) * PER_CLASS)]
    return [
        (
            file_of(Image.fromarray(a).resize((side, side), Image.Resampling.BICUBIC), kind),
            i // PER_CLASS,
        )
        for i, a in enumerate(small)
    ]


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
    return datasets.Dataset.from_dict(
        {"img": [{"bytes": b, "path": None} for b, _ in files], "label": [k for _, k in files]},
        features=features,
    )


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
        return f"{'folder' if kind == 'folder' else 'hf'}:{root}"
    root.mkdir(parents=True, exist_ok=True)
    if kind.startswith("tfds"):
        folder = prepare_tfds(root, files)
        return f"tfds:{as_tfrecord(folder) if kind == 'tfds tfrecord' else folder}"
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
    assert dataset.shape == (side, side, 3) and dataset.dtype == "uint8"
    assert (
        dataset.class_names == CLASSES
        and dataset.counts == (PER_CLASS,) * 3
        and len(dataset.samples) == len(files)
    )
    images, labels = pipeline.everything(dataset)
    if kind.startswith("tfds"):  # which shuffles when it prepares
        key = lambda sample: decode(sample[0], 3, image_size).tobytes()
        files = sorted(files, key=key)
        order = sorted(range(len(images)), key=lambda i: images[i].tobytes())
        images, labels = images[order], labels[order]
    for image, label, (content, expected) in zip(images, labels, files, strict=True):
        truth = Image.open(io.BytesIO(content)).convert("RGB")
        np.testing.assert_array_equal(
            image, np.asarray(center_crop(truth, image_size) if image_size else truth)
        )
        assert label == expected


SMALL = {
    "model.preset": "debug",
    "model.patch_size": 4,
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
        ("streaming", 0),
        *(
            pytest.param(kind, 0, marks=pytest.mark.slow)
            for kind in (
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
    """The debug preset: bank, steps, checkpoint, scores, grid; from images of another size."""
    name = write(
        "hf parquet" if kind == "streaming" else kind, tmp_path / "set", pictures(side=2 * SIDE)
    )
    flags = SMALL | {
        "dataset_name": name,
        "save_dir": tmp_path / "run",
        "data.workers": workers,
        "data.streaming": kind == "streaming",
    }
    env = os.environ | {"XLA_FLAGS": "", "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [
        sys.executable,
        str(ROOT / "train_drift.py"),
        *(f"--{k}={v}" for k, v in flags.items()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert (
        done.returncode == 0
        and "Traceback" not in done.stderr
        and "Exception ignored" not in done.stderr
    ), done.stderr
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [1, 2, 3] and all(
        np.isfinite(line["loss"]) for line in lines
    )
    assert (tmp_path / "run" / "fid.csv").exists() and list(
        (tmp_path / "run" / "samples").glob("*.png")
    )


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
    assert (
        np.abs(decode(file_of(cmyk, "JPEG", quality=100), 3, 0).astype(int) - [255, 0, 0]).max()
        <= 3
    )
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
    halves = (
        wide.astype(np.float64).reshape(20, 2, 35, 2, 3).mean((1, 3))
    )  # 40 >= 2 * 16: once; 20 < 32
    out = center_crop(Image.fromarray(wide), 16)
    expected = (
        Image.fromarray(np.floor(halves + 0.5).astype(np.uint8))
        .resize((28, 16), Image.Resampling.BICUBIC)
        .crop((6, 0, 22, 16))
    )
    assert out.size == (16, 16)
    assert (
        np.abs(np.asarray(out).astype(int) - np.asarray(expected).astype(int)).max() <= 2
    )  # Pillow rounds after each axis
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
    assert (
        sum(str(victim) in r.message and "1 so far" in r.message for r in caplog.records) == 2
    )  # once by each of the two readings
    for i in (1, 9):
        (root / CLASSES[i // PER_CLASS] / f"{i:03d}.jpg").write_bytes(b"no image")
    dataset = data.load(f"folder:{root}", options={"max_corrupt": 0.2})
    assert "3 unreadable images" in message(pipeline.everything, dataset)
    assert "3 unreadable images" in message(
        lambda: [0 for _ in zip(pipeline.stream(dataset, 0, 4), range(6))]
    )


def test_other_sizes_are_named(tmp_path):
    root = write_folder(tmp_path, pictures() + [pictures(side=12)[-1]])
    assert "8x8, 12x12" in message(data.load, f"folder:{root}")
    assert data.load(f"folder:{root}", options={"image_size": 6}).shape == (6, 6, 3)


def test_channels_are_found_or_given(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(file_of(Image.fromarray(GREY)))
    grey = data.load(f"folder:{tmp_path}")
    assert grey.shape == (6, 4, 1) and grey.class_names == ("all",) and grey.counts == (3,)
    assert data.load(f"folder:{tmp_path}", options={"channels": 3}).shape == (6, 4, 3)
    for i in range(3, 80):
        (tmp_path / f"{i}.png").write_bytes(file_of(Image.fromarray(COLOUR if i == 75 else GREY)))
    assert "75.png is of colour (RGB)" in message(
        pipeline.everything, data.load(f"folder:{tmp_path}")
    )
    assert (
        len(pipeline.everything(data.load(f"folder:{tmp_path}", options={"channels": 1}))[0]) == 80
    )
    assert "--data.channels 2" in message(data.load, f"folder:{tmp_path}", options={"channels": 2})


# ---------------------------------------------------------------- splits, labels, columns


def test_folder_splits(tmp_path, caplog):
    files = pictures()
    write_folder(tmp_path / "train", files)
    assert data.load(f"folder:{tmp_path}", "test").split == "train" and "stands in" in caplog.text
    write_folder(tmp_path / "val", files[::2])
    (tmp_path / "test").mkdir()  # without classes, as ImageNet's
    held_out = data.load(f"folder:{tmp_path}", "test")
    assert (
        held_out.split == "test"
        and len(held_out.samples) == 6
        and len(data.load(f"folder:{tmp_path}").samples) == 12
    )
    assert "did you mean val?" in message(data.load, f"folder:{tmp_path}", "vall")
    (tmp_path / "train" / "dog").mkdir()
    assert "dog has no images" in message(data.load, f"folder:{tmp_path}")
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
    assert (
        texts.class_names == ("a", "b", "c")
        and texts.counts == (1, 2, 1)
        and texts.samples[0]["label"] == 1
    )
    numbers = parquet(
        tmp_path / "numbers",
        {"pic": images, "kind": [2, 0, 1, 2]},
        datasets.Features({"pic": image, "kind": datasets.Value("int64")}),
    )
    assert data.load(numbers, options={"label_column": "kind"}).counts == (1, 1, 2)
    none = data.load(numbers)
    assert none.class_names == ("all",) and none.counts == (4,) and none.samples[3]["label"] == 0
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
    assert data.load(both).samples[0]["label"] == 0 and "coarse, not from fine" in caplog.text
    assert data.load(both, options={"label_column": "fine"}).samples[0]["label"] == 1
    assert data.load(both, options={"label_column": "none"}).n_classes == 1
    hole = datasets.Features({"pic": image, "label": datasets.ClassLabel(names=["x", "y", "z"])})
    assert "class 1 ('y') has no samples" in message(
        data.load, parquet(tmp_path / "hole", {"pic": images, "label": [0, 2, 0, 2]}, hole)
    )
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
    assert (
        len(train.samples) == 200
        and len(test.samples) == 400
        and train.shape == (64, 64, 3)
        and train.samples[0]["image"].shape == (64, 64, 3)
    )


def test_hub_errors_say_what_to_do(tmp_path, monkeypatch):
    def failing(error):
        def load_dataset(*_, **__):
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    failing(ConnectionError("Couldn't reach the Hub"))
    assert "hf download uoft-cs/cifar10 --repo-type dataset --local-dir DIR" in message(
        data.load, "cifar10"
    )
    assert "--data.dir DIR" in message(data.load, "cifar10") and "hf:DIR" in message(
        data.load, "hf:me/mine"
    )
    failing(
        datasets.exceptions.DatasetNotFoundError(
            "Dataset 'ILSVRC/imagenet-1k' is a gated dataset on the Hub."
        )
    )
    assert "hf auth login" in message(data.load, "imagenet256") and "accept its terms" in message(
        data.load, "imagenet64"
    )
    failing(
        datasets.exceptions.DatasetNotFoundError(
            "Dataset 'me/mine' doesn't exist on the Hub or cannot be accessed."
        )
    )
    assert "does not exist or is private" in message(data.load, "hf:me/mine")
    failing(OSError(28, "No space left on device"))
    assert "disk is full" in message(data.load, "mnist")
    assert "does not exist" in message(data.load, "hf:/no/such/place")
    assert "did you mean cifar10 or cifar100?" in message(data.load, "cifar1")
    assert "hf:owner/name" in message(data.load, "zzz:thing")


def test_facts_of_short_names_need_no_network():
    for name in data.HUB:
        known = data.load(name, facts_only=True)
        assert (
            len(known.samples) >= 28_000
            and known.shape[0] == known.shape[1]
            and (known.counts is None or sum(known.counts) == len(known.samples))
        )
    assert data.load("imagenet256", facts_only=True).shape == (256, 256, 3) and data.load(
        "mnist", facts_only=True
    ).shape == (28, 28, 1)
    assert data.load("cifar10", "test", {"image_size": 16}, facts_only=True).shape == (16, 16, 3)


class Relabelled:
    def __init__(self, source, label):
        self.source, self.label = source, label

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.source[index] | {"label": self.label}


def test_many_record_files(tmp_path):
    """More files than a process may have open."""
    record = lambda i: struct.pack("<QI", 8, 0) + struct.pack("<Q", i) + bytes(4)
    files = [tmp_path / f"{k}" for k in range(60)]
    for k, file in enumerate(files):
        file.write_bytes(record(2 * k) + record(2 * k + 1))
    records, limit = (
        tfds.TFRecords(list(map(str, files))),
        resource.getrlimit(resource.RLIMIT_NOFILE),
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limit[1]))
    try:
        assert [struct.unpack("<Q", records[i])[0] for i in range(len(records))] == list(range(120))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_options_without_a_use_are_refused(tmp_path):
    places = {
        "digits": ("image_size", "channels", "dir", "image_column", "label_column"),
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
    for name in ("digits", write("folder", tmp_path / "set", pictures())):
        dataset = data.load(name, options={"label_column": "none"})
        assert (
            dataset.class_names == ("all",)
            and dataset.counts == (len(dataset.samples),)
            and not pipeline.everything(dataset)[1].any()
        )


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
    """The recipe fits the data set's facts: parts are built and reported without a network, encoders included."""
    config = config_lib.resolve({"dataset_name": name, "dry_run": True})
    assert config.recipe == name
    dataset = data.load(name, options=config.data, facts_only=True)
    report = drift.report(drift.build(config, dataset, sharding.make_mesh(1, 1)))
    assert f"{len(dataset.samples):,} samples of {dataset.shape}" in report
    header = importlib.import_module(f"configs.{name}").__doc__
    assert f"--dataset_name {name}" in header and all(
        word in header for word in ("Hardware", "Time", "Expected", "Measured")
    )
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
    taken = [next(stream)[1] for _ in range(batches)]
    stream.close()
    return np.concatenate(taken)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_each_sample_once_an_epoch(ranks):
    """Two epochs of 60 samples in batches of 5: every rank takes its part, no sample twice, none left out; the epochs differ."""
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
    """Stop after k batches on two ranks, go on with one, and back with two: the uninterrupted order. 37 samples: epochs end inside batches."""
    n, batch, seed = 37, 4, 3
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


def test_worker_processes_give_the_same_batches(tmp_path):
    """Also from a folder, from the middle of an epoch, and their errors are one line."""
    root = write_folder(tmp_path / "set", pictures())
    dataset = data.load(f"folder:{root}", options={"max_corrupt": 0.0})
    threads, processes = (
        pipeline.stream(dataset, 1, 5, 7),
        pipeline.stream(dataset, 1, 5, 7, workers=2),
    )
    for (x, k), (x2, k2), _ in zip(threads, processes, range(4)):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(k, k2)
    processes.close()
    (root / "bee" / "005.jpg").write_bytes(b"no image")
    assert "005.jpg" in message(
        lambda: [0 for _ in zip(pipeline.stream(dataset, 1, 5, workers=1), range(4))]
    )
