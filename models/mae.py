"""The paper's feature encoder: a ResNet-style masked autoencoder (A.3), with the parameter names and the
configuration fields of the published weights.

Images (or latents) [B,H,W,C] are cut into cells of `input_patch_size`; masking, features and reconstruction
live on the grid of cells, [B,h,w,c] with c = C * input_patch_size^2. The four stages have strides 1, 2, 4, 8
and widths 1, 2, 4, 8 times `base_channels`; the number of parameters does not depend on H and W.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from utils.errors import UserError


def patchify(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B h w c"]:
    """Cells of size x size pixels become channels, ordered (row, column, channel)."""
    b, height, width, c = x.shape
    if height % size or width % size:
        raise UserError(
            f"images of {height}x{width} cannot be cut into cells of {size}x{size}: resize them to "
            f"multiples of {size}"
        )
    x = x.reshape(b, height // size, size, width // size, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, height // size, width // size, size * size * c)


def unpatchify(x: Float[Array, "B h w c"], size: int) -> Float[Array, "B H W C"]:
    """The inverse of `patchify`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, size, size, c // size**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * size, w * size, c // size**2)


def random_mask(
    key: PRNGKeyArray, shape: tuple[int, ...], patch_size: int, prob: float
) -> Float[Array, "B h w 1"]:
    """1 where a cell is hidden: each patch_size x patch_size patch of a grid [B,h,w,...] with probability
    `prob` in [0, 1], independently (A.3)."""
    b, h, w = shape[:3]
    if h % patch_size or w % patch_size:
        raise UserError(
            f"a grid of {h}x{w} cells cannot be masked in patches of {patch_size}x{patch_size}: give a "
            "patch_size that divides it"
        )
    mask = jax.random.bernoulli(key, prob, (b, h // patch_size, w // patch_size, 1))
    return mask.repeat(patch_size, 1).repeat(patch_size, 2).astype(jnp.float32)


def reconstruction_loss(
    recon: Float[Array, "B h w c"], cells: Float[Array, "B h w c"], mask: Float[Array, "B h w 1"]
) -> Float[Array, " B"]:
    """Squared error of a masked cell (summed over its channels), averaged over the masked cells of each
    image; 0 where nothing is masked."""
    square = jnp.sum((recon - cells) ** 2, -1, keepdims=True) * mask
    return jnp.sum(square, (1, 2, 3)) / jnp.maximum(jnp.sum(mask, (1, 2, 3)), 1)


def conv(channels, size, dtype, name, stride=1):
    return nn.Conv(
        channels, (size, size), stride, padding=size // 2, use_bias=False, dtype=dtype, name=name
    )


def group_norm(channels, dtype, name):
    """Up to 32 groups: as many as divide the channels. Statistics are float32, about the mean: on a map of a
    few locations E[x^2] - E[x]^2 would leave a group nothing but rounding."""
    groups = next(g for g in range(min(32, channels), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, dtype=dtype, use_fast_variance=False, name=name)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is projected where the shape changes.
    [B,h,w,C] -> [B,h/stride,w/stride,channels]."""

    channels: int
    stride: int
    dropout_prob: float
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x, train):
        norm = functools.partial(group_norm, self.channels, self.dtype)
        y = nn.relu(norm("gn1")(conv(self.channels, 3, self.dtype, "conv1", self.stride)(x)))
        y = nn.Dropout(self.dropout_prob, deterministic=not train)(y)
        y = norm("gn2")(conv(self.channels, 3, self.dtype, "conv2")(y))
        if x.shape != y.shape:
            x = norm("proj_gn")(conv(self.channels, 1, self.dtype, "proj_conv", self.stride)(x))
        return nn.relu(x + y)


class Stage(nn.Module):
    """`depth` residual blocks, the first with `stride`. Returns the output of every block."""

    channels: int
    depth: int
    stride: int
    dropout_prob: float
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x, train):
        outputs = []
        for i in range(self.depth):
            stride = self.stride if i == 0 else 1
            x = Block(self.channels, stride, self.dropout_prob, self.dtype, name=f"layers_{i}")(
                x, train
            )
            outputs.append(x)
        return outputs


class Encoder(nn.Module):
    base_channels: int
    layers: tuple[int, ...]
    dropout_prob: float
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x, train):
        """Cells [B,h,w,c] -> maps {"conv1", "layer1".."layer4": the normalised ends of the stages; then
        "layer1_blk2", ..: after every second block}."""
        x = conv(self.base_channels, 3, self.dtype, "conv1")(x)
        x = nn.relu(group_norm(self.base_channels, self.dtype, "gn1")(x))
        ends, blocks = {"conv1": x}, {}
        for i, depth in enumerate(self.layers):
            channels = self.base_channels * 2**i
            stage = Stage(
                channels, depth, 2 if i else 1, self.dropout_prob, self.dtype, name=f"stages_{i}"
            )
            outputs = stage(x, train)
            x = ends[f"layer{i + 1}"] = group_norm(channels, self.dtype, f"layer{i + 1}_norm")(
                outputs[-1]
            )
            blocks |= {f"layer{i + 1}_blk{k}": y for k, y in enumerate(outputs, 1) if k % 2 == 0}
        return ends | blocks


class ConvNormReLU(nn.Module):
    channels: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x):
        x = conv(self.channels, 3, self.dtype, "conv")(x)
        return nn.relu(group_norm(self.channels, self.dtype, "gn")(x))


class Up(nn.Module):
    """Enlarge to the size of `skip`, join, normalise, convolve twice."""

    channels: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x, skip):
        x = jax.image.resize(x, skip.shape[:3] + x.shape[3:], "bilinear")
        x = jnp.concatenate([x, skip], -1)
        x = group_norm(x.shape[-1], self.dtype, "concat_norm_fn")(x)
        x = ConvNormReLU(self.channels, self.dtype, name="proj")(x)
        return ConvNormReLU(self.channels, self.dtype, name="refine")(x)


class Decoder(nn.Module):
    base_channels: int
    out_channels: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, maps):
        """The encoder's maps -> cells [B,h,w,out_channels]."""
        x = ConvNormReLU(8 * self.base_channels, self.dtype, name="bridge")(maps["layer4"])
        skips = {
            "up43": ("layer3", 4),
            "up32": ("layer2", 2),
            "up21": ("layer1", 1),
            "up10": ("conv1", 1),
        }
        for name, (skip, width) in skips.items():
            x = Up(width * self.base_channels, self.dtype, name=name)(x, maps[skip])
        return nn.Conv(self.out_channels, (1, 1), dtype=self.dtype, name="head")(x)


class MAE(nn.Module):
    """The fields are those of `model_config` in a published `metadata.json`.

    in_channels       C of the images or latents
    base_channels     width of the first stage; more than 4, or else layer4 has one channel per group, and its
                      mean, all that the classifier sees, is the same for every image
    patch_size        side of a masked patch, in cells
    layers            residual blocks in each of the four stages
    input_patch_size  side of a cell, in pixels
    dropout_prob      within the residual blocks, when training
    use_bf16          compute in bfloat16; parameters stay float32
    num_classes       of the linear classifier
    """

    in_channels: int
    base_channels: int
    patch_size: int
    layers: tuple[int, ...]
    input_patch_size: int
    dropout_prob: float
    use_bf16: bool
    num_classes: int

    def setup(self):
        dtype = jnp.bfloat16 if self.use_bf16 else None
        self.encoder = Encoder(self.base_channels, tuple(self.layers), self.dropout_prob, dtype)
        self.decoder = Decoder(
            self.base_channels, self.in_channels * self.input_patch_size**2, dtype
        )
        self.fc = nn.Dense(self.num_classes, dtype=dtype)

    def cells(self, x):
        """Images [B,H,W,in_channels] -> cells [B,h,w,c]."""
        if x.shape[-1] != self.in_channels:
            raise UserError(
                f"images with {x.shape[-1]} channels given to an encoder of {self.in_channels} channels: "
                "use an encoder made for these samples"
            )
        return patchify(x, self.input_patch_size)

    def __call__(self, x: Float[Array, "B H W C"], mask: Float[Array, "B h w 1"], train: bool):
        """Hides the masked cells; returns the reconstructed cells [B,h,w,c] and the class logits
        [B,num_classes], float32. With `train` dropout draws from the "dropout" key. The loss is
        `reconstruction_loss(recon, model.cells(x), mask)`."""
        maps = self.encoder(self.cells(x) * (1 - mask), train)
        logits = self.fc(jnp.mean(maps["layer4"], (1, 2)))
        recon = self.decoder(maps)
        return tuple(y.astype(jnp.promote_types(y.dtype, jnp.float32)) for y in (recon, logits))

    def maps(self, x: Float[Array, "B H W C"]) -> dict[str, Array]:
        """The features before pooling: "norm_x" [B,1,c], the root mean square of each channel of the cells;
        then the encoder's maps [B,h',w',D], unmasked."""
        cells = self.cells(x)
        norm_x = jnp.sqrt(jnp.mean(cells**2, (1, 2)) + 1e-6)[:, None]
        return {"norm_x": norm_x} | self.encoder(cells, False)


def mae_params(model: MAE, key: PRNGKeyArray | None = None):
    """First parameters of `model`; their shapes are those of any image size."""
    side = 8 * model.patch_size  # any grid of cells
    images = jnp.zeros(
        (1, side * model.input_patch_size, side * model.input_patch_size, model.in_channels)
    )
    key = jax.random.key(0) if key is None else key
    return model.init(key, images, jnp.zeros((1, side, side, 1)), False)["params"]
