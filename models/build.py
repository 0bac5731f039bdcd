"""Makes a generator from the configuration, and again from what a checkpoint says of it.

To add a generator: write one file with a Flax module that is a `models.generator.GeneratorModel`,
whose fields are settings `model.*`, and add one line to GENERATORS.
"""

import dataclasses
from typing import Any

from baselines.flow import Flow
from models.dit import DiT
from models.generator import GeneratorModel
from models.mlp import MLPGenerator
from utils.errors import UserError

# --model.name NAME
GENERATORS = {"dit": DiT, "mlp": MLPGenerator}


def build_generator(
    config: Any, sample_shape: tuple[int, ...], n_classes: int, condition_width: int = 0
) -> GeneratorModel:
    """Returns the generator of a configuration.

    Args:
        config: the group `model` of the configuration.
        sample_shape: of a sample, (H, W, C) for images.
        n_classes: of the data. A null class is added where class_dropout_prob > 0.
        condition_width: numbers of the conditions that are in the place of classes; 0 for classes.
    Raises:
        UserError: the generator does not make samples of this shape.
    """
    known = {
        "num_classes": n_classes,
        "condition_width": condition_width,
        "null_class": config.class_dropout_prob > 0,
        "cond_dim": config.cond_dim or config.hidden_size,
        "sample_shape": sample_shape,
    }
    if config.name == "dit":
        known |= _image_fields(sample_shape)
    values: dict[str, Any] = {}
    for name in _field_names(GENERATORS[config.name]):
        values[name] = known[name] if name in known else config[name]
    return GENERATORS[config.name](**values)


def _image_fields(sample_shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns the fields of a DiT that follow from the shape of a sample."""
    if len(sample_shape) != 3:
        raise UserError(
            "--model.name dit: it makes images [H, W, C], but a sample has the shape "
            f"{sample_shape}; give --model.name mlp"
        )
    height, width, channels = sample_shape
    return {
        "input_size": height if height == width else (height, width),
        "in_channels": channels,
        "out_channels": channels,
    }


def _field_names(model: Any) -> list[str]:
    """Returns the names of the fields of a generator, without those of every Flax module."""
    names = [field.name for field in dataclasses.fields(model)]
    return [name for name in names if name not in ("parent", "name")]


# ---- descriptions ----


def describe(model: Any) -> dict[str, Any]:
    """Returns facts for JSON, from which `from_description` makes the same generator."""
    if isinstance(model, Flow):
        return {"name": "flow", "steps": model.steps, "network": describe(model.network)}
    name = next(name for name, kind in GENERATORS.items() if type(model) is kind)
    return {"name": name} | {field: getattr(model, field) for field in _field_names(model)}


def from_description(facts: dict[str, Any]) -> GeneratorModel:
    """Returns the generator that `describe` described."""
    values = {field: value for field, value in facts.items() if field != "name"}
    if facts["name"] == "flow":
        network: Any = from_description(facts["network"])
        flow: Any = Flow(network, facts["steps"])  # whatever it lacks is the network's
        return flow
    return GENERATORS[facts["name"]](**values)
