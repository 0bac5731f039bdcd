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
    """Returns the configuration with --model.from_flow as the weights that it begins with need it.

    The network of a flow gives velocities; as a generator of one pass it takes one step from the
    noise. What was converted once stays so in the runs that start from it, by --init_from or by
    --load_dir. A run that goes on in its own folder has it in its settings.

    Raises:
        UserError: there is no generator at the place that --init_from names.
    """
    refuse_checkpoint("init_from", config.init_from, step_flag=False)
    source = config.load_dir or config.init_from
    if not source or config.objective == "flow" or has_checkpoint(run_folder(config)):
        return config
    if source.startswith("hf://") and config.dry_run:
        log.info("%s: whether it is a flow is not known before it is fetched", source)
        return config
    from_flow = is_velocity(describe_generator(source))
    if from_flow and not config.load_dir:
        log.info("%s: its flow becomes a generator of one pass (--model.from_flow 1)", source)
    config = copy.deepcopy(config)
    config.model.from_flow = from_flow
    return config


def is_velocity(model: Any) -> bool:
    """Returns whether the network of a generator gives velocities, those of a flow."""
    return isinstance(model, Flow) or model.from_flow


def given_params(parts: GeneratorParts) -> Any:
    """Returns the parameters of --init_from. Raises UserError if they are not of this generator.

    The embedding of the null class of a flow is left out where this generator has none.
    """
    source = parts.config.init_from
    model, params, _ = load_generator(source)
    here, there = parts.model.null_class, model.null_class
    if is_velocity(model) and there and not here:
        params, there = without_null_class(params), False
    own = jax.eval_shape(lambda: init_params(parts.model, jax.random.key(0)))
    expected = jax.tree.map(lambda a: a.shape, own)
    found = jax.tree.map(np.shape, params)
    if expected != found:
        name, own_shape, given_shape = first_difference(expected, found)
        advice = "give its --model flags, or other weights"
        if here != there:
            advice += " (one of them has a null class: --model.class_dropout_prob)"
        raise UserError(
            f"--init_from {source}: {name} is {given_shape} there and {own_shape} in this "
            f"generator; {advice}"
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
