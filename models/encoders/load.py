"""Loads an encoder, or several whose features are joined, and applies the user's options."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from models.encoders.contract import Decoder, Encode, FrozenEncoder
from models.encoders.names import set_prefix, split_sources
from models.encoders.table import find_encoder
from models.features import feature_sets
from utils.errors import UserError

OPTIONS = ("names", "statistics", "patch_sizes", "image_size", "bf16", "sha256")

# () -> training samples [S, H, W, C] as the generator sees them, float32
Samples = Callable[[], np.ndarray]
# (name, source, bf16, sha256) -> the encoder, as `EncoderModule.load`
LoadOne = Callable[[str, str, bool | None, str], FrozenEncoder]


def load_encoder(
    source: str | Path,
    decode: Decoder | None = None,
    samples: Samples | None = None,
    **options: Any,
) -> tuple[Encode, Any, dict[str, Any]]:
    """Loads a frozen encoder: (encode, params, metadata).

    Args:
        source: one encoder or several, see `models/encoders/__init__.py`.
        decode: (function, its parameters) for latents: an encoder of pixels gets
            function(parameters, latents), images in [-1, 1]. The parameters are then in
            params["decode"], and gradients reach the latents. An encoder with as many channels as
            the latents gets them directly.
        samples: reads training samples, for encoders that are fitted on them.
        options: each is for all encoders, or a dict {encoder: value}; None is the encoder's own.

            names        shell patterns of the feature maps to use; "!PATTERN" drops sets
            statistics   some of "map", "mean", "std" (`models.features.feature_sets`)
            patch_sizes  of the patch means and deviations
            image_size   that images are resized to: a number, or (height, width)
            bf16         whether to compute in bfloat16
            sha256       the expected start of the weight file's checksum

    Returns:
        encode: (params, images) -> {name: [B, T, D]}, float32 (float64 for float64 images). It is
            pure, and can be jitted and differentiated. With several encoders the sets are called
            "dinov2/cls" and so on; "global" of `none` keeps its name.
        params: the weights; with several encoders {encoder: its weights}.
        metadata: what the encoder's files say of it, or {encoder: what they say}; and "encoders",
            the list of them (`encoder_of_set` finds that of a set).

    Raises:
        UserError: unknown names, weights that are missing, damaged or of another architecture, and
            images of the wrong kind.
    """
    return load_encoder_with(_read_weights, source, decode, samples, **options)


def load_encoder_with(
    load_one: LoadOne,
    source: str | Path,
    decode: Decoder | None = None,
    samples: Samples | None = None,
    **options: Any,
) -> tuple[Encode, Any, dict[str, Any]]:
    """As `load_encoder`, with another function for reading the weights of one encoder."""
    for unknown in set(options) - set(OPTIONS):
        raise UserError(f"encoder option {unknown!r} is unknown: choose from {', '.join(OPTIONS)}")
    encoders = {}
    for name, path in split_sources(source):
        chosen = {}
        for option, value in options.items():
            chosen[option] = value.get(name) if isinstance(value, dict) else value
        bf16, sha256 = chosen.pop("bf16", None), chosen.pop("sha256", None)
        encoder = load_one(name, path, bf16, sha256 or "")
        if encoder.fit and chosen.get("image_size"):
            raise UserError(
                f"--encoder.image_size {chosen['image_size']}: {name} is fitted on samples of the "
                "size that they have; leave its place empty"
            )
        if encoder.fit:
            encoder = dataclasses.replace(encoder, params=_fitted(name, encoder.fit, samples))
        if name != "none":  # the raw sample has nothing to choose
            changes = {option: value for option, value in chosen.items() if value is not None}
            encoder = dataclasses.replace(encoder, **changes)
        encoders[name] = encoder
    encode, params = _join(encoders, decode)
    own = {name: encoder.metadata for name, encoder in encoders.items()}
    metadata = own if len(own) > 1 else next(iter(own.values()))
    return encode, params, metadata | {"where": str(source), "encoders": list(encoders)}


def _read_weights(name: str, source: str, bf16: bool | None, sha256: str) -> FrozenEncoder:
    return find_encoder(name).load(name, source, bf16, sha256)


def _fitted(name: str, fit: Callable[[Any], Any], samples: Samples | None) -> Any:
    if samples is None:
        raise UserError(f"the encoder {name} is fitted on training data, and none are given here")
    return fit(samples())


def _join(encoders: dict[str, FrozenEncoder], decode: Decoder | None) -> tuple[Encode, Any]:
    """Returns (encode, params) of all encoders together."""
    params: Any = {name: encoder.params for name, encoder in encoders.items()}
    if decode is not None:
        params["decode"] = decode[1]
    alone = len(encoders) == 1 and decode is None
    if alone:
        (params,) = params.values()

    def encode(params: Any, images: Array) -> dict[str, Array]:
        images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
        decoded = None
        sets = {}
        for name, encoder in encoders.items():
            x = images
            if decode is not None and encoder.channels not in (None, images.shape[-1]):
                if decoded is None:
                    decoded = decode[0](params["decode"], images)
                x = decoded
            own_params = params if alone else params[name]
            prefix = set_prefix(name, list(encoders))
            for key, value in _encode(name, encoder, own_params, x).items():
                sets[prefix + key] = value
        return sets

    return encode, params


def _encode(
    name: str, encoder: FrozenEncoder, params: Any, images: Float[Array, "B H W C"]
) -> dict[str, Float[Array, "B T D"]]:
    """Returns the feature sets of one encoder, of images of any size."""
    channels = images.shape[-1]
    grey = encoder.channels == 3 and channels == 1
    if encoder.channels not in (None, channels) and not grey:
        raise UserError(
            f"the encoder {name} takes images of {encoder.channels} channels, given {channels}: "
            "latents need the VAE's decoder (decode), or an encoder of latents"
        )
    size = encoder.image_size
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        if images.shape[1:3] != (height, width):
            shape = (images.shape[0], height, width, channels)
            images = jax.image.resize(images, shape, encoder.interpolation)
    maps = encoder.maps(params, images)
    return feature_sets(maps, encoder.names, encoder.statistics, encoder.patch_sizes)
