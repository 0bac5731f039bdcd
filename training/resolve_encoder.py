"""Which frozen encoder makes the features in which samples are compared."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import data
from data.pipeline import Readable
from drifting.battery import ONE_ENCODER, Battery
from drifting.images import to_float
from models.encoders import (
    encoder_of_set,
    join_sources,
    options_from_flags,
    split_sources,
    takes_pixels,
    used_params,
    whiten,
)
from models.latents import LatentSpace, load_latent_space
from models.narrow import narrow
from utils import sharding
from utils.errors import UserError

FITTED_ON = 10_000  # training samples, at most


class Encoder(NamedTuple):
    """A frozen feature encoder, or several whose features are joined."""

    encode: Callable | None  # (params, images [B, H, W, C]) -> {name: [B, T, D]}
    params: Any  # None for `encode`, and {} here, in a dry run: nothing is read


def resolve_encoder(
    config: Any,
    dataset: data.Dataset,
    decoder: LatentSpace | None,
    load_encoder: Callable,
) -> Encoder:
    """Returns the encoder that --encoder.* names, with the parameters that it uses.

    Args:
        config: the configuration of the run.
        dataset: the data as the generator sees it.
        decoder: the VAE through which the encoder sees latents, or None.
        load_encoder: as `models.encoders.load_encoder`.
    Raises:
        UserError: an unknown name, or weights that are not there.
    """
    decode = None
    if decoder:
        decode = (decode_latents(decoder), jax.device_get(decoder.params))
    if "whiten" in config.encoder.name.split("+"):
        check_fit(config, "--encoder.name whiten")
        whiten.check_size(dataset.shape)
    encoder = read_encoder(
        config.encoder,
        load_encoder,
        decode,
        names_only=config.dry_run,
        samples=functools.partial(some_samples, dataset),
    )
    if encoder.encode is None:
        return encoder
    sample = jax.ShapeDtypeStruct((1, *dataset.shape), np.float32)
    return encoder._replace(params=narrow(encoder.encode, encoder.params, sample))


def read_encoder(
    config: Any,
    load_encoder: Callable,
    decode: tuple | None = None,
    names_only: bool = False,
    samples: Callable[[], np.ndarray] | None = None,
) -> Encoder:
    """Returns the encoder that the group `encoder` names; "none" compares raw samples.

    Args:
        config: the group of that name of the configuration.
        load_encoder: as `models.encoders.load_encoder`.
        decode: (function, its parameters), through which an encoder of pixels sees latents.
        names_only: check the flags, and read or fetch nothing.
        samples: reads training samples, for encoders that are fitted on them.
    """
    source, options = join_sources(config.name, config.path), options_from_flags(config)
    if names_only and config.name != "none":
        split_sources(source)
        return Encoder(None, {})
    encode, params, _ = load_encoder(source, decode=decode, samples=samples, **options)
    return Encoder(encode, used_params(params))


def some_samples(dataset: data.Dataset) -> np.ndarray:
    """Returns samples all over the data set [S, H, W, C], in [-1, 1] if they are pixels, float32.

    They are those of the data set: images, also where they become latents on the way.
    """
    readable = Readable(dataset)
    places = np.linspace(0, len(readable) - 1, min(len(readable), FITTED_ON)).astype(int)
    images = np.stack([readable[place]["image"] for place in places])
    return np.asarray(to_float(jnp.asarray(images)))


def check_fit(config: Any, flag: str) -> None:
    """Raises UserError for what is fitted to samples, where the generator learns made latents."""
    if config.model.use_stable_vae:
        raise UserError(
            f"{flag}: it is fitted to samples of the data set, and with --model.use_stable_vae 1 "
            "those are images, but the generator makes latents; cache these first, with "
            "scripts/cache_latents.py, or leave it out"
        )


def resolve_monitor(name: str, encoder: Encoder, shape: tuple[int, ...]) -> str:
    """Returns the feature set that the energy distance and the diversity are measured in.

    It has one vector per image. Without a name it is the last such set in the encoder's own order,
    rather not one of standard deviations: those of a small map may be the same for all images. A
    dry run, without an encoder, returns the name as it is.

    Args:
        name: --drift.monitor, or "".
        encoder: the frozen encoder.
        shape: [H, W, C] of a sample.
    Raises:
        UserError: there is no such set.
    """
    if encoder.encode is None:
        return name
    encode, vectors = encoder.encode, []

    def note_vectors(params, images):
        # What is traced has the encoder's own order; what comes out is sorted by name.
        sets = encode(params, images)
        vectors.extend(key for key, features in sets.items() if features.shape[1] == 1)
        return sets

    sample = jax.ShapeDtypeStruct((1, *shape), np.float32)
    jax.eval_shape(note_vectors, encoder.params, sample)
    if not vectors or (name and name not in vectors):
        known = ", ".join(vectors) or "none, add the raw sample with --encoder.name none+..."
        raise UserError(
            f"--drift.monitor {name or '(empty)'}: expected a feature set with one vector "
            f"per image; this encoder has {known}"
        )
    means = [key for key in vectors if not key.endswith("_std")]
    return name or (means or vectors)[-1]


def resolve_battery(config: Any) -> Battery:
    """Returns the encoders of a step, where they are several, and whether they are in balance.

    config: the group `encoder` of the configuration.

    Raises UserError for a single one that is to be in balance.
    """
    names = config.name.split("+")
    if len(names) > 1:
        encoder_of = functools.partial(encoder_of_set, metadata={"encoders": names})
        return Battery(tuple(names), encoder_of, config.balance)
    if config.balance:
        raise UserError(
            f"--encoder.balance 1: {config.name} is the only encoder, so there is nothing to "
            "balance; name several in --encoder.name, joined by +, or leave it out"
        )
    return ONE_ENCODER


# ---- latents, for encoders that take pixels ----


def resolve_decoder(
    config: Any, dataset: data.Dataset, mesh: jax.sharding.Mesh, space: LatentSpace | None
) -> LatentSpace | None:
    """Returns the VAE through which an encoder of pixels sees latents; None if none is needed.

    space: the VAE of the run, where it is loaded already.
    """
    if not dataset.latents or config.dry_run or not takes_pixels(config.encoder.name):
        return None
    return space or load_latent_space(config.vae, sharding.local_sharding(mesh), dataset.latents)


def decode_latents(space: LatentSpace) -> Callable:
    """Returns (params, latents) -> images, through which gradients reach the latents."""

    def decode(params, latents):
        return space.vae.decode(params, space.vae.unscale(latents))

    return decode
