"""The floor of a Frechet distance in pixels: that of training images in the place of samples."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import data
from data import pipeline
from evaluation.reference import flatten_images
from metrics.fid import frechet_distance, moments
from utils.errors import UserError

MOST_PIXELS = 1024  # numbers of an image up to which the floor is computed,
MOST_IMAGES = 20_000  # and images of a set
SEED = 0  # of the draw


class Floor(NamedTuple):
    """What a generator that is as good as more data would reach.

    Attributes:
        value: the distance; None where there is none.
        text: in words, or why there is none.
    """

    value: float | None
    text: str


def floor_of(config: Any, row: dict) -> Floor:
    """Returns the floor of a row of fid.csv.

    It is the distance from the held-out images to as many training images as the row has samples,
    since it grows as samples get fewer. Where there are not so many, all are taken.

    Args:
        config: of the run.
        row: of the result.
    """
    if row["features"] != "pixels":
        return Floor(None, f"no floor for {row['features']}: it is computed in pixels alone")
    reference = str(row.get("reference", ""))
    if reference and not reference.endswith(":test"):
        return Floor(None, f"no floor: scored against {reference}, not the held-out images")
    if row.get("data"):
        return Floor(None, f"no floor: scored with other options of the data, {row['data']}")
    try:
        name, options = data.origin(config.dataset_name, config.data)
        held_out, train = (data.load(name, split, options) for split in ("test", "train"))
        if reference and reference != f"{held_out.name}:{held_out.split}":
            return Floor(None, f"no floor: scored against {reference}, other data than the run's")
        if held_out.split == "train":
            return Floor(None, "no floor: no images are held out")
        if train.order:
            return Floor(None, "no floor: the training images are streamed")
        chosen = drawn(len(train.samples), row["num_samples"])
        most = max(len(chosen), len(held_out.samples))
        if most > MOST_IMAGES or np.prod(train.shape) > MOST_PIXELS:
            size = "x".join(map(str, train.shape))
            return Floor(None, f"no floor: {most:,} images of {size} would take long")
        images = pipeline.everything(train, chosen)[0], pipeline.everything(held_out)[0]
    except UserError as error:
        return Floor(None, f"no floor: the data cannot be read ({error})")
    (mu1, sigma1), (mu2, sigma2) = (moments(flatten_images(part)) for part in images)
    value = float(frechet_distance(mu1, sigma1, mu2, sigma2))
    text = f"{len(images[0]):,} training images against the held-out ones have {value:.4g}"
    return Floor(value, text)


def drawn(n: int, count: int) -> Sequence[int]:
    """Returns the positions of `count` of n images, the same each time; of all if n is less."""
    return np.random.default_rng(SEED).permutation(n)[:count].tolist()
