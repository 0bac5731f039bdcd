"""Between images and the latents that generators learn: the one place that scales, by 0.18215 for Stable Diffusion 1 and 2.

A VAE is taken from `--vae`, or from what the cached latents or the run name. Latents are [B,h,w,C] float32 of about unit variance.
"""

import dataclasses
import functools
import logging
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from models.vae import VAE, load_vae, vae_facts
from utils import sharding as places
from utils.errors import UserError

log = logging.getLogger(__name__)

DEFAULT = "stabilityai/sd-vae-ft-ema"
DECODED = 8  # images per device and call


def scaled_moments(vae: VAE, params, images):
    """Images [B,H,W,3] in [-1, 1] -> mean and standard deviation of their latents, scaled."""
    mean, logvar = vae.encode(params, images)
    return vae.scale(mean), vae.scaling_factor * jnp.exp(0.5 * logvar)


def normal(seed: int, name: int, index, shape):
    """Standard normal noise [B, *shape] that depends on (seed, name, index [B]) alone."""
    key = jax.random.fold_in(jax.random.key(seed), name)
    return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shape))(index)


def checksum(params) -> str:
    """CRC-32 of all weights, to tell VAEs apart whatever their folders are called."""
    total = 0
    for leaf in jax.tree.leaves(params):
        total = zlib.crc32(np.ascontiguousarray(leaf), total)
    return f"{total:08x}"


class LatentSpace:
    """A VAE. sharding: of the leading axis of images and latents over devices of this process. facts: what a run or a cache says of its VAE, `vae` and `vae_weights`."""

    def __init__(self, vae: VAE, params, where: str, sharding):
        self.vae, self.sharding = vae, sharding
        self.facts = {"vae": str(where), "vae_weights": checksum(params)}
        self.params = jax.device_put(params, places.replicated(sharding.mesh))
        self._decode = jax.jit(lambda params, z: vae.decode(params, vae.unscale(z)))
        self._encode = jax.jit(self.draw, static_argnums=(3, 4))

    def draw(self, params, images, index, seed: int, flip: bool):
        """One draw of the latents of uint8 images [B,H,W,3], each mirrored with probability 1/2 if `flip`. index [B]: of the samples in the stream.

        Pure, to be jitted with the VAE's params. A draw depends on the image and (seed, index) alone.
        """
        images = images.astype(jnp.float32) / 127.5 - 1
        if flip:
            keys = jax.vmap(
                functools.partial(jax.random.fold_in, jax.random.fold_in(jax.random.key(seed), 2))
            )(index)
            images = jnp.where(
                jax.vmap(jax.random.bernoulli)(keys)[:, None, None, None],
                images[:, :, ::-1],
                images,
            )
        mean, std = scaled_moments(self.vae, params, images)
        return mean + std * normal(seed, 0, index, mean.shape[1:])

    def encode(self, images: np.ndarray, seed: int, flip: bool) -> np.ndarray:
        """`draw` for all of a set in its order, a few at a time."""
        size, latents = DECODED * self.sharding.mesh.size, []
        for start in range(0, len(images), size):
            index = np.minimum(
                np.arange(start, start + size), len(images) - 1
            )  # the last are filled up: one program serves all
            placed = jax.device_put((images[index], index.astype(np.uint32)), self.sharding)
            latents.append(
                np.asarray(self._encode(self.params, *placed, seed, flip))[: len(images) - start]
            )
        return np.concatenate(latents)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Images [B,H,W,3] float32, about [-1, 1], of latents [B,h,w,C], a few at a time."""
        size, images = DECODED * self.sharding.mesh.size, []
        for start in range(0, len(latents), size):
            part = latents[start : start + size]
            filled = part[
                np.minimum(np.arange(size), len(part) - 1)
            ]  # the last one is filled up: one program serves all
            images.append(
                np.asarray(self._decode(self.params, jax.device_put(filled, self.sharding)))[
                    : len(part)
                ]
            )
        return np.concatenate(images)

    def image_shape(self, latent_shape) -> tuple[int, int, int]:
        h, w, _ = latent_shape
        return h * self.vae.reduction, w * self.vae.reduction, self.vae.network.out_channels


def load_latent_space(where: str, sharding, facts: dict | None = None) -> LatentSpace:
    """The VAE at `where`, or else the one that `facts` names. Raises UserError when its weights are others than `facts` says."""
    facts = facts or {}
    found = str(where or facts.get("vae") or DEFAULT)
    try:
        space = LatentSpace(*load_vae(found), found, sharding)
    except UserError as error:
        raise UserError(f"{error}; --vae names another place") from None
    if "vae_weights" in facts and facts["vae_weights"] != space.facts["vae_weights"]:
        raise UserError(
            f"--vae {found}: its weights have the checksum {space.facts['vae_weights']}, but the latents are those of {facts['vae']} with "
            f"{facts['vae_weights']}; give that VAE"
        )
    return space


def latent_space_of(model, metadata: dict, where: str, sharding) -> LatentSpace | None:
    """The VAE that decodes a generator's samples: the one at `where`, or else that of its run, or the usual one for a published artifact of latents. None for pixels."""
    facts = (metadata.get("dataset") or {}).get("latents")
    if not facts and model.sample_shape[-1] in (1, 3):
        if where:
            raise UserError(
                f"--vae {where}: the generator makes images of {list(model.sample_shape)}, not latents; leave it out"
            )
        return None
    if not facts and not where:
        log.warning(
            "the generator makes latents and does not say of which VAE: %s is taken; --vae names another",
            DEFAULT,
        )
    return load_latent_space(where, sharding, facts)


def latent_shape(where: str, image_shape, fetch: bool = True) -> tuple[int, int, int]:
    """(h, w, C) of the latents of images (H, W, 3), by the VAE's config.json, for which `fetch` is as in `vae_facts`. Raises UserError for images that the VAE does not take."""
    (height, width, channels), (reduction, latent_channels) = image_shape, vae_facts(where, fetch)
    if channels != 3:
        raise UserError(
            f"the VAE takes colour images, and these have {channels} channel: give --data.channels 3"
        )
    if height % reduction or width % reduction:
        raise UserError(
            f"the VAE takes sides that {reduction} divides, and the images are {width}x{height}: give --data.image_size {max(1, round(min(height, width) / reduction)) * reduction}"
        )
    return height // reduction, width // reduction, latent_channels


def latent_dataset(config, dataset, sharding):
    """(the data set as the generator sees it, the VAE or None): pixels as they are, or latents, made as the images come or cached before. The VAE is read only if it is needed."""
    encode, draws = config.model.use_stable_vae, config.sample_interval or config.eval_interval
    if dataset.latents is None and not encode:
        if config.vae:
            raise UserError(
                f"--vae {config.vae}: {dataset.name} is learnt in pixels; leave it out, or give --model.use_stable_vae 1"
            )
        return dataset, None
    if dataset.latents and encode:
        raise UserError(
            f"--model.use_stable_vae 1: {dataset.name} holds latents already; leave it out"
        )
    if encode and config.drift.bank_per_class == "all" and config.data.flip:
        raise UserError(
            "--drift.bank_per_class all with --model.use_stable_vae 1 encodes each image once, so --data.flip would be decided for good: give --data.flip 0, or latents of scripts/cache_latents.py"
        )
    space, facts, where = None, dataset.latents, config.vae or DEFAULT
    shape = (
        latent_shape(where, dataset.shape, fetch=False) if encode else dataset.shape
    )  # what cannot work is said before anything is fetched
    if not config.dry_run and (encode or draws):
        try:
            space = load_latent_space(config.vae, sharding, facts)
        except UserError as error:
            raise UserError(
                f"{error}{'' if encode else ', and --sample_interval 0 --eval_interval 0 do without'}"
            ) from None
    if encode:
        shape = shape if config.dry_run else latent_shape(where, dataset.shape)
        facts = {
            "dataset": dataset.name,
            "split": dataset.split,
            "data": config.data.to_dict(),
            "image_shape": list(dataset.shape),
        } | (space.facts if space else {"vae": where})
        dataset = dataclasses.replace(dataset, shape=shape, dtype="float32", latents=facts)
    return dataset, space
