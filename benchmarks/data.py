"""Images that one core reads, decodes and batches in a second, from each kind of source.

    python benchmarks/data.py              both sizes
    python benchmarks/data.py 32x32        PNG of 32x32
    python benchmarks/data.py 256x256      JPEG of 500x375, ImageNet's usual size, to 256x256

The images are smooth and random, and decode about as fast as photographs; the files are in the page
cache. The sources take turns, five times. What counts is the processor time of the process, with
all its threads, so that other work on the machine disturbs little. Prints a row of a Markdown table
for each source: the median, and the least and the most.
"""

import argparse
import dataclasses
import io
import json
import os
import pathlib
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image

import data
from data import pipeline

ROUNDS = 5
CLASSES = 10
BATCH_SIZE = 20
LATENTS = 2000  # in the folder of latents


class Case(NamedTuple):
    """One kind of images."""

    size: str  # as the command line names it
    name: str
    images: int  # how many
    width: int
    height: int
    kind: str  # of file
    image_size: int  # to which they are read; 0: as they are


CASES = (
    Case("32x32", "32x32 PNG", 8000, 32, 32, "PNG", 0),
    Case("256x256", "500x375 JPEG to 256x256", 240, 500, 375, "JPEG", 256),
)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [case.size for case in CASES]
    parser.add_argument("sizes", nargs="*", help=f"of {', '.join(sizes)}; none: all")
    wanted = parser.parse_args().sizes or sizes
    if not set(wanted) <= set(sizes):
        parser.error(f"sizes {' '.join(wanted)}: expected some of {', '.join(sizes)}")
    warnings.simplefilter("ignore")
    for case in CASES:
        if case.size in wanted:
            with tempfile.TemporaryDirectory() as folder:
                os.environ["HF_DATASETS_CACHE"] = folder + "/cache"
                print_rows(case, pathlib.Path(folder))


def print_rows(case: Case, folder: pathlib.Path) -> None:
    """Prints the rates of all sources of one kind of images."""
    datasets = load_sources(case, folder)
    rates = {name: [] for name in datasets}
    for _ in range(ROUNDS):
        for name, dataset in datasets.items():
            rates[name].append(rate(dataset, case.images))
    if case.image_size:
        source = latents_folder(folder / "latents", LATENTS)
        latents = data.load(f"latents:{source}", options={"flip": True})
        rates["latents 32x32x4"] = [rate(latents, 2 * LATENTS) for _ in range(ROUNDS)]
    for name, found in rates.items():
        median, least, most = np.median(found), min(found), max(found)
        row = f"| {case.name} | {name} | {median:,.0f} | {least:,.0f} to {most:,.0f} |"
        print(row, flush=True)


def rate(dataset: data.Dataset, images: int) -> float:
    """Returns images per second of processor time of a batched stream.

    About so many images are read, after a first batch that does not count.
    """
    counted = Counting(dataset.samples)
    batches: Any = pipeline.stream(dataclasses.replace(dataset, samples=counted), 0, BATCH_SIZE)
    next(batches)
    before, start = counted.count, time.process_time()
    while counted.count - before < images:
        next(batches)
    found = (counted.count - before) / (time.process_time() - start)
    batches.close()
    return found


class Counting:
    """Samples that count how many are read: a pipeline reads ahead of what it has given."""

    def __init__(self, samples: Any):
        self.samples = samples
        self.count = 0

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.count += 1
        return self.samples[index]


# ---------------------------------------------------------------- sources


def load_sources(case: Case, folder: pathlib.Path) -> dict[str, data.Dataset]:
    """Returns the same images from each kind of source, by name."""
    names = write_sources(folder, list(pictures(case)))
    names["hf parquet, streaming"] = names["hf parquet"]
    found = {}
    for name, dataset_name in names.items():
        options = {
            "image_size": case.image_size,
            "streaming": "streaming" in name,
            "stream_window": case.images // 4,
        }
        found[name] = data.load(dataset_name, options=options)
    return found


def pictures(case: Case) -> Iterator[bytes]:
    """Yields files of smooth images."""
    random = np.random.default_rng(0)
    for _ in range(case.images):
        small = random.integers(0, 256, (case.height // 8, case.width // 8, 3), np.uint8)
        size = (case.width, case.height)
        image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, case.kind)
        yield buffer.getvalue()


def write_sources(root: pathlib.Path, files: list[bytes]) -> dict[str, str]:
    """Writes the same files as each kind of source; returns names for `data.load`."""
    import datasets

    for i, content in enumerate(files):
        folder = root / "folder" / str(i % CLASSES)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(content)  # readers look into a file, not at its suffix
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=CLASSES)}
    )
    columns = {
        "image": [{"bytes": content, "path": None} for content in files],
        "label": [i % CLASSES for i in range(len(files))],
    }
    table = datasets.Dataset.from_dict(columns, features=features)
    (root / "parquet").mkdir()
    table.to_parquet(root / "parquet" / "train.parquet")
    table.save_to_disk(str(root / "arrow"))
    return {
        "folder": f"folder:{root / 'folder'}",
        "hf parquet": f"hf:{root / 'parquet'}",
        "hf arrow": f"hf:{root / 'arrow'}",
        "tfds array_record": f"tfds:{tfds_folder(root / 'tfds', files)}",
        "tfds tfrecord": f"tfds:{as_tfrecord(tfds_folder(root / 'tfrecord', files))}",
    }


def tfds_folder(root: pathlib.Path, files: list[bytes]) -> pathlib.Path:
    """Returns the folder of the files as TFDS prepares them, in array_record."""
    import tensorflow_datasets as tfds

    class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path: Any = root

        def _info(self):
            image = tfds.features.Image(shape=(None, None, 3))
            label = tfds.features.ClassLabel(num_classes=CLASSES)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, content in enumerate(files):
                yield i, {"image": io.BytesIO(content), "label": i % CLASSES}

    builder: Any = Pictures(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    return builder.data_path


def as_tfrecord(folder: pathlib.Path, shards: int = 2) -> pathlib.Path:
    """Turns an array_record set of one file into TFRecord files, and returns its folder.

    A record is its length, a checksum, the data and a checksum; readers skip the checksums.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    (file,) = folder.glob("*.array_record-*")
    source = ArrayRecordDataSource([str(file)])
    records = [source[i] for i in range(len(source))]
    file.unlink()

    name = file.name.split(".")[0]
    lengths = []
    for shard in range(shards):
        first, end = (k * len(records) // shards for k in (shard, shard + 1))
        lengths.append(end - first)
        content = b""
        for record in records[first:end]:
            content += struct.pack("<QI", len(record), 0) + record + struct.pack("<I", 0)
        (folder / f"{name}.tfrecord-{shard:05d}-of-{shards:05d}").write_bytes(content)

    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    info["splits"][0]["shardLengths"] = [str(length) for length in lengths]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def latents_folder(root: pathlib.Path, count: int) -> pathlib.Path:
    """Writes latents of 256x256 images as scripts/cache_latents.py does, and returns the folder.

    They are means and deviations, in both flips.
    """
    root.mkdir()
    moments = np.random.default_rng(0).standard_normal((2, count, 32, 32, 8), np.float32)
    np.save(root / "latents.npy", moments.astype(np.float16))
    np.save(root / "labels.npy", np.arange(count, dtype=np.int32) % CLASSES)
    images = {
        "dataset": "none",
        "split": "train",
        "data": {},
        "image_shape": [256, 256, 3],
        "vae": "none",
        "vae_weights": "0",
    }
    meta = {
        "images": images,
        "shape": [32, 32, 4],
        "class_names": [str(label) for label in range(CLASSES)],
        "moments": True,
        "flips": 2,
        "seed": 0,
    }
    (root / "meta.json").write_text(json.dumps(meta))
    (root / "done.json").write_text(json.dumps({"samples": count}))
    return root


if __name__ == "__main__":
    main()
