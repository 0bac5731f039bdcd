"""The paper's feature encoder: a ResNet-style masked autoencoder (section A.3).

Images or latents [B, H, W, C] are cut into cells of `input_patch_size` x `input_patch_size`
pixels. Masking, features and reconstruction live on the grid of cells, [B, h, w, c], with
c = C * input_patch_size^2. The four stages have strides 1, 2, 4, 8 and widths 1, 2, 4, 8 times
`base_channels`. The number of parameters does not depend on H and W.

The names of the parameters and of the configuration's fields are those of the published weights.
`models/mae_step.py` is a step of the training, `models/encoders/mae.py` reads and writes weights.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from models.norms import GroupNorm
from utils.errors import UserError

# ---- cells, masks and the loss ----


def patchify(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B h w c"]:
    """Returns cells: size x size pixels become channels, ordered (row, column, channel)."""
    height, width = x.shape[1:3]
    if height % size or width % size:
        raise UserError(
            f"images of {height}x{width} cannot be cut into cells of {size}x{size}: resize them "
            f"to multiples of {size}"
        )
    return rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=size, q=size)


def unpatchify(x: Float[Array, "B h w c"], size: int) -> Float[Array, "B H W C"]:
    """Returns the images whose cells are x; the inverse of `patchify`."""
    return rearrange(x, "b h w (p q c) -> b (h p) (w q) c", p=size, q=size)


def random_mask(
    key: PRNGKeyArray, shape: tuple[int, ...], patch_size: int, prob: float
) -> Float[Array, "B h w 1"]:
    """Returns 1 where a cell is hidden, and 0 elsewhere (A.3).

    Each patch of patch_size x patch_size cells is hidden with probability `prob` in [0, 1],
    whatever happens to the others.

    Args:
        shape: of the grid, (B, h, w, ...); patch_size divides h and w.
    """
    n, h, w = shape[:3]
    if h % patch_size or w % patch_size:
        raise UserError(
            f"a grid of {h}x{w} cells cannot be masked in patches of {patch_size}x{patch_size}: "
            "give a patch_size that divides it"
        )
    patches = jax.random.bernoulli(key, prob, (n, h // patch_size, w // patch_size, 1))
    rows = jnp.repeat(patches, patch_size, axis=1)
    return jnp.repeat(rows, patch_size, axis=2).astype(jnp.float32)


def reconstruction_loss(
    recon: Float[Array, "B h w c"], cells: Float[Array, "B h w c"], mask: Float[Array, "B h w 1"]
) -> Float[Array, " B"]:
    """Returns the squared error of each image, averaged over its masked cells.

    The error of a cell is summed over its channels. It is 0 where nothing is masked.
    """
    squares = jnp.sum((recon - cells) ** 2, -1, keepdims=True) * mask
    masked_cells = jnp.sum(mask, (1, 2, 3))
    return jnp.sum(squares, (1, 2, 3)) / jnp.maximum(masked_cells, 1)


# ---- the encoder ----


def conv(channels: int, size: int, dtype: Any, name: str, stride: int = 1) -> nn.Conv:
    """Returns a size x size convolution without bias that keeps the side at stride 1."""
    return nn.Conv(
        channels, (size, size), stride, padding=size // 2, use_bias=False, dtype=dtype, name=name
    )


def group_norm(channels: int, dtype: Any, name: str | None) -> GroupNorm:
    """Returns a GroupNorm of up to 32 groups: as many as divide the channels."""
    groups = next(g for g in range(min(32, channels), 0, -1) if channels % g == 0)
    return GroupNorm(groups, dtype=dtype, name=name)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is projected where the shape changes.

    [B, h, w, C] -> [B, h / stride, w / stride, channels].
    """

    channels: int
    stride: int
    dropout_prob: float
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x, train):
        norm = functools.partial(group_norm, self.channels, self.dtype)
        y = conv(self.channels, 3, self.dtype, "conv1", self.stride)(x)
        y = nn.relu(norm("gn1")(y))
        y = nn.Dropout(self.dropout_prob, deterministic=not train)(y)
        y = conv(self.channels, 3, self.dtype, "conv2")(y)
        y = norm("gn2")(y)
        if x.shape != y.shape:
            x = conv(self.channels, 1, self.dtype, "proj_conv", self.stride)(x)
            x = norm("proj_gn")(x)
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
            block = Block(self.channels, stride, self.dropout_prob, self.dtype, name=f"layers_{i}")
            x = block(x, train)
            outputs.append(x)
        return outputs


class Encoder(nn.Module):
    """Cells [B, h, w, c] -> maps: a convolution, then four stages with normalised ends.

    The maps are "conv1", "layer1" .. "layer4", and then "layer1_blk2" .., the outputs of every
    second block.
    """

    base_channels: int
    layers: tuple[int, ...]
    dropout_prob: float
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x, train):
        x = conv(self.base_channels, 3, self.dtype, "conv1")(x)
        x = nn.relu(group_norm(self.base_channels, self.dtype, "gn1")(x))
        ends, blocks = {"conv1": x}, {}
        for i, depth in enumerate(self.layers):
            channels, stride = self.base_channels * 2**i, 2 if i else 1
            stage = Stage(
                channels, depth, stride, self.dropout_prob, self.dtype, name=f"stages_{i}"
            )
            outputs = stage(x, train)
            layer = f"layer{i + 1}"
            x = group_norm(channels, self.dtype, f"{layer}_norm")(outputs[-1])
            ends[layer] = x
            for k, output in enumerate(outputs, start=1):
                if k % 2 == 0:
                    blocks[f"{layer}_blk{k}"] = output
        return ends | blocks


# ---- the decoder, a U-Net ----


class ConvNormReLU(nn.Module):
    """A 3x3 convolution, GroupNorm and ReLU. [B, h, w, C] -> [B, h, w, channels]."""

    channels: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x):
        x = conv(self.channels, 3, self.dtype, "conv")(x)
        return nn.relu(group_norm(self.channels, self.dtype, "gn")(x))


class Up(nn.Module):
    """Enlarges x to the size of `skip`, joins the two, normalises, and convolves twice."""

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
    """The encoder's maps -> cells [B, h, w, out_channels]."""

    base_channels: int
    out_channels: int
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, maps):
        x = ConvNormReLU(8 * self.base_channels, self.dtype, name="bridge")(maps["layer4"])
        steps = (  # (name, the map that is joined, width in units of base_channels)
            ("up43", "layer3", 4),
            ("up32", "layer2", 2),
            ("up21", "layer1", 1),
            ("up10", "conv1", 1),
        )
        for name, skip, width in steps:
            x = Up(width * self.base_channels, self.dtype, name=name)(x, maps[skip])
        return nn.Conv(self.out_channels, (1, 1), dtype=self.dtype, name="head")(x)


# ---- the autoencoder ----


class MAE(nn.Module):
    """Masked autoencoder, with a linear classifier on the last features.

    The attributes are those of `model_config` in a published `metadata.json`.

    Attributes:
        in_channels: C of the images or latents.
        base_channels: width of the first stage. It must be more than 4: with one channel per
            group in layer4 its mean, all that the classifier sees, would be the same for every
            image.
        patch_size: side of a masked patch, in cells.
        layers: residual blocks in each of the four stages.
        input_patch_size: side of a cell, in pixels.
        dropout_prob: within the residual blocks, when training.
        use_bf16: compute in bfloat16; parameters stay float32.
        num_classes: of the classifier.
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
        dtype = jnp.dtype(jnp.bfloat16) if self.use_bf16 else None
        cell_channels = self.in_channels * self.input_patch_size**2
        self.encoder = Encoder(self.base_channels, tuple(self.layers), self.dropout_prob, dtype)
        self.decoder = Decoder(self.base_channels, cell_channels, dtype)
        self.fc = nn.Dense(self.num_classes, dtype=dtype)

    def cells(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        """Returns the cells of images [B, H, W, in_channels]."""
        if x.shape[-1] != self.in_channels:
            raise UserError(
                f"images with {x.shape[-1]} channels given to an encoder of {self.in_channels} "
                "channels: use an encoder made for these samples"
            )
        return patchify(x, self.input_patch_size)

    def __call__(
        self, x: Float[Array, "B H W C"], mask: Float[Array, "B h w 1"], train: bool
    ) -> tuple[Float[Array, "B h w c"], Float[Array, "B classes"]]:
        """Hides the masked cells; returns the reconstructed cells and the class logits, float32.

        The loss is `reconstruction_loss(recon, model.cells(x), mask)`. With `train`, dropout draws
        from the "dropout" key.
        """
        maps = self.encoder(self.cells(x) * (1 - mask), train)
        logits = self.fc(jnp.mean(maps["layer4"], (1, 2)))
        recon = self.decoder(maps)
        return _at_least_float32(recon), _at_least_float32(logits)

    def maps(self, x: Float[Array, "B H W C"]) -> dict[str, Array]:
        """Returns the features before pooling, of images of which nothing is masked.

        They are "norm_x" [B, 1, c], the root mean square of each channel of the cells, and then
        the encoder's maps [B, h', w', D].
        """
        cells = self.cells(x)
        norm_x = jnp.sqrt(jnp.mean(cells**2, (1, 2)) + 1e-6)[:, None]
        return {"norm_x": norm_x} | self.encoder(cells, False)


def _at_least_float32(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def init_mae_params(model: MAE, key: PRNGKeyArray | None = None) -> Any:
    """Returns the first parameters of `model`, which fit images of any size."""
    if key is None:
        key = jax.random.key(0)
    grid = 8 * model.patch_size  # any number of cells that the strides and the patches divide
    side = grid * model.input_patch_size
    images, mask = jnp.zeros((1, side, side, model.in_channels)), jnp.zeros((1, grid, grid, 1))
    return model.init(key, images, mask, False)["params"]


def mae_shapes(model: MAE) -> Any:
    """Returns the parameters' shapes; nothing is computed."""
    return jax.eval_shape(lambda: init_mae_params(model))


def mae_fields() -> set[str]:
    """Returns the names of the attributes of an MAE, the keys of a published `model_config`."""
    fields = dataclasses.fields(MAE)  # ty: ignore[invalid-argument-type]
    return {field.name for field in fields} - {"parent", "name"}
