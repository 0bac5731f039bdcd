"""ResNet-18 and ResNet-50 (arXiv 1512.03385; strides in the 3x3 convolutions), inference only, with the
tensor names of torchvision and timm."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from utils.weight_files.tensors import expected_shapes, match, strip_prefix


def conv(channels, size, stride, dtype, name):
    return nn.Conv(
        channels, (size, size), stride, padding=size // 2, use_bias=False, dtype=dtype, name=name
    )


class FrozenBatchNorm(nn.Module):
    """Batch normalisation by the recorded statistics."""

    @nn.compact
    def __call__(self, x):
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        inits = {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones}
        weight, bias, mean, var = (
            self.param(name, init, x.shape[-1:]) for name, init in inits.items()
        )
        scale = weight * jax.lax.rsqrt(var + 1e-5)
        return x * scale.astype(x.dtype) + (bias - mean * scale).astype(x.dtype)


class Block(nn.Module):
    """Residual block: 3x3, 3x3, or the bottleneck 1x1, 3x3, 1x1 with four times the width at its end.
    [B,H,W,C] -> [B,H/stride,W/stride,C']."""

    width: int
    stride: int
    bottleneck: bool
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x):
        convs = [(self.width, 3, self.stride), (self.width, 3, 1)]
        if self.bottleneck:
            convs = [(self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)]
        y = x
        for i, args in enumerate(convs, 1):
            y = FrozenBatchNorm(name=f"bn{i}")(conv(*args, self.dtype, f"conv{i}")(y))
            y = nn.relu(y) if i < len(convs) else y
        if x.shape != y.shape:
            x = FrozenBatchNorm(name="downsample.1")(
                conv(y.shape[-1], 1, self.stride, self.dtype, "downsample.0")(x)
            )
        return nn.relu(x + y)


class ResNet(nn.Module):
    """layers: blocks per stage. bottleneck: the block of ResNet-50 and deeper. width: of the first stage.
    dtype: of the computation; None: the input's."""

    layers: tuple[int, ...]
    bottleneck: bool
    width: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> dict[str, Array]:
        """Normalised images -> maps {"conv1": before the first pooling; "layer1".."layer4": ends of the
        stages, "layer1_blk2" ..: after every second block that is not an end; "pooled" [B,1,D]: the mean of
        layer4}."""
        x = nn.relu(FrozenBatchNorm(name="bn1")(conv(self.width, 7, 2, self.dtype, "conv1")(x)))
        maps = {"conv1": x}
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for i, depth in enumerate(self.layers):
            for k in range(depth):
                stride = 2 if i > 0 and k == 0 else 1
                x = Block(
                    self.width * 2**i, stride, self.bottleneck, self.dtype, name=f"layer{i + 1}.{k}"
                )(x)
                if k + 1 == depth:
                    maps[f"layer{i + 1}"] = x
                elif k % 2 == 1:
                    maps[f"layer{i + 1}_blk{k + 1}"] = x
        return maps | {"pooled": jnp.mean(x, (1, 2))[:, None]}


RESNETS = {
    "resnet18": ResNet((2, 2, 2, 2), bottleneck=False, width=64, dtype=None),
    "resnet50": ResNet((3, 4, 6, 3), bottleneck=True, width=64, dtype=None),
}


def from_tensors(
    name: str, tensors: dict[str, np.ndarray], source: str, dtype: jnp.dtype | None
) -> tuple[ResNet, dict]:
    """(model, params) of RESNETS[name] from tensors under torchvision's names, with any prefix. Raises
    UserError."""
    tensors = strip_prefix(tensors, "layer1.0.conv1.weight", source)
    model = RESNETS[name].clone(dtype=dtype)
    expected = expected_shapes(model, (1, 32, 32, 3))
    return model, match(tensors, expected, source, ignore=("fc.*", "*.num_batches_tracked"))
