"""Between images and the latents that generators learn.

This is the one place that scales latents, by 0.18215 for Stable Diffusion 1 and 2. Scaled latents
are [B, h, w, C], float32, of about unit variance. The VAE is the one that `--vae` names, or else
what the cached latents or the run say.
"""

import dataclasses
import logging
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt8

from drifting.images import to_float
from models.vae import VAE, load_vae, vae_sizes_here
from utils.errors import UserError

log = logging.getLogger(__name__)

DEFAULT_VAE = "stabilityai/sd-vae-ft-ema"
IMAGES_AT_ONCE = 8  # that are encoded or decoded by one call, per device


# ---- latents of a batch ----


def scaled_moments(
    vae: VAE, params: Any, images: Float[Array, "B H W 3"]
) -> tuple[Float[Array, "B h w C"], Float[Array, "B h w C"]]:
    """Returns mean and standard deviation of the scaled latents of images in [-1, 1]."""
    mean, logvar = vae.encode(params, images)
    return vae.scale(mean), vae.scaling_factor * jnp.exp(0.5 * logvar)


def normal(seed: int, name: int, index: Int[Array, " B"], shape: tuple[int, ...]) -> Array:
    """Returns standard normal noise [B, *shape] that depends on (seed, name, index) alone."""
    key = jax.random.fold_in(jax.random.key(seed), name)

    def noise_of_sample(i: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, i), shape)

    return jax.vmap(noise_of_sample)(index)


def random_bits(seed: int, name: int, index: Int[Array, " B"]) -> Array:
    """Returns a fair coin of each sample [B] that depends on (seed, name, index) alone."""
    key = jax.random.fold_in(jax.random.key(seed), name)

    def key_of_sample(i: Array) -> Array:
        return jax.random.fold_in(key, i)

    return jax.vmap(jax.random.bernoulli)(jax.vmap(key_of_sample)(index))


def checksum(params: Any) -> str:
    """Returns the CRC-32 of all weights, which tells VAEs apart wherever they lie."""
    total = 0
    for leaf in jax.tree.leaves(params):
        weights: Any = np.ascontiguousarray(leaf)
        total = zlib.crc32(weights, total)
    return f"{total:08x}"


class LatentSpace:
    """A VAE on the devices.

    Attributes:
        vae: its functions.
        params: its parameters, whole on each device.
        sharding: of the leading axis of images and latents, over devices of this process.
        facts: what a run or a cache says of its VAE, `vae` and `vae_weights`.
    """

    def __init__(self, vae: VAE, params: Any, source: str, sharding: NamedSharding):
        self.vae, self.sharding = vae, sharding
        self.facts = {"vae": str(source), "vae_weights": checksum(params)}
        self.params = jax.device_put(params, NamedSharding(sharding.mesh, PartitionSpec()))
        self._decode = jax.jit(self._decode_scaled)
        self._encode = jax.jit(self.draw, static_argnums=(3, 4))

    def draw(
        self,
        params: Any,
        images: UInt8[Array, "B H W 3"],
        index: Int[Array, " B"],
        seed: int,
        flip: bool,
    ) -> Float[Array, "B h w C"]:
        """Returns one draw of the latents of each image.

        It depends on the image and on (seed, index) alone. The function is pure, to be jitted with
        the VAE's parameters.

        Args:
            params: of the VAE.
            images: pixels.
            index: of the samples in the stream.
            seed: of the run.
            flip: mirror each image with probability 1/2.
        """
        x = to_float(images)
        if flip:
            mask = random_bits(seed, 2, index)[:, None, None, None]
            x = jnp.where(mask, x[:, :, ::-1], x)
        mean, deviation = scaled_moments(self.vae, params, x)
        return mean + deviation * normal(seed, 0, index, mean.shape[1:])

    def encode(self, images: np.ndarray, seed: int, flip: bool, first: int = 0) -> np.ndarray:
        """Returns `draw` of images [n, H, W, 3] of a set in its order, a few at a time.

        first: the index, in the set, of the first of them.
        """
        latents = []
        for index in self._batches(len(images)):
            in_set = (first + index).astype(np.uint32)
            batch = jax.device_put((images[index], in_set), self.sharding)
            latents.append(np.asarray(self._encode(self.params, *batch, seed, flip)))
        return np.concatenate(latents)[: len(images)]

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Returns images [n, H, W, 3], float32, about [-1, 1], a few at a time."""
        images = []
        for index in self._batches(len(latents)):
            batch = jax.device_put(latents[index], self.sharding)
            images.append(np.asarray(self._decode(self.params, batch)))
        return np.concatenate(images)[: len(latents)]

    def image_shape(self, latent_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Returns (H, W, channels) of the images of latents (h, w, C)."""
        h, w, _ = latent_shape
        return h * self.vae.reduction, w * self.vae.reduction, self.vae.network.out_channels

    def _decode_scaled(self, params: Any, latents: Array) -> Array:
        return self.vae.decode(params, self.vae.unscale(latents))

    def _batches(self, n: int) -> list[np.ndarray]:
        """Returns the indices of each batch. The last one is filled up, so one program serves."""
        size = IMAGES_AT_ONCE * self.sharding.mesh.size
        starts = range(0, n, size)
        return [np.minimum(np.arange(start, start + size), n - 1) for start in starts]


# ---- which VAE ----


def load_latent_space(
    source: str, sharding: NamedSharding, facts: dict[str, Any] | None = None
) -> LatentSpace:
    """Returns the VAE at `source`, or else the one that `facts` name, or else the usual one.

    Args:
        source: a folder, a hub id, or "".
        sharding: of `LatentSpace`.
        facts: what a run or a cache says of its VAE.
    Raises:
        UserError: it cannot be read, or its weights are others than `facts` say.
    """
    facts = facts or {}
    found = str(source or facts.get("vae") or DEFAULT_VAE)
    try:
        space = LatentSpace(*load_vae(found), found, sharding)
    except UserError as error:
        raise UserError(f"{error}; --vae names another place") from None
    weights = space.facts["vae_weights"]
    if facts.get("vae_weights", weights) != weights:
        raise UserError(
            f"--vae {found}: its weights have the checksum {weights}, but the latents are those "
            f"of {facts['vae']} with {facts['vae_weights']}; give that VAE"
        )
    return space


def latent_space_of(
    model: Any, metadata: dict[str, Any], source: str, sharding: NamedSharding
) -> LatentSpace | None:
    """Returns the VAE that decodes a generator's samples; None for samples that are pixels.

    It is the one at `source`, or else that of the generator's run, or, for a published artifact of
    latents, the usual one.

    Raises:
        UserError: `source` is given for a generator of pixels, or is another VAE.
    """
    facts = (metadata.get("dataset") or {}).get("latents")
    if not facts and model.sample_shape[-1] in (1, 3):
        if source:
            raise UserError(
                f"--vae {source}: the generator makes images of {list(model.sample_shape)}, not "
                "latents; leave it out"
            )
        return None
    if not facts and not source:
        log.warning(
            "the generator makes latents and does not say of which VAE: %s is taken; --vae names "
            "another",
            DEFAULT_VAE,
        )
    return load_latent_space(source, sharding, facts)


def latent_shape(
    image_shape: tuple[int, ...], reduction: int, latent_channels: int
) -> tuple[int, int, int]:
    """Returns (h, w, C) of the latents of images (H, W, 3).

    Args:
        image_shape: of the images.
        reduction: pixels per latent along a side, as the VAE has it.
        latent_channels: C.
    Raises:
        UserError: images that the VAE does not take.
    """
    height, width, channels = image_shape
    if channels != 3:
        raise UserError(
            f"the VAE takes colour images of 3 channels, and these have {channels}: give "
            "--data.channels 3, or --model.use_stable_vae 0 where they are latents"
        )
    if height % reduction or width % reduction:
        side = max(1, round(min(height, width) / reduction)) * reduction
        raise UserError(
            f"the VAE takes sides that {reduction} divides, and the images are {width}x{height}: "
            f"give --data.image_size {side}"
        )
    return height // reduction, width // reduction, latent_channels


# ---- the data set of a run ----


def latent_dataset(
    config: Any, dataset: Any, sharding: NamedSharding
) -> tuple[Any, LatentSpace | None]:
    """Returns the data set as the generator sees it, and the VAE, if it is needed.

    The samples are pixels as they are, or latents that are made as the images come
    (--model.use_stable_vae 1), or latents that were cached before.

    Args:
        config: the whole configuration.
        dataset: a `data.Dataset`.
        sharding: of `LatentSpace`.
    Raises:
        UserError: flags that contradict one another, or a VAE that does not fit.
    """
    encodes = config.model.use_stable_vae
    _check_flags(config, dataset)
    if dataset.latents is None and not encodes:
        return dataset, None
    source = config.vae or DEFAULT_VAE
    shape = dataset.shape
    if encodes:  # what cannot work is said before anything is fetched
        shape = latent_shape(dataset.shape, *vae_sizes_here(source))
    space = _space_if_needed(config, dataset, sharding)
    if encodes:
        if space:
            shape = latent_shape(dataset.shape, space.vae.reduction, space.vae.latent_channels)
        facts = {
            "dataset": dataset.name,
            "split": dataset.split,
            "data": config.data.to_dict(),
            "image_shape": list(dataset.shape),
        }
        facts |= space.facts if space else {"vae": source}
        dataset = dataclasses.replace(dataset, shape=shape, dtype="float32", latents=facts)
    return dataset, space


def _check_flags(config: Any, dataset: Any) -> None:
    """Raises UserError for flags of latents that contradict the data or one another."""
    encodes = config.model.use_stable_vae
    if dataset.latents is None and not encodes and config.vae:
        raise UserError(
            f"--vae {config.vae}: {dataset.name} is learnt in pixels; leave it out, or give "
            "--model.use_stable_vae 1"
        )
    if dataset.latents and encodes:
        raise UserError(
            f"--model.use_stable_vae 1: {dataset.name} holds latents already; leave it out"
        )
    if encodes and config.drift.bank_per_class == "all" and config.data.flip:
        raise UserError(
            "--drift.bank_per_class all with --model.use_stable_vae 1 encodes each image once, "
            "so --data.flip would be decided for good: give --data.flip 0, or latents of "
            "scripts/cache_latents.py"
        )


def _space_if_needed(config: Any, dataset: Any, sharding: NamedSharding) -> LatentSpace | None:
    """Returns the VAE of a run that encodes images, or draws samples; None for others."""
    encodes = config.model.use_stable_vae
    draws = config.sample_interval or config.eval_interval
    if config.dry_run or not (encodes or draws):
        return None
    try:
        return load_latent_space(config.vae, sharding, dataset.latents)
    except UserError as error:
        hint = "" if encodes else ", and --sample_interval 0 --eval_interval 0 do without"
        raise UserError(f"{error}{hint}") from None
