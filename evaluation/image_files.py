"""Images in files: a folder of pictures, or an .npz.

The .npz is as ADM's evaluation writes and reads it: `arr_0` holds the images and `arr_1`, if it is
there, their labels.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from PIL import Image

from data.errors import in_words
from data.images import GREY_MODES, decode
from data.layout import SUFFIXES, images_under
from utils.errors import UserError
from utils.files import replacing
from utils.npz import read_npz
from utils.paths import to_local

PROBED = 32  # images of a folder that are looked at to tell whether all are grey


@dataclasses.dataclass(frozen=True)
class Images:
    """Images by index, uint8 [H,W,C].

    Attributes:
        name: where they come from.
        items: uint8 [N,H,W,C], or the paths of N files, which are read one by one.
        labels: [N], or None.
        channels: of images in files: 1 where all are grey, or else 3.
    """

    name: str
    items: np.ndarray | list[str]
    labels: np.ndarray | None = None
    channels: int = 3

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> np.ndarray:
        if isinstance(self.items, np.ndarray):
            return self.items[index]
        return read_image(self.items[index], self.channels)

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, C) of the first image."""
        return self[0].shape


def read_images(source: str | os.PathLike) -> Images:
    """Returns the images of a folder or of an .npz.

    Of a folder these are all that a data set would read (`data.layout.images_under`), sorted by
    path. Of an .npz it is `arr_0` or, where none has that name, the only array with four axes.

    Raises:
        UserError: there are no images, or they are not uint8 [N,H,W,C] with 1 or 3 channels; or an
            .npz has several arrays of images.
    """
    source = to_local(source)
    if source.is_dir():
        files = images_under(source)
        if not files:
            raise UserError(
                f"{source}: no images there; expected files that end in {', '.join(SUFFIXES)}"
            )
        return Images(str(source), files, channels=find_channels(files))

    arrays = read_npz(source)
    with_four_axes = [name for name, array in arrays.items() if array.ndim == 4]
    if len(with_four_axes) > 1:
        raise UserError(
            f"{source}: several arrays may be the images ({', '.join(with_four_axes)}); keep one "
            "of them, or join them"
        )
    only = arrays[with_four_axes[0]] if with_four_axes else None
    images = arrays.get("arr_0", only)
    if images is None or not _are_images(images):
        found = [f"{name} {array.dtype} {list(array.shape)}" for name, array in arrays.items()]
        raise UserError(
            f"{source}: expected images as arr_0, uint8 [N, H, W, 1 or 3] in 0 to 255; "
            f"found {', '.join(found) or 'nothing'}"
        )
    labels = arrays.get("arr_1")
    if labels is not None and labels.shape != (len(images),):
        labels = None
    return Images(str(source), images, labels)


def _are_images(array: np.ndarray) -> bool:
    """Returns whether the array is uint8 [N,H,W,1 or 3] with N > 0."""
    has_channels = array.ndim == 4 and array.shape[-1] in (1, 3)
    return has_channels and array.dtype == np.uint8 and len(array) > 0


def find_channels(files: list[str]) -> int:
    """Returns 1 where all images in the files are grey, or else 3.

    Where some are grey, all are looked at; only the beginning of each file is read.
    """
    probes = [files[i * len(files) // PROBED] for i in range(PROBED)]
    for file in (*probes, *files):
        try:
            with Image.open(file) as image:
                if image.mode not in GREY_MODES:
                    return 3
        except Exception:  # of Pillow, a dozen types: `read_image` says what is wrong with it
            continue
    return 1


def read_image(path: str | os.PathLike, channels: int = 3) -> np.ndarray:
    """Returns the image in a file, uint8 [H,W,channels], as a data set would read it.

    Raises:
        UserError: the file cannot be read as an image.
    """
    try:
        return decode(pathlib.Path(path).read_bytes(), channels, size=0)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises a dozen types for broken files
        raise UserError(
            f"{path} cannot be read as an image ({in_words(error)}); remove it or get it again"
        ) from None


def write_npz(
    path: str | os.PathLike,
    samples: np.ndarray,
    labels: np.ndarray | None,
    compressed: bool = False,
) -> None:
    """Writes samples and their labels as ADM does: `arr_0` [N,H,W,C], `arr_1` [N] if there are any.

    ADM's samples are uint8 images; latents are written as they are.
    """
    arrays = [samples] if labels is None else [samples, labels]
    save = np.savez_compressed if compressed else np.savez
    with replacing(path) as temporary:
        save(temporary, *arrays)  # names them arr_0, arr_1


def batches(images, indices: range, size: int) -> Iterator[np.ndarray]:
    """Yields uint8 [<= size,H,W,C]: the images of the indices, without those that are None.

    The next batch is read by threads meanwhile, because decoding is slower than a network.

    Args:
        images: `Images`, or other `evaluation.reference.RealImages`.
        indices: which of them.
        size: of a batch.
    Raises:
        UserError: the images of a batch differ in shape.
    """
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:

        def start_reading(start: int) -> list[Future]:
            return [pool.submit(images.__getitem__, i) for i in indices[start : start + size]]

        ahead = start_reading(0)
        for start in range(0, len(indices), size):
            current, ahead = ahead, start_reading(start + size)
            results = [future.result() for future in current]
            readable = [image for image in results if image is not None]
            if readable:
                _check_one_shape(readable, getattr(images, "name", "the images"))
                yield np.stack(readable)


def _check_one_shape(images: list[np.ndarray], name: str) -> None:
    """Raises UserError when the images differ in shape."""
    expected = images[0].shape
    for image in images:
        if image.shape != expected:
            raise UserError(
                f"{name}: shapes {list(expected)} and {list(image.shape)} are mixed; "
                "crop all images to one size"
            )
