"""One step of the masked autoencoder's training (A.3): `mae_step`. The rest of this file is what it calls."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from drifting.images import to_float
from drifting.state import TrainState, named_key, update_ema
from models.mae import MAE, random_mask, reconstruction_loss

ASPECT = (
    4 / 3
)  # a crop is at most so many times wider or higher than its image: arXiv 1409.4842, Sec. 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """The numbers of a step."""

    mask_prob: float  # share of the patches that are hidden, in (0, 1)
    crop_area: float  # least share of the image in a crop, in (0, 1]; 1: the whole image
    flip: bool  # mirror images at random
    finetune_from: int  # steps before the classifier is trained too
    class_weight: float  # lambda, reached ...
    class_warmup: int  # ... in so many steps


def mae_step(
    state: TrainState,
    images,
    labels,
    *,
    model: MAE,
    optimizer,
    config: MAEConfig,
    gather=lambda t: t,
):
    """Crop, hide, rebuild, classify, update. Pure; to be jitted with `state` donated.

    images: [B,H,W,C] uint8 pixels or float32 latents. labels: [B]. gather: makes the parameters whole on every
    device (utils/sharding.py). Returns (state, metrics): scalars; `loss` = (1 - lambda) loss_rec + lambda loss_cls.
    """
    c = config
    key = lambda name: named_key(state.seed, name, state.step)
    x = random_resized_crop(key("crop"), to_float(images), c.crop_area)
    if c.flip:
        x = jnp.where(jax.random.bernoulli(key("flip"), 0.5, (len(x), 1, 1, 1)), x[:, :, ::-1], x)
    cells = model.cells(x)
    mask = random_mask(key("mask"), cells.shape, model.patch_size, c.mask_prob)  # [B,h,w,1]
    weight = class_weight(state.step, c)

    def loss_fn(params):
        variables, rngs = {"params": gather(params)}, {"dropout": key("dropout")}
        recon, logits = model.apply(variables, x, mask, True, rngs=rngs)  # [B,h,w,c], [B,classes]
        loss_rec = jnp.mean(reconstruction_loss(recon, cells, mask))
        loss_cls = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
        accuracy = jnp.mean(jnp.argmax(logits, -1) == labels)
        losses = {"loss_rec": loss_rec, "loss_cls": loss_cls, "accuracy": accuracy}
        return (1 - weight) * loss_rec + weight * loss_cls, losses

    (loss, losses), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    state = state.replace(
        step=state.step + 1, params=params, opt_state=opt_state, ema=update_ema(state.ema, params)
    )
    norms = {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
    return state, {"loss": loss} | losses | norms | {"class_weight": weight}


def class_weight(step, c: MAEConfig):
    """lambda of the step after `step`: 0 until `finetune_from`, then a linear rise to `class_weight`."""
    return c.class_weight * jnp.clip((step + 1 - c.finetune_from) / c.class_warmup, 0.0, 1.0)


def random_resized_crop(key: PRNGKeyArray, x: Float[Array, "B H W C"], min_area: float):
    """Of each image a random rectangle, brought to the size of the image, bilinearly.

    The share of its area is uniform in [min_area, 1], the logarithm of its shares of the width and of the height,
    one by the other, in [-log 4/3, log 4/3], its place uniform; a side that would exceed the image is the image's.
    Places are not rounded to pixels.
    """
    if min_area == 1:
        return x
    n, height, width, channels = x.shape
    key_area, key_aspect, key_place = jax.random.split(key, 3)
    area = jax.random.uniform(key_area, (n,), minval=min_area, maxval=1.0)
    limit = math.log(ASPECT)
    aspect = jnp.exp(jax.random.uniform(key_aspect, (n,), minval=-limit, maxval=limit))
    share = jnp.stack(
        [jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)], 1
    )  # [B,2] of the height and the width
    share = jnp.minimum(share, 1.0)
    start = jax.random.uniform(key_place, (n, 2)) * (1 - share)  # [B,2]

    def crop(x, share, start):
        size = jnp.array([height, width], jnp.float32)
        return jax.image.scale_and_translate(
            x, x.shape, (0, 1), 1 / share, -start * size / share, "bilinear", antialias=False
        )

    return jax.vmap(crop)(x, share, start)
