"""Encoders without their weights: their shapes, or random numbers, for plans and benchmarks."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.encoders import Encode, FrozenEncoder, load_encoder_with
from models.encoders.table import find_encoder


def load_shapes(source: str | Path, **options: Any) -> tuple[Encode, Any, dict[str, Any]]:
    """As `models.encoders.load_encoder`, with shapes in the place of parameters.

    Nothing is read, fetched or computed, but for what an encoder is fitted on.

    Raises:
        UserError: the size is not known without reading the weights.
    """
    encode, params, metadata = load_encoder_with(_load_shapes, source, **options)
    return encode, jax.eval_shape(lambda: params), metadata


def _load_shapes(name: str, source: str, bf16: bool | None, sha256: str) -> FrozenEncoder:
    return find_encoder(name).load_shapes(name, source, bf16)


def load_random(source: str | Path, **options: Any) -> tuple[Encode, Any, dict[str, Any]]:
    """As `load_encoder`, with random weights of the usual scale, on the first device.

    The time and the memory of a step do not depend on their values.
    """
    encode, shapes, metadata = load_shapes(source, **options)
    return encode, jax.tree_util.tree_map_with_path(_draw, shapes), metadata


def _draw(path: Any, shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Returns zeros for biases and means, ones for scales, and normal numbers for matrices."""
    if len(shape.shape) < 2:
        name = jax.tree_util.keystr(path).lower()
        if name.endswith(("bias']", "mean']")):
            return jnp.zeros(shape.shape, shape.dtype)
        return jnp.ones(shape.shape, shape.dtype)
    inputs = float(np.prod(shape.shape[:-1]))
    return jax.random.normal(jax.random.key(0), shape.shape, shape.dtype) * inputs**-0.5
