"""What a new run starts from, and how the network that it finds there makes a sample.

--init_from gives weights alone, for a run from step 0 on. --load_dir gives all of a checkpoint,
from which a run goes on in another folder. A run that has a checkpoint of its own needs neither.
"""

import copy
import logging
from typing import Any

import jax
import numpy as np

from baselines.flow import Flow
from models.generator import GeneratorModel, init_params
from models.weights import describe_generator, load_generator
from training.generator_parts import GeneratorParts
from training.run_folder import has_checkpoint, run_folder
from utils import config as config_lib
from utils.errors import UserError
from utils.paths import refuse_checkpoint

log = logging.getLogger("train")


def source_of(config: Any) -> str:
    """Returns the place of --load_dir or else --init_from from which a run starts; or "".

    It is "" too for a run that goes on in its own folder. Raises UserError for a checkpoint where a
    run should be named.
    """
    refuse_checkpoint("init_from", config.init_from, step_flag=False)
    if has_checkpoint(run_folder(config)):
        return ""
    return config.load_dir or config.init_from


def generator_at(config: Any, source: str) -> GeneratorModel | None:
    """Returns the generator at the source of a run; None where it is not known, or not needed.

    Raises UserError if there is none.
    """
    if not source or (config.load_dir and config.objective == "flow"):
        return None
    if source.startswith("hf://") and config.dry_run:
        log.info("%s: what it holds is not known before it is fetched", source)
        return None
    return describe_generator(source)


def resolve_start(config: Any) -> tuple[Any, GeneratorModel | None]:
    """Returns the configuration, and the generator whose weights --init_from gives, or None.

    The configuration has --model.from_flow as those weights need it, or the run of --load_dir. The
    network of a flow gives velocities; as a generator of one pass it takes one step from the noise.
    What was converted once stays so in the runs that start from it. A run that goes on in its own
    folder has it in its settings.

    Raises:
        UserError: there is no generator at the place that is named.
    """
    source = source_of(config)
    there = generator_at(config, source)
    if there and config.objective == "drift":
        from_flow = is_velocity(there)
        if from_flow and not config.load_dir:
            log.info("%s: its flow becomes a generator of one pass (--model.from_flow 1)", source)
        config = copy.deepcopy(config)
        config.model.from_flow = from_flow
    return config, None if config.load_dir else there


def check_from_flow(config: Any) -> None:
    """Raises UserError where --model.from_flow, which was given, is not true of the source."""
    source = source_of(config)
    there = generator_at(config, source)
    if not there or is_velocity(there) == config.model.from_flow or config.objective == "flow":
        return
    found = "a flow" if is_velocity(there) else "no flow"
    raise UserError(
        f"--model.from_flow {int(config.model.from_flow)}: {source} holds {found}, which decides "
        "it; leave the flag out"
    )


def is_velocity(model: Any) -> bool:
    """Returns whether the network of a generator gives velocities, those of a flow."""
    return isinstance(model, Flow) or model.from_flow


def check_weights(parts: GeneratorParts) -> None:
    """Raises UserError if the weights of --init_from are not of this generator; reads none."""
    there = parts.given
    if there:
        jax.eval_shape(lambda: fitted(parts, there, init_params(there, jax.random.key(0))))


def given_params(parts: GeneratorParts) -> Any:
    """Returns the parameters of --init_from. Raises UserError if they are not of this generator."""
    model, params, _ = load_generator(parts.config.init_from)
    return fitted(parts, model, params)


def fitted(parts: GeneratorParts, model: GeneratorModel, params: Any) -> Any:
    """Returns the parameters of `model`, which is at --init_from, for the generator of a run.

    The embedding of the null class of a flow is left out where this generator has none. Raises
    UserError if the shapes are not those of this generator.
    """
    here, there = parts.model.null_class, model.null_class
    if is_velocity(model) and there and not here:
        params, there = without_null_class(params), False
    own = jax.eval_shape(lambda: init_params(parts.model, jax.random.key(0)))
    expected = jax.tree.map(lambda a: a.shape, own)
    found = jax.tree.map(np.shape, params)
    if expected != found:
        name, own_shape, given_shape = first_difference(expected, found)
        advice = "give its --model flags, or other weights"
        if model.condition_width != parts.model.condition_width:
            advice = advice_on_conditions(model.condition_width)
        elif here != there:
            advice += " (one of them has a null class: --model.class_dropout_prob)"
        elif name.startswith("refinement"):
            channels = getattr(model, "refine_channels", 0)
            advice = f"give --model.refine_channels={channels}, or other weights"
        raise UserError(
            f"--init_from {parts.config.init_from}: {name} is {given_shape} there and {own_shape} "
            f"in this generator; {advice}"
        )
    return params


def advice_on_conditions(width: int) -> str:
    """Returns what to do with weights that take other conditions; width: theirs, 0 for classes."""
    if width:
        return (
            f"they take conditions of {width} numbers: give the --data.condition_column of their "
            "training, or other weights"
        )
    return "they take classes: leave --data.condition_column out, or give other weights"


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
