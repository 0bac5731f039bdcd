"""From stored images to uint8 arrays of one shape: the same pixels for the same file, whatever the data set it came in."""

import io
import logging
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

from utils.errors import UserError

log = logging.getLogger(__name__)

PROBED = 32  # images looked at to find the shape of a data set
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")


class Corrupt(Exception):
    """An image that cannot be read; the text names it and says why. The pipeline skips and counts these."""


def open_image(content) -> Image.Image:
    """An upright Pillow image from the bytes of a file, an array [H,W], [H,W,1] or [H,W,3] of uint8, or a Pillow image. Raises what Pillow raises."""
    if isinstance(content, np.ndarray):
        if (
            content.dtype != np.uint8
            or content.ndim not in (2, 3)
            or content.ndim == 3
            and content.shape[-1] not in (1, 3)
        ):
            raise ValueError(f"an array of {content.dtype} {list(content.shape)} is no image")
        return Image.fromarray(
            content[..., 0] if content.ndim == 3 and content.shape[-1] == 1 else content
        )
    image = content if isinstance(content, Image.Image) else Image.open(io.BytesIO(content))
    image.load()
    return ImageOps.exif_transpose(image)


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """An image of any kind as "L" or "RGB". 16 bits are scaled to 8, and what is transparent is laid on white."""
    if image.mode.startswith("I"):  # Pillow's own conversion would cut everything above 255 off
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"grey values from {values.min()} to {values.max()}, expected 16 bits")
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The central square at size x size: box filter by halves, then bicubic, then crop.

    ImageNet references for FID are made this way (arXiv 2105.05233, the data loader of its code). An image of that size already stays as it is.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def decode(content, channels: int, size: int) -> np.ndarray:
    """[H,W,channels] uint8 in [0, 255] of what `open_image` takes. size: of the side, 0 = as stored. Raises what Pillow raises."""
    image = to_mode(open_image(content), "L" if channels == 1 else "RGB")
    image = center_crop(image, size) if size else image
    return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)


class Images:
    """Random access over stored images. read(i) -> (content for `decode`, label, name for messages); it must survive pickling, for worker processes.

    size: of the side that images are brought to, 0 = none. only_grey: colour images are an error, not turned to grey.
    """

    def __init__(
        self,
        read: Callable[[int], tuple],
        n: int,
        shape: tuple[int, int, int],
        size: int,
        only_grey: bool,
    ):
        self.read, self.n, self.shape, self.size, self.only_grey = read, n, shape, size, only_grey

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        """Raises Corrupt for an image that cannot be read, UserError for one of another size, or of colour among grey ones, where none was asked for."""
        index = int(index)
        name = f"sample {index}"
        try:
            content, label, name = self.read(index)
            image = open_image(content)
            if self.only_grey and image.mode not in GREY_MODES:
                raise UserError(
                    f"{name} is of colour ({image.mode}), but the images looked at first are grey: give --data.channels 3, or 1 to turn it to grey"
                )
            image = decode(image, self.shape[-1], self.size)
            label = np.int32(label)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # Pillow raises a dozen types for broken files
            raise Corrupt(
                f"{name} ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
            ) from error
        if image.shape != self.shape:
            raise UserError(
                f"{name} is {image.shape[1]}x{image.shape[0]}, but others are {self.shape[1]}x{self.shape[0]}: give --data.image_size"
            )
        return {"image": image, "label": label}


def make_source(read, n: int, size: int, channels: int, what: str, probed: int = PROBED) -> Images:
    """Images with their shape found: size and channels as asked for, where 0 = as stored in `probed` images, spread over the set, that can be read.

    Raises UserError when there are none, or when they differ in size and none was asked for.
    """
    if channels not in (0, 1, 3):
        raise UserError(
            f"--data.channels {channels}: expected 1 (grey), 3 (colour), or 0 (as stored)"
        )
    sizes, colour, problem = set(), False, "the set is empty"
    for index in sorted({i * n // probed for i in range(probed)} if n else ()):
        name = f"sample {index}"
        try:
            content, _, name = read(index)
            image = open_image(content)
        except UserError:
            raise
        except Exception as error:
            problem = f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
            continue
        sizes.add(image.size)
        colour |= image.mode not in GREY_MODES
        if size and channels:
            break
    if not sizes:
        raise UserError(f"{what}: no image can be read ({problem}); check the path and the columns")
    if len(sizes) > 1 and not size:
        listed = ", ".join(f"{w}x{h}" for w, h in sorted(sizes)[:3])
        raise UserError(
            f"{what}: images of different sizes ({listed}{' ...' if len(sizes) > 3 else ''}); give --data.image_size, such as 64"
        )
    (width, height) = (size, size) if size else sizes.pop()
    return Images(
        read,
        n,
        (height, width, channels or (3 if colour else 1)),
        size,
        only_grey=not channels and not colour,
    )
