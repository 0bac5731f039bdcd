"""The Stable Diffusion VAE (arXiv 2112.10752), inference only, from a folder in diffusers' format.

The tensor names are those of diffusers' `AutoencoderKL`. Older files call the projections of the
attention query, key, value and proj_attn; both are read. Images are [B, H, W, 3] in [-1, 1],
latents [B, h, w, C] with h = H / 2^(stages - 1): 32x32x4 for 256x256 pixels.
"""

import dataclasses
import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from models.norms import GroupNorm
from utils.errors import UserError
from utils.weight_files import hub
from utils.weight_files.tensors import Tensors, expected_shapes, match, read_tensors, rename

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
OLD_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
WEIGHT_SUFFIXES = (".bin", ".ckpt", ".msgpack", ".safetensors")


@dataclasses.dataclass(frozen=True)
class VAE:
    """Pure functions of (params, arrays), to be jitted by the caller.

    Attributes:
        network: encoder and decoder.
        scaling_factor, shift_factor: see `scale`; 0.18215 and 0 for Stable Diffusion 1 and 2.
    """

    network: "Network"
    scaling_factor: float
    shift_factor: float

    @property
    def reduction(self) -> int:
        """Pixels per latent, along a side."""
        return self.network.reduction

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.network.latent_channels

    def encode(
        self, params: Any, images: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B h w C"], Float[Array, "B h w C"]]:
        """Returns (mean, logvar) of the unscaled latents of images in [-1, 1].

        Raises UserError for a side that the reduction does not divide.
        """
        channels, reduction = self.network.in_channels, self.reduction
        right_kind = images.ndim == 4 and images.shape[-1] == channels
        if not right_kind or images.shape[1] % reduction or images.shape[2] % reduction:
            raise UserError(
                f"the VAE takes images [B, H, W, {channels}] with sides that {reduction} "
                f"divides, given {list(images.shape)}: resize them"
            )
        moments: Any = self.network.apply({"params": params}, images, method="encode")
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, params: Any, z: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Returns images, about [-1, 1] and not clipped, of unscaled latents.

        Raises UserError for another number of channels.
        """
        channels = self.network.latent_channels
        if z.ndim != 4 or z.shape[-1] != channels:
            raise UserError(f"the VAE takes latents [B, h, w, {channels}], given {list(z.shape)}")
        images: Any = self.network.apply({"params": params}, z, method="decode")
        return images

    def scale(self, z: Array) -> Array:
        """Returns latents as generators learn them, of about unit variance."""
        return (z - self.shift_factor) * self.scaling_factor

    def unscale(self, z: Array) -> Array:
        """Returns latents as the decoder takes them; the inverse of `scale`."""
        return z / self.scaling_factor + self.shift_factor


# ---- the network ----


class Network(nn.Module):
    """Encoder and decoder, with the 1x1 convolutions around the latents where the format has them.

    Attributes:
        in_channels, out_channels: of images.
        latent_channels: of latents.
        widths: channels of the stages.
        layers: Resnets of a stage of the encoder.
        groups: of the norms.
        attention: whether the middle has attention.
        quant_conv: whether there is a convolution after the encoder.
        post_quant_conv: whether there is one before the decoder.
    """

    in_channels: int
    out_channels: int
    latent_channels: int
    widths: tuple[int, ...]
    layers: int
    groups: int
    attention: bool
    quant_conv: bool
    post_quant_conv: bool

    @property
    def reduction(self) -> int:
        """Pixels per latent, along a side."""
        return 2 ** (len(self.widths) - 1)

    def setup(self):
        stages = (self.widths, self.layers, self.groups, self.attention)
        self.encoder = Encoder(*stages, out_channels=2 * self.latent_channels)
        self.decoder = Decoder(*stages, out_channels=self.out_channels)
        if self.quant_conv:
            self.after_encoder = conv(2 * self.latent_channels, 1, "quant_conv")
        if self.post_quant_conv:
            self.before_decoder = conv(self.latent_channels, 1, "post_quant_conv")

    def encode(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B h w two_C"]:
        """Returns the mean and the logarithm of the variance, side by side."""
        x = self.encoder(x)
        return self.after_encoder(x) if self.quant_conv else x

    def decode(self, z: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Returns the images of unscaled latents."""
        return self.decoder(self.before_decoder(z) if self.post_quant_conv else z)

    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        """Returns images after both; it is called to initialise the parameters."""
        return self.decode(self.encode(x)[..., : self.latent_channels])


class Encoder(nn.Module):
    """[B, H, W, 3] -> [B, h, w, out_channels]. All stages but the last end by halving the side."""

    widths: tuple[int, ...]
    layers: int
    groups: int
    attention: bool
    out_channels: int

    @nn.compact
    def __call__(self, x):
        x = conv(self.widths[0], 3, "conv_in")(x)
        for i, width in enumerate(self.widths):
            for k in range(self.layers):
                x = Resnet(width, self.groups, name=f"down_blocks.{i}.resnets.{k}")(x)
            if i + 1 < len(self.widths):
                x = conv(width, 3, f"down_blocks.{i}.downsamplers.0.conv", stride=2)(x)
        x = Middle(self.groups, self.attention, name="mid_block")(x)
        x = nn.silu(GroupNorm(self.groups, name="conv_norm_out")(x))
        return conv(self.out_channels, 3, "conv_out")(x)


class Decoder(nn.Module):
    """[B, h, w, C] -> [B, H, W, out_channels].

    It goes through the encoder's stages backwards, with one Resnet more in each.
    """

    widths: tuple[int, ...]
    layers: int
    groups: int
    attention: bool
    out_channels: int

    @nn.compact
    def __call__(self, x):
        x = conv(self.widths[-1], 3, "conv_in")(x)
        x = Middle(self.groups, self.attention, name="mid_block")(x)
        for i, width in enumerate(reversed(self.widths)):
            for k in range(self.layers + 1):
                x = Resnet(width, self.groups, name=f"up_blocks.{i}.resnets.{k}")(x)
            if i + 1 < len(self.widths):
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)  # twice the side
                x = conv(width, 3, f"up_blocks.{i}.upsamplers.0.conv")(x)
        x = nn.silu(GroupNorm(self.groups, name="conv_norm_out")(x))
        return conv(self.out_channels, 3, "conv_out")(x)


class Middle(nn.Module):
    """Resnet, attention, Resnet. [B, H, W, C] -> [B, H, W, C]."""

    groups: int
    attention: bool

    @nn.compact
    def __call__(self, x):
        x = Resnet(x.shape[-1], self.groups, name="resnets.0")(x)
        if self.attention:
            x = Attention(self.groups, name="attentions.0")(x)
        return Resnet(x.shape[-1], self.groups, name="resnets.1")(x)


class Resnet(nn.Module):
    """Two 3x3 convolutions, each after GroupNorm and SiLU. [B, H, W, C] -> [B, H, W, channels]."""

    channels: int
    groups: int

    @nn.compact
    def __call__(self, x):
        y = x
        for i in (1, 2):
            y = nn.silu(GroupNorm(self.groups, name=f"norm{i}")(y))
            y = conv(self.channels, 3, f"conv{i}")(y)
        if x.shape != y.shape:
            x = conv(self.channels, 1, "conv_shortcut")(x)
        return y + x


class Attention(nn.Module):
    """One head over all positions. [B, H, W, C] -> [B, H, W, C]."""

    groups: int

    @nn.compact
    def __call__(self, x):
        height, channels = x.shape[1], x.shape[-1]
        y = GroupNorm(self.groups, name="group_norm")(x)
        y = rearrange(y, "b h w c -> b (h w) 1 c")
        q, k, v = (nn.Dense(channels, name=name)(y) for name in ("to_q", "to_k", "to_v"))
        y = nn.Dense(channels, name="to_out.0")(jax.nn.dot_product_attention(q, k, v))
        return x + rearrange(y, "b (h w) 1 c -> b h w c", h=height)


def conv(channels: int, size: int, name: str, stride: int = 1) -> nn.Conv:
    """Returns a size x size convolution.

    With stride 2 the rows and columns that are missing are added below and to the right alone.
    """
    padding = ((0, 1), (0, 1)) if stride == 2 else size // 2
    return nn.Conv(channels, (size, size), stride, padding=padding, name=name)


# ---- files ----


def load_vae(where: str | pathlib.Path) -> tuple[VAE, dict]:
    """Reads a VAE: (vae, params), params in float32.

    Args:
        where: a folder with config.json and diffusion_pytorch_model.safetensors, as diffusers
            writes it; one that has them in a subfolder `vae`; or a hub id such as
            stabilityai/sd-vae-ft-ema.
    Raises:
        UserError: something is missing, damaged, or of another kind or shape.
    """
    folder = _find_folder(where)
    network, config = _read_network(folder / CONFIG)
    file = folder / WEIGHTS
    if not file.is_file():
        names = sorted(f.name for f in folder.iterdir() if f.suffix in WEIGHT_SUFFIXES)
        raise UserError(
            f"{folder} has no {WEIGHTS} (it has {', '.join(names) or 'no weights'}): save the VAE "
            "with safetensors, save_pretrained(folder)"
        )
    tensors = _with_present_names(read_tensors(file))
    side = 2 ** len(network.widths)
    shapes = expected_shapes(network, (1, side, side, network.in_channels))
    params = match(tensors, shapes, str(file))
    scaling_factor = float(config.get("scaling_factor", 0.18215))
    shift_factor = float(config.get("shift_factor") or 0.0)
    return VAE(network, scaling_factor, shift_factor), params


def vae_sizes_here(source: str | pathlib.Path) -> tuple[int, int]:
    """Returns (pixels per latent along a side, latent channels) of a VAE, without a network.

    They are read from its config.json; for a VAE on the hub they are those of Stable Diffusion, 8
    and 4.
    """
    if not pathlib.Path(source).expanduser().exists() and _is_hub_id(source):
        return 8, 4
    network, _ = _read_network(_find_folder(source) / CONFIG)
    return network.reduction, network.latent_channels


def _with_present_names(tensors: Tensors) -> Tensors:
    """Returns the tensors as diffusers writes them today.

    Before it had linear layers in the attention, the projections were 1x1 convolutions.
    """
    present = {}
    for name, array in rename(tensors, OLD_NAMES).items():
        was_convolution = ".to_" in name and array.ndim == 4
        present[name] = array[:, :, 0, 0] if was_convolution else array
    return present


def _is_hub_id(source: str | pathlib.Path) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", str(source).removeprefix("hf://")))


def _find_folder(source: str | pathlib.Path) -> pathlib.Path:
    """Returns the folder that `source` means, from the hub if need be."""
    folder = pathlib.Path(source).expanduser()
    for candidate in (folder / "vae", folder):
        if (candidate / CONFIG).is_file():
            return candidate
    if folder.exists():
        raise UserError(
            f"{source} has no {CONFIG}: give a folder with {CONFIG} and {WEIGHTS}, as diffusers "
            "writes it"
        )
    if not _is_hub_id(source):
        raise UserError(
            f"{source} is neither a folder nor a hub id: give a folder with {CONFIG} and "
            f"{WEIGHTS}, or an id such as stabilityai/sd-vae-ft-ema"
        )
    return _fetch(source, str(source).removeprefix("hf://"))


def _fetch(source: str | pathlib.Path, repository: str) -> pathlib.Path:
    """Returns the local copy of a VAE on the hub."""
    files = [CONFIG, WEIGHTS, f"vae/{CONFIG}", f"vae/{WEIGHTS}"]
    try:
        snapshot = hub.download_snapshot(repository, files)
    except Exception as error:  # the hub's client raises the errors of several network libraries
        raise UserError(
            f"{source}: no such folder here, and no answer from the Hugging Face hub "
            f"({type(error).__name__}). Offline, copy {CONFIG} and {WEIGHTS} of "
            f"https://huggingface.co/{repository} from another machine and give their folder"
        ) from error
    for folder in (snapshot, snapshot / "vae"):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise UserError(
        f"https://huggingface.co/{repository} has no {CONFIG} with {WEIGHTS}: give another id, "
        "such as stabilityai/sd-vae-ft-ema"
    )


def _read_network(file: pathlib.Path) -> tuple[Network, dict[str, Any]]:
    """Returns the network of a config.json, and the file's content.

    What the file does not say is what diffusers takes then.
    """
    try:
        config = json.loads(file.read_text())
        kind = config.get("_class_name", "AutoencoderKL")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file} is not a JSON object ({error}): fetch it again") from error
    _check_kind(file, kind, config)
    network = Network(
        in_channels=config.get("in_channels", 3),
        out_channels=config.get("out_channels", 3),
        latent_channels=config.get("latent_channels", 4),
        widths=tuple(config["block_out_channels"]),
        layers=config.get("layers_per_block", 1),
        groups=config.get("norm_num_groups", 32),
        attention=config.get("mid_block_add_attention", True),
        quant_conv=config.get("use_quant_conv", True),
        post_quant_conv=config.get("use_post_quant_conv", True),
    )
    return network, config


def _check_kind(file: pathlib.Path, kind: str, config: dict[str, Any]) -> None:
    """Raises UserError where a config.json describes another kind of network than `Network`."""
    blocks = config.get("down_block_types", []) + config.get("up_block_types", [])
    strange = sorted(set(blocks) - {"DownEncoderBlock2D", "UpDecoderBlock2D"})
    has_widths = isinstance(config.get("block_out_channels"), list)
    right_activation = config.get("act_fn", "silu") == "silu"
    if kind != "AutoencoderKL" or not has_widths or strange or not right_activation:
        described = strange[0] if strange else f"a {kind}"
        raise UserError(
            f"{file} describes {described}, expected an AutoencoderKL with block_out_channels: "
            "give the folder of such a VAE"
        )
