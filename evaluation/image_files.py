"""Images in files: a folder of pictures, or an .npz as ADM's evaluation writes and reads it (arr_0 images, arr_1 labels)."""

import dataclasses
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from utils.errors import UserError
from utils.files import replacing
from utils.npz import read_npz

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclasses.dataclass(frozen=True)
class Images:
    """Random access, `images[i]` uint8 [H,W,C], over a folder's sorted files or an array; labels [N] or None."""

    name: str
    items: object  # uint8 [N,H,W,C], or a list of paths
    labels: np.ndarray | None = None

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.items[i] if isinstance(self.items, np.ndarray) else read_image(self.items[i])

    @property
    def shape(self) -> tuple[int, int, int]:
        return self[0].shape


def read_images(where) -> Images:
    """The images of a folder (all files of SUFFIXES below it, sorted by path), or of `arr_0` (or the only array with four axes) of an .npz.

    Raises UserError when there are none, or they are not uint8 NHWC with 1 or 3 channels.
    """
    where = pathlib.Path(where).expanduser()
    if where.is_dir():
        files = sorted(p for p in where.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not files:
            raise UserError(
                f"{where}: no images there; expected files that end in {', '.join(SUFFIXES)}"
            )
        return Images(str(where), files)
    arrays = read_npz(where)
    images = arrays.get("arr_0", next((a for a in arrays.values() if a.ndim == 4), None))
    if (
        images is None
        or images.ndim != 4
        or images.dtype != np.uint8
        or images.shape[-1] not in (1, 3)
        or not len(images)
    ):
        found = ", ".join(f"{k} {a.dtype} {list(a.shape)}" for k, a in arrays.items()) or "nothing"
        raise UserError(
            f"{where}: expected images as arr_0, uint8 [N, H, W, 1 or 3] in 0 to 255; found {found}"
        )
    labels = arrays.get("arr_1")
    return Images(
        str(where),
        images,
        labels if labels is not None and labels.shape == (len(images),) else None,
    )


def write_npz(path, images: np.ndarray, labels: np.ndarray | None) -> None:
    """ADM's format: arr_0 uint8 [N,H,W,C], and arr_1 [N] where there are labels."""
    with replacing(path) as temporary:
        np.savez(temporary, images, *(() if labels is None else (labels,)))


def read_image(path) -> np.ndarray:
    """uint8 [H,W,3], or [H,W,1] of a grey file."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read as an image ({error}); remove it or get it again"
        ) from None
    return pixels if pixels.ndim == 3 else pixels[..., None]


def batches(images, indices: range, size: int):
    """uint8 [<= size,H,W,C] of images[i] for i in indices, without those that are None (unreadable); read ahead by threads, as decoding is slower than a network.

    Raises UserError when they differ in shape.
    """
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        read = lambda start: [
            pool.submit(images.__getitem__, i) for i in indices[start : start + size]
        ]
        ahead = read(0)
        for start in range(0, len(indices), size):
            now, ahead = ahead, read(start + size)
            batch = [image for image in (future.result() for future in now) if image is not None]
            odd = next((b.shape for b in batch if b.shape != batch[0].shape), None)
            if odd:
                raise UserError(
                    f"{getattr(images, 'name', 'the images')}: shapes {list(batch[0].shape)} and {list(odd)} are mixed; crop all images to one size"
                )
            if batch:
                yield np.stack(batch)
