"""From stored images to uint8 arrays of one shape.

The same file gives the same pixels, whatever kind of data set it comes in.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from data.errors import in_words
from utils.errors import UserError

PROBED = 32  # images looked at to find the shape of a data set
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")  # of Pillow
WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")

# (index) -> (content that `open_image` takes, label, name for messages).
Read = Callable[[int], tuple[Any, Any, str]]


class Corrupt(Exception):
    """An image cannot be read; the text names it and says why. The pipeline skips and counts it."""


# ---------------------------------------------------------------- one image


def open_image(content: Any) -> Image.Image:
    """Returns an upright Pillow image, turned as its EXIF orientation says.

    content: the bytes of a file, a Pillow image, or an array [H,W], [H,W,1] or [H,W,3] of uint8.
    Raises what Pillow raises for bytes that are no image.
    """
    if isinstance(content, np.ndarray):
        return _image_of_array(content)
    if isinstance(content, Image.Image):
        image = content
    else:
        image = Image.open(io.BytesIO(content))
    image.load()
    return ImageOps.exif_transpose(image)


def _image_of_array(array: np.ndarray) -> Image.Image:
    has_channels = array.ndim == 3 and array.shape[-1] in (1, 3)
    if array.dtype != np.uint8 or not (array.ndim == 2 or has_channels):
        raise ValueError(f"an array of {array.dtype} {list(array.shape)} is no image")
    if has_channels and array.shape[-1] == 1:
        array = array[..., 0]
    return Image.fromarray(array)


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Returns an image of any kind as "L" (grey) or "RGB".

    16 bits are scaled to 8, and what is transparent is laid on white. Raises ValueError for pixels
    whose range is not known.
    """
    clear = image.info.get("transparency")
    if image.mode.startswith("I"):
        # Pillow's own conversion would cut everything above 255 off.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"grey values from {values.min()} to {values.max()}, expected 16 bits")
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
        if clear is not None:
            alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
            image = Image.merge("LA", (image, alpha))
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if image.mode == "LAB":
        image = image.convert("RGB")  # Pillow has no way from it to grey
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    if image.mode != mode:
        image = image.convert(mode)
    return image


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Returns the central square of an image at size x size pixels.

    ImageNet references for FID are made this way (the data loader of the code of arXiv 2105.05233):
    halve with a box filter while the image is at least twice as large, then resize the shorter
    side bicubically, then crop. An image of that size already stays as it is.
    """
    while min(image.size) >= 2 * size:
        half = (image.width // 2, image.height // 2)
        image = image.resize(half, Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def decode(content: Any, channels: int, size: int) -> np.ndarray:
    """Returns [H,W,channels] uint8 in [0, 255] of what `open_image` takes.

    channels: 1 for grey, 3 for colour. size: side of the central square, 0 for the image as stored.
    Raises what Pillow raises.
    """
    return _to_array(open_image(content), channels, size)


def _to_array(image: Image.Image, channels: int, size: int) -> np.ndarray:
    image = to_mode(image, "L" if channels == 1 else "RGB")
    if size:
        image = center_crop(image, size)
    return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)


# ---------------------------------------------------------------- all images of a data set


class Images:
    """The samples of a data set of stored images, by index.

    Args:
        read: Gives the content, the label and the name of the image with an index. Worker
            processes pickle it.
        n: Number of images.
        shape: (H, W, C) that every image has to have in the end.
        size: Side that images are brought to; 0 for images as they are stored.
        only_grey: Images of colour are an error, instead of being turned to grey.
    """

    def __init__(self, read: Read, n: int, shape: tuple[int, int, int], size: int, only_grey: bool):
        self.read = read
        self.n = n
        self.shape = shape
        self.size = size
        self.only_grey = only_grey

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        """Returns {"image": [H,W,C] uint8, "label": int32}.

        Raises:
            Corrupt: The image cannot be read.
            UserError: It differs in size from the others, or is of colour where the others are
                grey, and the options do not say what to do with that.
        """
        index = int(index)
        name = f"sample {index}"
        try:
            content, label, name = self.read(index)
            image = open_image(content)
            if self.only_grey and image.mode not in GREY_MODES:
                raise UserError(
                    f"{name} is of colour ({image.mode}), but the images looked at first are grey: "
                    "give --data.channels 3, or 1 to turn it to grey"
                )
            array = _to_array(image, self.shape[-1], self.size)
            label = np.int32(label)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # Pillow raises a dozen types for broken files.
            raise Corrupt(f"{name} ({in_words(error)})") from error
        if array.shape != self.shape:
            raise UserError(
                f"{name} is {array.shape[1]}x{array.shape[0]}, but others are "
                f"{self.shape[1]}x{self.shape[0]}: give --data.image_size"
            )
        return {"image": array, "label": label}


def make_images(
    read: Read, n: int, size: int, channels: int, name: str, probed: int = PROBED
) -> Images:
    """Returns the samples of stored images, whose shape is asked for or found.

    Args:
        read: Gives the content, the label and the name of the image with an index.
        n: Number of images.
        size: Side of the central square in pixels; 0 for the size that images are stored in.
        channels: 1 or 3; 0 for 3 if any image is of colour.
        name: Of the data set, for messages.
        probed: Number of images, spread over the set, by which size and channels are found.

    Raises:
        UserError: No image can be read, or they differ in size and no size was asked for.
    """
    if channels not in (0, 1, 3):
        raise UserError(
            f"--data.channels {channels}: expected 1 (grey), 3 (colour), or 0 (as stored)"
        )
    sizes = set()
    is_colour = False
    problem = "the set is empty"
    probes = sorted({i * n // probed for i in range(probed)}) if n else []
    for index in probes:
        try:
            image, _ = open_sample(read, index)
        except Corrupt as error:
            problem = str(error)
            continue
        sizes.add(image.size)
        is_colour |= image.mode not in GREY_MODES
        if size and channels:
            break  # Nothing is left to find, but that an image can be read.
    if not sizes:
        raise UserError(f"{name}: no image can be read ({problem}); check the path and the columns")
    if len(sizes) > 1 and not size:
        listed = ", ".join(f"{width}x{height}" for width, height in sorted(sizes)[:3])
        if len(sizes) > 3:
            listed += " ..."
        raise UserError(
            f"{name}: images of different sizes ({listed}); give --data.image_size, such as 64"
        )
    width, height = (size, size) if size else sizes.pop()
    found_channels = 3 if is_colour else 1
    shape = (height, width, channels or found_channels)
    return Images(read, n, shape, size, only_grey=not channels and not is_colour)


def open_sample(read: Read, index: int) -> tuple[Image.Image, Any]:
    """Returns an upright Pillow image, and the stored content that it was made of.

    Raises Corrupt for one that cannot be read.
    """
    name = f"sample {index}"
    try:
        content, _, name = read(index)
        return open_image(content), content
    except UserError:
        raise
    except Exception as error:  # Pillow raises a dozen types for broken files.
        raise Corrupt(f"{name}: {in_words(error)}") from error
