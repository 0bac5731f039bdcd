"""A folder of latents as large as ImageNet's, of random numbers: for what a start on it takes.

    python benchmarks/many_latents.py --out runs/many_latents
    python benchmarks/start.py --dataset_name latents:runs/many_latents \\
        --recipe imagenet256_ablation --model.use_stable_vae 0 --model.preset debug \\
        --batch_size 64 --drift.n_neg 4 --encoder.name none --encoder.path= --data.flip 0 \\
        --sample_interval 0

1,281,167 latents of 32x32x4, with mean and standard deviation, take 21 GB; --flips 2 takes twice
that. The queues, the pool and the new reals of a step are the recipe's, the network is small.
"""

import argparse
import json
import math
import pathlib
import shutil
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from data.latents import DONE, LABELS, LATENTS, META

SHAPE = (32, 32, 4)
BLOCK = 4096  # latents that are drawn; the folder repeats them


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--flips", type=int, default=1, choices=(1, 2))
    given = parser.parse_args()
    folder = pathlib.Path(given.out)
    if folder.exists():
        parser.error(f"--out {folder} is there already; remove it, or give another folder")
    if not 1 <= given.classes <= given.samples:
        parser.error(f"--classes {given.classes}: expected 1 to --samples {given.samples}")
    write(folder, given.samples, given.classes, given.flips)


def write(folder: pathlib.Path, samples: int, classes: int, flips: int) -> None:
    """Writes the folder, in the layout of data/latents.py."""
    folder.mkdir(parents=True)
    height, width, channels = SHAPE
    shape = (flips, samples, height, width, 2 * channels)
    needed, free = 2 * math.prod(shape), shutil.disk_usage(folder).free
    if needed > free:
        sys.exit(f"{folder}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free")
    latents = np.lib.format.open_memmap(folder / LATENTS, "w+", np.float16, shape)
    block = np.random.default_rng(0).normal(size=(BLOCK, *shape[2:]))
    block[..., channels:] = 0.1  # the standard deviation
    block = block.astype(np.float16)
    for flip in range(flips):
        for first in range(0, samples, BLOCK):
            rows = latents[flip, first : first + BLOCK]
            rows[:] = block[: len(rows)]
    latents.flush()

    labels = np.arange(samples, dtype=np.int64) * classes // samples  # class by class
    np.save(folder / LABELS, labels.astype(np.int32))
    images = {"dataset": "stand-in", "split": "train", "data": {}, "vae": "", "vae_weights": ""}
    names = [str(label) for label in range(classes)]
    meta = {"images": images, "class_names": names, "shape": SHAPE, "flips": flips}
    (folder / META).write_text(json.dumps(meta | {"moments": True}))
    (folder / DONE).write_text(json.dumps({"samples": samples}))


if __name__ == "__main__":
    main()
