"""Images per second that one core reads, decodes and batches from each kind of source.

    python benchmarks/data.py                 32x32 PNG, and 256x256 JPEG from images of 500x375, ImageNet's usual size

Smooth random images, which decode about as fast as photographs; files are in the page cache. Prints one Markdown table row per source.
"""

import io
import os
import pathlib
import sys
import tempfile
import time

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
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    table = datasets.Dataset.from_dict({"image": [{"bytes": b, "path": None} for b in files], "label": [i % 10 for i in range(len(files))]}, features=features)
    (root / "parquet").mkdir()
    table.to_parquet(root / "parquet" / "train.parquet")
    table.save_to_disk(str(root / "arrow"))
    return {"folder": f"folder:{root / 'folder'}", "hf parquet": f"hf:{root / 'parquet'}", "hf arrow": f"hf:{root / 'arrow'}"}


def rate(dataset, seconds=6.0):
    """Images per second of a batched stream on one core, after a warm-up."""
    batches = pipeline.stream(dataset, 0, 64)
    for _ in range(3):
        next(batches)
    start, n = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        n += len(next(batches)[1])
    batches.close()
    return n / (time.perf_counter() - start)


def main():
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core
    for label, n, size, kind, image_size in (("32x32 PNG", 5000, (32, 32), "PNG", 0), ("500x375 JPEG to 256x256", 1000, (500, 375), "JPEG", 256)):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HF_DATASETS_CACHE"] = folder + "/cache"
            for name, where in sources(pathlib.Path(folder), list(pictures(n, size, kind))).items():
                dataset = data.load(where, options={"image_size": image_size})
                print(f"| {label} | {name} | {rate(dataset):,.0f} |", flush=True)


if __name__ == "__main__":
    main()
