"""One step of the masked autoencoder's training (section A.3): `mae_step`.

The rest of this file is what it calls.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from drifting.images import mirror, to_float
from drifting.state import TrainState, named_key, update_ema
from models.mae import MAE, random_mask, reconstruction_loss

# A crop is at most so many times wider or higher than its image (arXiv 1409.4842, section 6).
MAX_ASPECT = 4 / 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """The numbers of a step.

    Attributes:
        mask_prob: how likely a patch is hidden, in (0, 1).
        crop_area: the least part of an image that a crop shows, in (0, 1]; 1 for the whole image.
        flip: mirror images at random.
        finetune_from: steps before the classifier is trained too.
        class_weight: lambda, the weight of the classifier's loss at the end of its warm-up.
        class_warmup: the steps of that warm-up.
    """

    mask_prob: float
    crop_area: float
    flip: bool
    finetune_from: int
    class_weight: float
    class_warmup: int


def _unchanged(params: Any) -> Any:
    return params


def mae_step(
    state: TrainState,
    images: Array,
    labels: Int[Array, " B"],
    *,
    model: MAE,
    optimizer: optax.GradientTransformation,
    config: MAEConfig,
    all_gather: Callable[[Any], Any] = _unchanged,
) -> tuple[TrainState, dict[str, Array]]:
    """Takes one step: crop, hide, rebuild, classify, update.

    It is a pure function, to be jitted with `state` donated.

    Args:
        images: [B, H, W, C], uint8 pixels or float32 latents.
        labels: classes [B].
        all_gather: makes the parameters whole on every device, see utils/sharding.py.

    Returns:
        The state after the step, and scalars. One of them is
        `loss` = (1 - lambda) loss_rec + lambda loss_cls.
    """

    def key(name: str) -> Array:
        return named_key(state.seed, name, state.step)

    # The images as they are seen, and what is hidden of them.
    x = random_resized_crop(key("crop"), to_float(images), config.crop_area)
    if config.flip:
        x = mirror(x, jax.random.bernoulli(key("flip"), 0.5, (len(x),)))
    cells = model.cells(x)
    mask = random_mask(key("mask"), cells.shape, model.patch_size, config.mask_prob)  # [B,h,w,1]
    weight = class_weight(state.step, config)

    def loss_fn(params):
        variables, rngs = {"params": all_gather(params)}, {"dropout": key("dropout")}
        outputs: Any = model.apply(variables, x, mask, True, rngs=rngs)
        recon, logits = outputs  # [B, h, w, c], [B, classes]
        loss_rec = jnp.mean(reconstruction_loss(recon, cells, mask))
        loss_cls = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
        accuracy = jnp.mean(jnp.argmax(logits, -1) == labels)
        losses = {"loss_rec": loss_rec, "loss_cls": loss_cls, "accuracy": accuracy}
        return (1 - weight) * loss_rec + weight * loss_cls, losses

    # The update and the averages.
    (loss, losses), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = update_ema(state.ema, params, state.step + 1)
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema)
    norms = {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
    return state, {"loss": loss} | losses | norms | {"class_weight": weight}


def class_weight(step: Array, config: MAEConfig) -> Array:
    """Returns lambda of the step after `step`.

    It is 0 until `finetune_from` and then rises linearly to `class_weight`.
    """
    progress = (step + 1 - config.finetune_from) / config.class_warmup
    return config.class_weight * jnp.clip(progress, 0.0, 1.0)


def random_resized_crop(
    key: PRNGKeyArray, x: Float[Array, "B H W C"], min_area: float
) -> Float[Array, "B H W C"]:
    """Returns a random rectangle of each image, enlarged bilinearly to the size of the image.

    The rectangle has an area uniform in [min_area, 1] of the image. Its height and width are
    fractions of the image's; the logarithm of the one divided by the other is uniform in
    [-log 4/3, log 4/3]. A side that would exceed the image is the image's. The corner is uniform,
    and not rounded to pixels.
    """
    if min_area == 1:
        return x
    n, height, width, _ = x.shape
    key_area, key_aspect, key_corner = jax.random.split(key, 3)
    area = jax.random.uniform(key_area, (n,), minval=min_area, maxval=1.0)
    limit = math.log(MAX_ASPECT)
    aspect = jnp.exp(jax.random.uniform(key_aspect, (n,), minval=-limit, maxval=limit))
    sides = jnp.stack([jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)], 1)
    sides = jnp.minimum(sides, 1.0)  # [B, 2], fractions of the height and the width
    corners = jax.random.uniform(key_corner, (n, 2)) * (1 - sides)  # [B, 2]

    def crop(x, side, corner):
        size = jnp.array([height, width], jnp.float32)
        scale, shift = 1 / side, -corner * size / side
        return jax.image.scale_and_translate(
            x, x.shape, (0, 1), scale, shift, "bilinear", antialias=False
        )

    return jax.vmap(crop)(x, sides, corners)
