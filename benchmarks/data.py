"""Images that one core reads, decodes and batches in a second of its time, from each kind of source.

    python benchmarks/data.py [32x32] [256x256]    32x32 PNG, and 256x256 JPEG from images of 500x375, ImageNet's usual size

Smooth random images, which decode about as fast as photographs; files are in the page cache. The sources take turns, five times; what counts is the processor time of
the process, with all its threads, so that other work on the machine disturbs little. Prints one Markdown table row per source: the median, and the least and the most.
"""

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

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image

import data
from data import pipeline


def pictures(n, size, kind):
    """n files of smooth images of `size` (width, height)."""
    rng = np.random.default_rng(0)
    for _ in range(n):
        small = Image.fromarray(rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8))
        buffer = io.BytesIO()
        small.resize(size, Image.Resampling.BICUBIC).save(buffer, kind)
        yield buffer.getvalue()


def sources(root, files):
    """{name: data set}, the same files (whatever their suffix says) as a folder, parquet and saved arrow."""
    import datasets

    for i, content in enumerate(files):
        (root / "folder" / str(i % 10)).mkdir(parents=True, exist_ok=True)
        (root / "folder" / str(i % 10) / f"{i}.png").write_bytes(content)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)}
    )
    table = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": b, "path": None} for b in files],
            "label": [i % 10 for i in range(len(files))],
        },
        features=features,
    )
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


def latents_folder(root, n):
    """n latents of 256x256 images in both flips, as scripts/cache_latents.py writes them: mean and deviation."""
    root.mkdir()
    np.save(
        root / "latents.npy",
        np.random.default_rng(0).standard_normal((2, n, 32, 32, 8), np.float32).astype(np.float16),
    )
    np.save(root / "labels.npy", np.arange(n, dtype=np.int32) % 10)
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
        "class_names": list("0123456789"),
        "moments": True,
        "flips": 2,
        "seed": 0,
    }
    (root / "meta.json").write_text(json.dumps(meta))
    (root / "done.json").write_text(json.dumps({"samples": n}))
    return root


def tfds_folder(root, files):
    """The same files prepared by TFDS."""
    import tensorflow_datasets as tfds

    class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = root

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _):
            return {
                "train": (
                    (i, {"image": io.BytesIO(content), "label": i % 10})
                    for i, content in enumerate(files)
                )
            }

        def _generate_examples(self):
            return ()

    builder = Pictures(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    return builder.data_path


def as_tfrecord(folder, shards=2):
    """An array_record set turned into TFRecord files: length, checksum, data, checksum. The checksums are not looked at."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    (file,) = folder.glob("*.array_record-*")
    source = ArrayRecordDataSource([str(file)])
    records = [source[i] for i in range(len(source))]
    file.unlink()
    parts = [
        records[k * len(records) // shards : (k + 1) * len(records) // shards]
        for k in range(shards)
    ]
    for k, part in enumerate(parts):
        content = b"".join(struct.pack("<QI", len(r), 0) + r + struct.pack("<I", 0) for r in part)
        (folder / f"{file.name.split('.')[0]}.tfrecord-{k:05d}-of-{shards:05d}").write_bytes(
            content
        )
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    info["splits"][0]["shardLengths"] = [str(len(part)) for part in parts]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


class Counting:
    """A source that counts what is read from it: pipelines read ahead of what they have given."""

    def __init__(self, source):
        self.source, self.n = source, 0

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.n += 1
        return self.source[index]


def rate(dataset, images):
    """Images per second of processor time of a batched stream, by about so many images, after a warm-up."""
    source = Counting(dataset.samples)
    batches = pipeline.stream(dataclasses.replace(dataset, samples=source), 0, 20)
    next(batches)
    first, start = source.n, time.process_time()
    while source.n - first < images:
        next(batches)
    found = (source.n - first) / (time.process_time() - start)
    batches.close()
    return found


def main():
    warnings.simplefilter("ignore")
    for label, n, size, kind, image_size in (
        ("32x32 PNG", 8000, (32, 32), "PNG", 0),
        ("500x375 JPEG to 256x256", 240, (500, 375), "JPEG", 256),
    ):
        if not any(word in label for word in sys.argv[1:] or [label]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HF_DATASETS_CACHE"] = folder + "/cache"
            places = sources(pathlib.Path(folder), list(pictures(n, size, kind)))
            places |= {"hf parquet, streaming": places["hf parquet"]}
            sets = {
                name: data.load(
                    where,
                    options={
                        "image_size": image_size,
                        "streaming": "streaming" in name,
                        "stream_window": n // 4,
                    },
                )
                for name, where in places.items()
            }
            rates = {name: [] for name in sets}
            for _ in range(5):
                for name, dataset in sets.items():
                    rates[name].append(rate(dataset, n))
            if image_size:
                sets["latents 32x32x4"] = data.load(
                    f"latents:{latents_folder(pathlib.Path(folder) / 'latents', 2000)}",
                    options={"flip": True},
                )
                rates["latents 32x32x4"] = [rate(sets["latents 32x32x4"], 4000) for _ in range(5)]
            for name, found in rates.items():
                print(
                    f"| {label} | {name} | {np.median(found):,.0f} | {min(found):,.0f} to {max(found):,.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
