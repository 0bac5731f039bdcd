"""The state of a generator's training: before the first step, and as shapes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from drifting.state import TrainState, init_state, named_key
from models.generator import init_params
from models.weights import load_generator
from training import state
from training.drift_parts import DriftParts
from training.generator_parts import GeneratorParts
from training.optimizer import average_names
from utils import config as config_lib
from utils.errors import UserError


def make_state(parts: GeneratorParts) -> TrainState:
    """Returns the state before the first step, on the mesh.

    It depends on the seed alone, and on the weights of --init_from where they are given.
    """
    given = []
    if parts.config.init_from:
        given = [given_params(parts)]
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
    field = first_field_state(parts)
    return init_state(params, parts.optimizer, average_names(config.optim), config.seed, field)


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


# ---- parameters to start from ----


def given_params(parts: GeneratorParts) -> Any:
    """Returns the parameters of --init_from. Raises UserError if they are not of this generator."""
    source = parts.config.init_from
    _, params, _ = load_generator(source)
    own = jax.eval_shape(lambda: init_params(parts.model, jax.random.key(0)))
    expected = jax.tree.map(lambda a: a.shape, own)
    found = jax.tree.map(np.shape, params)
    if expected != found:
        name, here, there = first_difference(expected, found)
        raise UserError(
            f"--init_from {source}: {name} is {there} there and {here} in this generator; "
            "give its --model flags, or other weights"
        )
    return params


def first_difference(expected: Any, found: Any) -> tuple[str, Any, Any]:
    """Returns (name, shape, shape) of the first array in which two trees of shapes differ."""
    a, b = config_lib.flatten(expected), config_lib.flatten(found)
    for name in sorted(a | b):
        if a.get(name) != b.get(name):
            return name, a.get(name, "absent"), b.get(name, "absent")
    raise ValueError("the trees do not differ")
