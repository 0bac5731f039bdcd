"""The Stable Diffusion VAE (arXiv 2112.10752), inference only, out of a folder in the diffusers format.

The tensor names are those of diffusers' `AutoencoderKL`. Older files call the attention's projections query, key, value and proj_attn; both are read.
Images are [B,H,W,3] in [-1, 1], latents [B,h,w,C] with h = H / 2^(stages - 1): 32x32x4 for 256x256 pixels.
"""

import dataclasses
import json
import pathlib
import re

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from utils.errors import UserError
from utils.weight_files import hub
from utils.weight_files.tensors import expected_shapes, match, read_tensors, rename

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
OLD_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


def conv(channels, size, name, stride=1):
    """A convolution; with stride 2, the rows and columns that are missing are added below and to the right alone."""
    return nn.Conv(
        channels,
        (size, size),
        stride,
        padding=((0, 1), (0, 1)) if stride == 2 else size // 2,
        name=name,
    )


class Resnet(nn.Module):
    """Two 3x3 convolutions, each after GroupNorm and SiLU. [B,H,W,C] -> [B,H,W,channels]."""

    channels: int
    groups: int

    @nn.compact
    def __call__(self, x):
        y = x
        for i in (1, 2):
            y = nn.silu(nn.GroupNorm(self.groups, epsilon=1e-6, name=f"norm{i}")(y))
            y = conv(self.channels, 3, f"conv{i}")(y)
        return y + (x if x.shape == y.shape else conv(self.channels, 1, "conv_shortcut")(x))


class Attention(nn.Module):
    """One head over all positions. [B,H,W,C] -> [B,H,W,C]."""

    groups: int

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
        y = nn.GroupNorm(self.groups, epsilon=1e-6, name="group_norm")(x).reshape(b, h * w, 1, c)
        q, k, v = (nn.Dense(c, name=name)(y) for name in ("to_q", "to_k", "to_v"))
        y = jax.nn.dot_product_attention(q, k, v)  # [B,HW,1,C]
        return x + nn.Dense(c, name="to_out.0")(y).reshape(x.shape)


class Middle(nn.Module):
    """Resnet, attention, resnet. [B,H,W,C] -> [B,H,W,C]."""

    groups: int
    attention: bool

    @nn.compact
    def __call__(self, x):
        x = Resnet(x.shape[-1], self.groups, name="resnets.0")(x)
        x = Attention(self.groups, name="attentions.0")(x) if self.attention else x
        return Resnet(x.shape[-1], self.groups, name="resnets.1")(x)


class Encoder(nn.Module):
    """[B,H,W,3] -> [B,h,w,out_channels]. widths: of the stages; all but the last end by halving the side."""

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
        x = nn.silu(nn.GroupNorm(self.groups, epsilon=1e-6, name="conv_norm_out")(x))
        return conv(self.out_channels, 3, "conv_out")(x)


class Decoder(nn.Module):
    """[B,h,w,C] -> [B,H,W,out_channels]. widths: of the encoder's stages, which are gone through backwards, with one resnet more each."""

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
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                x = conv(width, 3, f"up_blocks.{i}.upsamplers.0.conv")(x)
        x = nn.silu(nn.GroupNorm(self.groups, epsilon=1e-6, name="conv_norm_out")(x))
        return conv(self.out_channels, 3, "conv_out")(x)


class Network(nn.Module):
    """Encoder and decoder, with the 1x1 convolutions around the latents where the format has them."""

    in_channels: int
    out_channels: int
    latent_channels: int
    widths: tuple[int, ...]
    layers: int
    groups: int
    attention: bool
    quant_conv: bool
    post_quant_conv: bool

    def setup(self):
        shared = dict(
            widths=self.widths, layers=self.layers, groups=self.groups, attention=self.attention
        )
        self.encoder = Encoder(**shared, out_channels=2 * self.latent_channels)
        self.decoder = Decoder(**shared, out_channels=self.out_channels)
        self.before = (
            conv(2 * self.latent_channels, 1, "quant_conv") if self.quant_conv else lambda x: x
        )
        self.after = (
            conv(self.latent_channels, 1, "post_quant_conv")
            if self.post_quant_conv
            else lambda z: z
        )

    def encode(self, x):
        return self.before(self.encoder(x))

    def decode(self, z):
        return self.decoder(self.after(z))

    def __call__(self, x):
        return self.decode(self.encode(x)[..., : self.latent_channels])


@dataclasses.dataclass(frozen=True)
class VAE:
    """Pure functions of (params, arrays), to be jitted by the caller. scaling_factor, shift_factor: see `scale`; 0.18215 and 0 for Stable Diffusion 1 and 2."""

    network: Network
    scaling_factor: float
    shift_factor: float

    @property
    def reduction(self) -> int:
        """Pixels per latent, along a side."""
        return 2 ** (len(self.network.widths) - 1)

    def encode(
        self, params, images: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B h w C"], Float[Array, "B h w C"]]:
        """Images in [-1, 1] -> (mean, logvar) of the unscaled latents. Raises UserError for a side that the reduction does not divide."""
        if (
            images.ndim != 4
            or images.shape[-1] != self.network.in_channels
            or images.shape[1] % self.reduction
            or images.shape[2] % self.reduction
        ):
            raise UserError(
                f"the VAE takes images [B, H, W, {self.network.in_channels}] with sides that {self.reduction} divides, given {list(images.shape)}: resize them"
            )
        mean, logvar = jnp.split(
            self.network.apply({"params": params}, images, method="encode"), 2, axis=-1
        )
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, params, z: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Unscaled latents -> images, about [-1, 1], not clipped. Raises UserError for another number of channels."""
        if z.ndim != 4 or z.shape[-1] != self.network.latent_channels:
            raise UserError(
                f"the VAE takes latents [B, h, w, {self.network.latent_channels}], given {list(z.shape)}"
            )
        return self.network.apply({"params": params}, z, method="decode")

    def scale(self, z):
        """Unscaled latents -> those that generators learn, of about unit variance."""
        return (z - self.shift_factor) * self.scaling_factor

    def unscale(self, z):
        """The inverse of `scale`."""
        return z / self.scaling_factor + self.shift_factor


def load_vae(where: str | pathlib.Path) -> tuple[VAE, dict]:
    """Reads a VAE: (vae, params), params in float32.

    where: a folder with config.json and diffusion_pytorch_model.safetensors, as diffusers writes it, one that has them in a subfolder `vae`, or a hub id such as
    stabilityai/sd-vae-ft-ema. Raises UserError when something is missing, damaged, or of another kind or shape.
    """
    folder = _find(where)
    network, facts = _network(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        others = (
            ", ".join(
                sorted(
                    f.name
                    for f in folder.iterdir()
                    if f.suffix in (".bin", ".ckpt", ".msgpack", ".safetensors")
                )
            )
            or "no weights"
        )
        raise UserError(
            f"{folder} has no {WEIGHTS} (it has {others}): save the VAE with safetensors, save_pretrained(folder)"
        )
    source = folder / WEIGHTS
    tensors = rename(read_tensors(source), OLD_NAMES)
    # Before diffusers had linear layers there, the projections were 1x1 convolutions.
    tensors = {
        name: a[:, :, 0, 0] if ".to_" in name and a.ndim == 4 else a for name, a in tensors.items()
    }
    side = 2 ** len(network.widths)
    params = match(
        tensors, expected_shapes(network, (1, side, side, network.in_channels)), str(source)
    )
    return VAE(
        network,
        float(facts.get("scaling_factor", 0.18215)),
        float(facts.get("shift_factor") or 0.0),
    ), params


def vae_facts(where: str | pathlib.Path, fetch: bool = True) -> tuple[int, int]:
    """(pixels per latent along a side, latent channels) of a VAE, by its config.json. fetch: False takes those of Stable Diffusion, 8 and 4, for one on the hub."""
    if not fetch and not pathlib.Path(where).expanduser().exists() and _is_hub_id(where):
        return 8, 4
    network, _ = _network(_find(where) / CONFIG)
    return 2 ** (len(network.widths) - 1), network.latent_channels


def _is_hub_id(where) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", str(where).removeprefix("hf://")))


def _find(where) -> pathlib.Path:
    """The folder that `where` means, from the hub if need be."""
    folder = pathlib.Path(where).expanduser()
    for candidate in (folder / "vae", folder):
        if (candidate / CONFIG).is_file():
            return candidate
    if folder.exists():
        raise UserError(
            f"{where} has no {CONFIG}: give a folder with {CONFIG} and {WEIGHTS}, as diffusers writes it"
        )
    name = str(where).removeprefix("hf://")
    if not _is_hub_id(where):
        raise UserError(
            f"{where} is neither a folder nor a hub id: give a folder with {CONFIG} and {WEIGHTS}, or an id such as stabilityai/sd-vae-ft-ema"
        )
    import huggingface_hub

    try:
        with hub.one_voice():
            snapshot = huggingface_hub.snapshot_download(
                name, allow_patterns=[CONFIG, WEIGHTS, f"vae/{CONFIG}", f"vae/{WEIGHTS}"]
            )
    except Exception as error:  # the hub's client raises the errors of several network libraries
        raise UserError(
            f"{where}: no such folder here, and no answer from the Hugging Face hub ({type(error).__name__}). Offline, copy {CONFIG} and {WEIGHTS} of "
            f"https://huggingface.co/{name} from another machine and give their folder"
        ) from error
    found = [
        f
        for f in (pathlib.Path(snapshot), pathlib.Path(snapshot) / "vae")
        if (f / CONFIG).is_file() and (f / WEIGHTS).is_file()
    ]
    if not found:
        raise UserError(
            f"https://huggingface.co/{name} has no {CONFIG} with {WEIGHTS}: give another id, such as stabilityai/sd-vae-ft-ema"
        )
    return found[0]


def _network(file: pathlib.Path) -> tuple[Network, dict]:
    """The network of a config.json, and the file's content. What it does not say is what diffusers takes then."""
    try:
        facts = json.loads(file.read_text())
        kind = facts.get("_class_name", "AutoencoderKL")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file} is not a JSON object ({error}): fetch it again") from error
    widths = facts.get("block_out_channels")
    blocks = facts.get("down_block_types", []) + facts.get("up_block_types", [])
    strange = sorted(set(blocks) - {"DownEncoderBlock2D", "UpDecoderBlock2D"})
    if (
        kind != "AutoencoderKL"
        or not isinstance(widths, list)
        or strange
        or facts.get("act_fn", "silu") != "silu"
    ):
        raise UserError(
            f"{file} describes {strange[0] if strange else f'a {kind}'}, expected an AutoencoderKL with block_out_channels: give the folder of such a VAE"
        )
    return Network(
        in_channels=facts.get("in_channels", 3),
        out_channels=facts.get("out_channels", 3),
        latent_channels=facts.get("latent_channels", 4),
        widths=tuple(widths),
        layers=facts.get("layers_per_block", 1),
        groups=facts.get("norm_num_groups", 32),
        attention=facts.get("mid_block_add_attention", True),
        quant_conv=facts.get("use_quant_conv", True),
        post_quant_conv=facts.get("use_post_quant_conv", True),
    ), facts
