"""Writes a folder with few training images of a grey set, for a run that can learn them by heart.

    python benchmarks/few_digits.py --per_class 5 --out runs/few_digits
    python train_drift.py --dataset_name folder:runs/few_digits ...

The folder has `train/` with so many images of each class, and `test/` with all that are held out;
docs/benchmarks.md has the whole commands.
"""

import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from PIL import Image

import data
from benchmarks.frame import print_line
from configs.default import Key
from data import pipeline
from utils import config as config_lib
from utils.errors import UserError

FLAGS = (
    Key("per_class", 5, "training images of each class", "[1, inf)"),
    Key("out", "", "the folder to write"),
)


def main(flag_values):
    flags: Any = config_lib.all_flags(flag_values)
    if not flags.out:
        raise UserError("--out is missing: give the folder to write")
    folder = pathlib.Path(flags.out).expanduser()
    if folder.exists():
        raise UserError(f"--out {folder}: it is there already; give another folder")
    written = {}
    for split, most in (("train", flags.per_class), ("test", None)):
        written[split] = write_split(flags.dataset_name, folder / split, split, most)
    print_line({"out": str(folder)} | written)


def write_split(name: str, folder: pathlib.Path, split: str, most: int | None) -> int:
    """Writes the images of a split as PNG files, a folder for each class; returns their number.

    most: of each class, the first ones; None for all.
    """
    dataset = data.load(name, split)
    images, labels = pipeline.everything(dataset)
    count = 0
    for label in range(dataset.n_classes):
        of_class = folder / str(label)
        of_class.mkdir(parents=True)
        for number, image in enumerate(images[labels == label][:most]):
            Image.fromarray(image[..., 0]).save(of_class / f"{number:04d}.png")
            count += 1
    return count


if __name__ == "__main__":
    config_lib.define_flags(("dataset_name",), FLAGS)
    config_lib.run_main(main)
