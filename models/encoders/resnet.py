"""ResNet-18 and ResNet-50 (arXiv 1512.03385; strides in the 3x3 convolutions), inference only.

The tensor names are those of torchvision and timm.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from models.encoders.contract import FrozenEncoder
from models.encoders.pretrained import (
    Published,
    compute_dtype,
    imagenet_encoder,
    read_pretrained,
)
from models.frozen_layers import FrozenBatchNorm
from utils.weight_files.tensors import Tensors, expected_shapes, match, strip_prefix

EPSILON = 1e-5  # of the batch norms

PUBLISHED = {  # 47 MB and 102 MB
    "resnet18": {
        "supervised": Published("timm/resnet18.tv_in1k", "694f673df6520a3158624e8a89af086f")
    },
    "resnet50": {
        "supervised": Published("timm/resnet50.a1_in1k", "773525d5821de224f8f30c33377b7a79")
    },
}


def load(name: str, source: str, bf16: bool | None, sha256: str) -> FrozenEncoder:
    tensors, described = read_pretrained(name, PUBLISHED[name], source, sha256)
    return _frozen(*from_tensors(name, tensors, described, compute_dtype(bf16)))


def load_shapes(name: str, source: str, bf16: bool | None) -> FrozenEncoder:
    model = RESNETS[name].clone(dtype=compute_dtype(bf16))
    return _frozen(model, expected_shapes(model, (1, 32, 32, 3)))


def _frozen(model: "ResNet", params: Any) -> FrozenEncoder:
    return imagenet_encoder(
        model,
        params,
        names=("layer*",),
        statistics=("map", "mean", "std"),
        patch_sizes=(2, 4),
    )


# ---- the network ----


class ResNet(nn.Module):
    """Four stages of residual blocks.

    Attributes:
        layers: blocks per stage.
        bottleneck: use the block of ResNet-50 and deeper.
        width: of the first stage.
        dtype: of the computation; None for the input's.
    """

    layers: tuple[int, ...]
    bottleneck: bool
    width: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> dict[str, Array]:
        """Returns the maps of normalised images.

        {"conv1": before the first pooling,
        "layer1" .. "layer4": the ends of the stages,
        "layer1_blk2" ..: after every second block that is not an end,
        "pooled": the mean of layer4, [B, 1, D]}
        """
        x = conv(self.width, 7, 2, self.dtype, "conv1")(x)
        x = nn.relu(FrozenBatchNorm(EPSILON, name="bn1")(x))
        maps = {"conv1": x}
        border: Any = ((1, 1), (1, 1))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=border)
        for i, depth in enumerate(self.layers):
            width, layer = self.width * 2**i, f"layer{i + 1}"
            for k in range(depth):
                stride = 2 if i > 0 and k == 0 else 1
                x = Block(width, stride, self.bottleneck, self.dtype, name=f"{layer}.{k}")(x)
                if k + 1 == depth:
                    maps[layer] = x
                elif k % 2 == 1:
                    maps[f"{layer}_blk{k + 1}"] = x
        return maps | {"pooled": jnp.mean(x, (1, 2))[:, None]}


class Block(nn.Module):
    """Residual block: convolutions beside a shortcut, which is projected where the shape changes.

    They are 3x3 and 3x3, or the bottleneck 1x1, 3x3, 1x1 with four times the width at its end.
    [B, H, W, C] -> [B, H / stride, W / stride, C'].
    """

    width: int
    stride: int
    bottleneck: bool
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x):
        convs = [(self.width, 3, self.stride), (self.width, 3, 1)]  # (channels, size, stride)
        if self.bottleneck:
            convs = [(self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)]
        y = x
        for i, (channels, size, stride) in enumerate(convs, start=1):
            y = conv(channels, size, stride, self.dtype, f"conv{i}")(y)
            y = FrozenBatchNorm(EPSILON, name=f"bn{i}")(y)
            if i < len(convs):
                y = nn.relu(y)
        if x.shape != y.shape:
            x = conv(y.shape[-1], 1, self.stride, self.dtype, "downsample.0")(x)
            x = FrozenBatchNorm(EPSILON, name="downsample.1")(x)
        return nn.relu(x + y)


def conv(channels: int, size: int, stride: int, dtype: jnp.dtype | None, name: str) -> nn.Conv:
    """Returns a size x size convolution without bias that keeps the side at stride 1."""
    return nn.Conv(
        channels, (size, size), stride, padding=size // 2, use_bias=False, dtype=dtype, name=name
    )


RESNETS = {
    "resnet18": ResNet((2, 2, 2, 2), bottleneck=False, width=64, dtype=None),
    "resnet50": ResNet((3, 4, 6, 3), bottleneck=True, width=64, dtype=None),
}


# ---- weights ----


def from_tensors(
    name: str, tensors: Tensors, source: str, dtype: jnp.dtype | None
) -> tuple[ResNet, Any]:
    """Returns (model, params).

    Args:
        name: a key of RESNETS.
        tensors: under torchvision's names, with any prefix.
        source: where they are from, for messages.
        dtype: of the computation; None for that of the images.
    Raises:
        UserError: they are not those of this ResNet.
    """
    tensors = strip_prefix(tensors, "layer1.0.conv1.weight", source)
    model = RESNETS[name].clone(dtype=dtype)
    expected = expected_shapes(model, (1, 32, 32, 3))
    return model, match(tensors, expected, source, ignore=("fc.*", "*.num_batches_tracked"))
