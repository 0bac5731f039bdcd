"""What a train step takes, as shapes: nothing is read, fetched or allocated."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import data
from drifting.bank import Batch
from models.encoders import takes_pixels
from models.latents import DEFAULT_VAE, latent_shape
from models.vae import vae_sizes_here
from utils.config import resolve
from utils.errors import UserError
from utils.sharding import replicated


def stand_in(flags: Any, config: Any) -> data.Dataset:
    """Returns the data set of a plan by its facts.

    Args:
        flags: with `stand_in`, the shape and the classes of a data set that is not here, or empty
            for that of the configuration; and with `samples`, how many it has.
        config: of the run.
    Raises:
        UserError: for a senseless stand-in.
    """
    if not flags.stand_in:
        return data.load(config.dataset_name, config.data.split, config.data, facts_only=True)
    words = flags.stand_in
    if words == "latents":
        words = "x".join(map(str, (*shape_of_latents(config), 1000)))
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){3}", words):
        raise UserError(
            f"--stand_in {flags.stand_in}: expected latents, or HEIGHTxWIDTHxCHANNELSxCLASSES such "
            "as 256x256x3x1000"
        )
    height, width, channels, classes = map(int, words.split("x"))
    if flags.samples < classes:
        raise UserError(
            f"--samples {flags.samples}: expected at least one for each of the {classes} classes "
            f"of --stand_in {flags.stand_in}"
        )
    samples: Any = range(flags.samples)  # their number is all that is asked for
    return data.Dataset(
        name="stand-in",
        split="train",
        samples=samples,
        shape=(height, width, channels),
        dtype="float32" if channels > 3 else "uint8",
        class_names=tuple(map(str, range(classes))),
        counts=(flags.samples // classes,) * classes,
    )


def shape_of_latents(config: Any) -> tuple[int, int, int]:
    """Returns (h, w, C) of the latents of ImageNet that a run learns.

    They follow from --data.image_size. Where that is 0, as for latents that are made already, they
    follow from the recipe, and are those of 256x256 for recipes without a size.

    Raises UserError for an encoder of pixels, or for images that the VAE does not take.
    """
    if takes_pixels(config.encoder.name):
        raise UserError(
            f"--stand_in latents: --encoder.name {config.encoder.name} takes images; give a recipe "
            "of latents, such as imagenet256_B, or HEIGHTxWIDTHx3xCLASSES for the images"
        )
    of_recipe = resolve({"recipe": config.recipe}).data.image_size
    side = config.data.image_size or of_recipe or 256
    return latent_shape((side, side, 3), *vae_sizes_here(config.vae or DEFAULT_VAE))


def arguments(parts: Any, state: Any) -> tuple[Any, ...]:
    """Returns the arguments of `training.drift.jit_step`, as shapes with their shardings.

    With the bank in host memory they are (state, batch, parameters of the encoder), or else (state,
    bank, fresh reals or None, parameters of the encoder).

    state: of `training.drift.state_shapes`.
    """
    everywhere = replicated(parts.mesh)
    encoder = _with_sharding(parts.encoder_params, everywhere)
    if parts.bank_on_host:
        batch = _with_sharding(_batch(parts), parts.layout.groups_sharding)
        return state, batch, encoder
    fresh = None
    if not parts.whole_bank:
        shape, dtype = _label(parts)
        labels = jax.ShapeDtypeStruct((parts.reals_per_step, *shape), dtype, sharding=everywhere)
        fresh = parts.new_reals, labels
    return state, parts.bank_shapes, fresh, encoder


def _label(parts: Any) -> tuple[tuple[int, ...], Any]:
    """Returns the shape and the dtype of a label, or of a condition."""
    width = parts.dataset.condition_width
    return ((width,), jnp.float32) if width else ((), jnp.int32)


def _batch(parts: Any) -> Batch:
    """Returns the classes and the real samples of a step, [K groups, C classes, ...]."""
    config = parts.drift
    leading = (config.groups, config.n_c // config.groups)
    stored = parts.stored
    if not parts.cached:
        stored = jax.ShapeDtypeStruct(parts.dataset.shape, np.dtype(parts.dataset.dtype))

    def array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*leading, *shape), dtype)

    def reals(count: int) -> Any:
        return jax.tree.map(lambda a: array((count, *a.shape), a.dtype), stored)

    return Batch(
        labels=array(*_label(parts)),
        alpha=array((), jnp.float32),
        pos=reals(config.n_pos),
        weight_pos=array((config.n_pos,), jnp.float32),
        unc=reals(config.n_unc),
    )


def _with_sharding(tree: Any, sharding: Any) -> Any:
    """Returns arrays, or their shapes, as shapes with one sharding."""

    def described(array: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    return jax.tree.map(described, tree)
