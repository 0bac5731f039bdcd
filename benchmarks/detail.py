"""What the scores say of real images without their fine detail, to read those of generated ones.

    python benchmarks/detail.py --dataset_name mnist_5k

Training images stand in the place of generated ones: as they are, with only their largest principal
components, blurred, or mixed with their nearest neighbour. All are scored in raw pixels against the
test split. A generator whose precision is 1 and whose recall is low scores like one of these rows.
"""

import pathlib
import sys
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.ndimage import gaussian_filter

import data
from benchmarks.frame import print_line
from configs.default import PATH, Key
from data import pipeline
from evaluation.floor import drawn
from metrics.fid import frechet_distance, moments
from metrics.neighbours import nearest
from metrics.precision_recall import precision_recall
from utils import config as config_lib

FLAGS = (
    Key("dataset_name", "mnist_5k", "a source in data/ that has a test split", PATH),
    Key("num_samples", 1000, "training images in the place of generated ones", "[10, 50000]"),
)
COMPONENTS = (300, 150, 100, 75, 50, 30)
BLURS = (0.3, 0.4, 0.5, 0.7)  # standard deviations in pixels
SHARES = (0.1, 0.3, 0.5)  # of the nearest neighbour


def main(flag_values):
    flags: Any = config_lib.all_flags(flag_values)
    train, test = (load(flags.dataset_name, split) for split in ("train", "test"))
    chosen = np.array(drawn(len(train), flags.num_samples))
    for change, images in changed(train, chosen):
        samples, reals = flat(images), flat(test)
        precision, recall = precision_recall(reals, samples)
        print_line(
            {
                "images": change,
                "fd_pixels": frechet_distance(*moments(samples), *moments(reals)),
                "precision": precision,
                "recall": recall,
            }
        )


def load(name: str, split: str) -> Float[ndarray, "N H W C"]:
    """Returns the images of a split, in [-1, 1] in float32."""
    images, _ = pipeline.everything(data.load(name, split))
    return images.astype(np.float32) / 127.5 - 1


def flat(images: Float[ndarray, "N H W C"]) -> Float[ndarray, "N D"]:
    """Returns images as rows of what a picture can show."""
    return np.clip(images, -1, 1).reshape(len(images), -1)


def changed(
    train: Float[ndarray, "N H W C"], chosen: ndarray
) -> Iterator[tuple[str, Float[ndarray, "M H W C"]]]:
    """Gives (what was done, images) of the chosen training images."""
    images = train[chosen]
    yield "as they are", images

    mean = train.mean(0, keepdims=True)
    _, _, directions = np.linalg.svd((train - mean).reshape(len(train), -1), full_matrices=False)
    centred = (images - mean).reshape(len(images), -1)
    for count in COMPONENTS:
        kept = directions[:count]
        yield (
            f"{count} principal components",
            (centred @ kept.T @ kept).reshape(images.shape) + mean,
        )

    for width in BLURS:
        yield f"blurred by {width} pixels", gaussian_filter(images, (0, width, width, 0))

    others = np.delete(train, chosen, axis=0)
    index, _ = nearest(flat(images), flat(others), 1)
    for share in SHARES:
        mixed = (1 - share) * images + share * others[index[:, 0]]
        yield f"mixed with {100 * share:.0f}% of the nearest other one", mixed


if __name__ == "__main__":
    config_lib.define_flags((), FLAGS)
    config_lib.run_main(main)
