"""Sampling in one pass: sample i depends on (seed, i) alone, whatever the batch and the devices."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from models.generator import draw_style_indices
from utils.sharding import samples_divided


def generate(
    model: Any,
    params: Any,
    labels: Any,
    cfg_scale: Any,
    seed: int,
    *,
    first: int = 0,
    batch_size: int = 256,
    sharding: NamedSharding | None = None,
) -> Iterator[np.ndarray]:
    """Yields samples first, first + 1, ... in batches, as the generator made them.

    Args:
        model: a `models.generator.GeneratorModel`.
        params: its parameters.
        labels: one of each sample, [n]; or conditions [n, K], if the generator takes these.
        cfg_scale: the guidance scale alpha, one number or [n].
        seed: of all samples.
        first: the index of the first sample.
        batch_size: samples of a batch; the last batch may have fewer.
        sharding: of the leading axis, to spread a batch over devices, which must divide
            batch_size.

    Yields:
        float32 [<= batch_size, *sample_shape].
    """
    labels = np.asarray(labels, np.float32 if model.condition_width else np.int32)
    scales = np.broadcast_to(np.asarray(cfg_scale, np.float32), len(labels))
    if hasattr(model, "check_guidance"):
        model.check_guidance(scales)
    put = functools.partial(jax.device_put, device=sharding)
    for start in range(0, len(labels), batch_size):
        # The last batch is filled up with its last label, so that one program serves all.
        batch = np.minimum(np.arange(start, start + batch_size), len(labels) - 1)
        index = put((first + batch).astype(np.uint32))
        conditions = put(labels[batch]), put(scales[batch])
        samples = _generate(model, sharding, params, jnp.uint32(seed), index, *conditions)
        yield np.asarray(samples)[: len(labels) - start]


@functools.partial(jax.jit, static_argnames=("model", "sharding"))
def _generate(model, sharding, params, seed, index, labels, cfg_scale):
    """Returns the samples of the given indices [B], with noise of their own each."""
    noise, style_indices = _draw_noise(model, seed, index)
    if sharding is not None:
        noise, style_indices = jax.lax.with_sharding_constraint((noise, style_indices), sharding)
    with samples_divided(sharding):
        return model.apply({"params": params}, noise, labels, cfg_scale, style_indices)


def _draw_noise(model, seed, index):
    """Returns noise [B, *noise_shape] and style indices [B, S] of the given indices [B]."""

    def draw_one(i):
        noise_key, style_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), i))
        noise = jax.random.normal(noise_key, model.noise_shape)
        return noise, draw_style_indices(model, style_key, 1)[0]

    return jax.vmap(draw_one)(index)


# ---- between two noises ----


def generate_between(
    model: Any, params: Any, labels: Any, cfg_scale: float, seeds: tuple[int, int], t: float
) -> np.ndarray:
    """Returns samples [n, *sample_shape] on the way from the noise of one seed to that of another.

    The noise is cos(a) noise_0 + sin(a) noise_1 with a = t pi / 2, which keeps its spread. Style
    indices have nothing in between, and are those of the nearer seed.

    Args:
        model, params, labels, cfg_scale: as in `generate`.
        seeds: of the two noises.
        t: how far on the way, in [0, 1]. At both ends the samples are those of `generate`.
    """
    if t in (0, 1):
        seed = seeds[int(t)]
        batches = generate(model, params, labels, cfg_scale, seed, batch_size=len(labels))
        return np.concatenate(list(batches))
    scales = np.full(len(labels), cfg_scale, np.float32)
    if hasattr(model, "check_guidance"):
        model.check_guidance(scales)
    first, second = (jnp.uint32(seed) for seed in seeds)
    samples = _generate_between(model, params, first, second, jnp.float32(t), labels, scales)
    return np.asarray(samples)


@functools.partial(jax.jit, static_argnames=("model",))
def _generate_between(model, params, first, second, t, labels, cfg_scale):
    index = jnp.arange(len(labels), dtype=jnp.uint32)
    noise_0, styles_0 = _draw_noise(model, first, index)
    noise_1, styles_1 = _draw_noise(model, second, index)
    angle = t * jnp.pi / 2
    noise = jnp.cos(angle) * noise_0 + jnp.sin(angle) * noise_1
    styles = jnp.where(t < 0.5, styles_0, styles_1)
    return model.apply({"params": params}, noise, labels, cfg_scale, styles)
