"""What the flags --encoder.* mean, as options of `load_encoder` and as weights of the losses."""

import math
from collections.abc import Callable
from typing import Any

from models.encoders.names import encoder_of_set
from utils.errors import UserError

# What a flag may hold for one encoder, for messages.
EXPECTED = {
    "layers": "patterns such as layer3*,layer4*,!conv1",
    "statistics": "some of map,mean,std",
    "patch_sizes": "sizes such as 2,4, or none",
    "image_size": "a side in pixels such as 224",
}


def options_from_flags(config: Any) -> dict[str, Any]:
    """Returns the options of `load_encoder` that the flags choose.

    Where several encoders are joined by "+", so are the values of a flag, in the same order; an
    empty one stands for the encoder's own.

    config: the group `encoder` of a configuration.

    Raises:
        UserError: values that cannot be read, or more of them than encoders.
    """
    options: dict[str, Any] = {
        "names": _by_encoder(config, "layers", _words),
        "statistics": _by_encoder(config, "statistics", _words),
        "patch_sizes": _by_encoder(config, "patch_sizes", _sizes),
        "image_size": _by_encoder(config, "image_size", _positive),
    }
    if config.bf16 != "auto":
        options["bf16"] = config.bf16 == "on"
    return options


def _by_encoder(config: Any, flag: str, parse: Callable[[str], Any]) -> dict[str, Any]:
    """Returns {encoder: value} of one flag, without the encoders for which it is empty."""
    names, text = config.name.split("+"), config[flag]
    values = text.split("+") if text else []
    if len(values) > len(names):
        raise UserError(
            f"--encoder.{flag} {text} is for {len(values)} encoders, but there is "
            f"{config.name}: give one for each name, joined by +"
        )
    given = [(name, value) for name, value in zip(names, values, strict=False) if value]
    if "none" in dict(given):
        raise UserError(
            f"--encoder.{flag} {text}: the raw sample (none) has nothing to choose; leave its "
            "place empty"
        )
    try:
        return {name: parse(value) for name, value in given}
    except ValueError:
        raise UserError(
            f"--encoder.{flag} {text}: expected {EXPECTED[flag]} for each encoder, joined by +"
        ) from None


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    if "" in words:
        raise ValueError("an empty word")
    return words


def _sizes(text: str) -> tuple[int, ...]:
    if text == "none":
        return ()
    return tuple(_positive(word) for word in _words(text))


def _positive(word: str) -> int:
    number = int(word)
    if number <= 0:
        raise ValueError(f"{word} is not positive")
    return number


def make_set_weight(config: Any) -> Callable[[str], float]:
    """Returns a function that gives the weight of a feature set's loss, by the name of the set.

    --encoder.weights is one number, or one for each encoder, separated by commas.

    config: the group `encoder` of a configuration.

    Raises:
        UserError: other weights.
    """
    names = config.name.split("+")
    try:
        weights = [float(word) for word in config.weights.split(",")]
    except ValueError:
        weights = []
    valid = all(0 < weight < math.inf for weight in weights)
    if len(weights) not in (1, len(names)) or not valid:
        raise UserError(
            f"--encoder.weights {config.weights}: expected a number above 0, or one for each of "
            f"the encoders {config.name}, separated by commas"
        )
    if len(weights) == 1:
        weights = weights * len(names)
    weight_of_encoder = dict(zip(names, weights, strict=True))
    metadata = {"encoders": names}

    def set_weight(set_name: str) -> float:
        return weight_of_encoder[encoder_of_set(set_name, metadata)]

    return set_weight
