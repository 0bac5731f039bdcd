"""The state of a generator's training: before the first step, and as shapes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from drifting.state import TrainState, init_state, named_key
from models.generator import init_params
from training import state
from training.drift_parts import DriftParts
from training.first_samples import begin_like
from training.generator_parts import GeneratorParts
from training.optimizer import average_names
from training.resolve_start import given_params


def make_state(parts: GeneratorParts) -> TrainState:
    """Returns the state before the first step, on the mesh.

    It depends on the seed alone, on the weights of --init_from where they are given, and with
    --model.output_init data on the training data.
    """
    given = []
    if parts.config.init_from:
        given = [given_params(parts)]
    elif parts.config.model.output_init == "data":
        params = init_params(parts.model, named_key(parts.config.seed, "init"))
        given = [begin_like(parts.dataset, parts.model, params)]
    return state.make_state(parts.mesh, _first_state_of(parts), *given)


@functools.lru_cache(maxsize=1)
def state_shapes(parts: GeneratorParts) -> TrainState:
    """Returns the state as shapes, dtypes and shardings; nothing is computed."""
    return state.state_shapes(parts.mesh, _first_state_of(parts))


@functools.lru_cache(maxsize=1)
def _first_state_of(parts: GeneratorParts) -> Callable[..., TrainState]:
    """Returns `first_state` of the parts, as one function, which JAX then traces once."""
    return functools.partial(first_state, parts)


def first_state(parts: GeneratorParts, params: Any = None) -> TrainState:
    """Returns the state before the first step; `params` replaces the random parameters."""
    config = parts.config
    if params is None:
        params = init_params(parts.model, named_key(config.seed, "init"))
    averages = average_names(config.optim)
    field, balance = first_field_state(parts), None
    if isinstance(parts, DriftParts):
        balance = parts.drift.battery.init()
    return init_state(params, parts.optimizer, averages, config.seed, field, balance)


def first_field_state(parts: GeneratorParts) -> dict[str, Any] | None:
    """Returns what the field keeps between steps, before the first one; None for most fields.

    Its sizes are those of the features, so a dry run, which has no encoder, leaves it out.
    """
    if not isinstance(parts, DriftParts) or parts.encode is None:
        return None
    image = jax.ShapeDtypeStruct((1, *parts.dataset.shape), np.float32)
    sets = jax.eval_shape(parts.encode, parts.encoder_params, image)
    key = named_key(parts.config.seed, "field")
    return parts.drift.memory.init(key, sets, parts.dataset.n_classes)
