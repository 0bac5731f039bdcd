"""Sampling in one pass: sample i depends on (seed, i) alone, whatever the batch and the devices."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from models.dit import draw_style_indices


@functools.partial(jax.jit, static_argnames=("model", "sharding"))
def _generate(model, sharding, params, seed, index, labels, cfg_scale):
    def inputs(i):
        noise_key, style_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), i))
        return jax.random.normal(noise_key, model.noise_shape), draw_style_indices(
            model, style_key, 1
        )[0]

    noise, style = jax.vmap(inputs)(index)
    if sharding is not None:
        noise, style = jax.lax.with_sharding_constraint((noise, style), sharding)
    return model.apply({"params": params}, noise, labels, cfg_scale, style)


def generate(
    model,
    params,
    labels,
    cfg_scale,
    seed: int,
    *,
    first: int = 0,
    batch_size: int = 256,
    sharding=None,
) -> Iterator[np.ndarray]:
    """Samples first, first + 1, ... with the given labels [n], in batches of [<= batch_size, H, W, C] float32, as the generator made them.

    cfg_scale: the guidance scale alpha, one number or [n]. sharding: of the leading axis, to spread a batch over devices; it must divide batch_size.
    """
    labels = np.asarray(labels, np.int32)
    scales = np.broadcast_to(np.asarray(cfg_scale, np.float32), labels.shape)
    if hasattr(model, "check_guidance"):
        model.check_guidance(scales)
    put = functools.partial(jax.device_put, device=sharding)
    for start in range(0, len(labels), batch_size):
        n = min(batch_size, len(labels) - start)
        pick = np.minimum(
            np.arange(start, start + batch_size), len(labels) - 1
        )  # the last batch is filled up: one program serves all
        x = _generate(
            model,
            sharding,
            params,
            jnp.uint32(seed),
            put((first + pick).astype(np.uint32)),
            put(labels[pick]),
            put(scales[pick]),
        )
        yield np.asarray(x)[:n]
