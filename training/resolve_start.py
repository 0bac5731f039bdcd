"""What a new run starts from, where --init_from names it: weights, and how they make a sample."""

import copy
import logging
from typing import Any

import jax
import numpy as np

from baselines.flow import Flow
from models.generator import init_params
from models.weights import describe_generator, load_generator
from training.generator_parts import GeneratorParts
from training.run_folder import has_checkpoint, run_folder
from utils import config as config_lib
from utils.errors import UserError
from utils.paths import refuse_checkpoint

log = logging.getLogger("train")


def starts_from(config: Any) -> str:
    """Returns what --init_from names, or "" for a run that goes on from a checkpoint instead."""
    if config.load_dir or has_checkpoint(run_folder(config)):
        return ""
    return config.init_from


def resolve_start(config: Any) -> Any:
    """Returns the configuration with --model.from_flow as the weights of --init_from need it.

    The network of a flow gives velocities; as a generator of one pass it takes one step from the
    noise. What was converted once stays so in the runs that start from it.

    Raises:
        UserError: there is no generator at the place that it names.
    """
    source = config.init_from
    refuse_checkpoint("init_from", source, step_flag=False)
    is_fetched = source.startswith("hf://") and config.dry_run  # which fetches nothing
    if config.objective == "flow" or not starts_from(config) or is_fetched:
        return config
    model: Any = describe_generator(source)
    from_flow = isinstance(model, Flow) or model.from_flow
    if from_flow:
        log.info("%s: its flow becomes a generator of one pass (--model.from_flow 1)", source)
    config = copy.deepcopy(config)
    config.model.from_flow = from_flow
    return config


def given_params(parts: GeneratorParts) -> Any:
    """Returns the parameters of --init_from. Raises UserError if they are not of this generator.

    The embedding of a null class is left out where this generator has none.
    """
    source = parts.config.init_from
    model, params, _ = load_generator(source)
    if model.null_class and not parts.model.null_class:
        params = without_null_class(params)
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


def without_null_class(params: Any) -> Any:
    """Returns the parameters without the last class embedding, that of the null class."""
    cond = params["conditioning"]
    return params | {"conditioning": cond | {"class_embedding": cond["class_embedding"][:-1]}}


def first_difference(expected: Any, found: Any) -> tuple[str, Any, Any]:
    """Returns (name, shape, shape) of the first array in which two trees of shapes differ."""
    a, b = config_lib.flatten(expected), config_lib.flatten(found)
    for name in sorted(a | b):
        if a.get(name) != b.get(name):
            return name, a.get(name, "absent"), b.get(name, "absent")
    raise ValueError("the trees do not differ")
