"""A generator from the configuration, and back from what a checkpoint says of it."""

import dataclasses

from baselines.flow import Flow
from models.dit import DiT
from models.mlp import MLPGenerator
from utils.errors import UserError

GENERATORS = {"dit": DiT, "mlp": MLPGenerator}


def build_generator(config, sample_shape: tuple[int, ...], n_classes: int):
    """The generator of `config.model` for samples of `sample_shape` (H, W, C). A null class is added where class_dropout_prob > 0."""
    facts = {
        "num_classes": n_classes,
        "null_class": config.class_dropout_prob > 0,
        "cond_dim": config.cond_dim or config.hidden_size,
        "sample_shape": sample_shape,
    }
    if config.name == "dit":
        if len(sample_shape) != 3:
            raise UserError(
                f"--model.name dit: it makes images [H, W, C], but a sample has the shape {sample_shape}; give --model.name mlp"
            )
        height, width, channels = sample_shape
        facts |= {
            "input_size": height if height == width else (height, width),
            "in_channels": channels,
            "out_channels": channels,
        }
    fields = [
        f.name
        for f in dataclasses.fields(GENERATORS[config.name])
        if f.name not in ("parent", "name")
    ]
    return GENERATORS[config.name](
        **{name: facts[name] if name in facts else config[name] for name in fields}
    )


def describe(model) -> dict:
    """JSON facts from which `from_description` makes the same generator."""
    if isinstance(model, Flow):
        return {"name": "flow", "steps": model.steps, "network": describe(model.network)}
    name = next(name for name, kind in GENERATORS.items() if type(model) is kind)
    return {"name": name} | {
        f.name: getattr(model, f.name)
        for f in dataclasses.fields(model)
        if f.name not in ("parent", "name")
    }


def from_description(facts: dict):
    """The generator that `describe` described."""
    if facts["name"] == "flow":
        return Flow(from_description(facts["network"]), facts["steps"])
    return GENERATORS[facts["name"]](**{k: v for k, v in facts.items() if k != "name"})
