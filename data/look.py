"""What a stored data set looks like: sizes, kinds and classes, from some of its images."""

import dataclasses

import numpy as np
from PIL import Image

from data.dataset import Dataset
from data.images import GREY_MODES, Corrupt, Images, open_sample

LOOKED_AT = 256  # images, spread over the set
JPEG = b"\xff\xd8"  # how such a file begins


@dataclasses.dataclass(frozen=True)
class Look:
    """What some images of a data set have in common.

    Attributes:
        sizes: (width, height) of each image looked at.
        grey: how many of them are grey.
        transparent: how many of them have a transparent pixel.
        photographs: how many of them are colour JPEG files, which drawings rarely are.
    """

    sizes: tuple[tuple[int, int], ...]
    grey: int
    transparent: int
    photographs: int

    @property
    def count(self) -> int:
        """How many images were looked at."""
        return len(self.sizes)

    @property
    def median_side(self) -> float:
        """The shorter side in pixels, the median of the images."""
        return float(np.median([min(size) for size in self.sizes]))

    @property
    def common_size(self) -> tuple[int, int] | None:
        """(width, height), if all images have the same; None if they differ."""
        sizes = set(self.sizes)
        return sizes.pop() if len(sizes) == 1 else None


def look_at(dataset: Dataset) -> Look | None:
    """Returns what images of the data set look like; None for one that is not stored images."""
    samples = dataset.samples
    if not isinstance(samples, Images):
        return None
    sizes, grey, transparent, photographs = [], 0, 0, 0
    n = len(samples)
    for index in sorted({i * n // LOOKED_AT for i in range(LOOKED_AT)}):
        try:
            image, content = open_sample(samples.read, index)
        except Corrupt:
            continue  # the pipeline counts those
        sizes.append(image.size)
        is_grey = image.mode in GREY_MODES
        grey += is_grey
        transparent += has_transparency(image)
        is_jpeg = isinstance(content, bytes) and content.startswith(JPEG)
        photographs += is_jpeg and not is_grey
    return Look(tuple(sizes), grey, transparent, photographs) if sizes else None


def has_transparency(image: Image.Image) -> bool:
    """Returns whether a pixel of the image lets its background through."""
    if "transparency" in image.info:
        return True
    if not image.mode.endswith(("A", "a")):
        return False
    opaqueness = image.getchannel("A" if "A" in image.mode else "a")
    return bool((np.asarray(opaqueness) < 255).any())
