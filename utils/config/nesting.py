"""Between dotted keys, {"model.depth": 4}, and nested groups, config.model.depth."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict


def flatten(nested: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns {"model": {"depth": 4}} as {"model.depth": 4}. Keys that are dotted already stay."""
    dotted = {}
    for name, value in nested.items():
        if isinstance(value, Mapping | ConfigDict):
            dotted |= flatten(value, f"{prefix}{name}.")
        else:
            dotted[prefix + name] = value
    return dotted


def nest(dotted: Mapping[str, Any]) -> ConfigDict:
    """Returns {"model.depth": 4} as a locked configuration with config.model.depth.

    A locked one refuses names that it does not have, so that a typing error is found where it is.
    """
    nested: dict[str, Any] = {}
    for name, value in dotted.items():
        group, _, last = name.rpartition(".")
        owner = nested.setdefault(group, {}) if group else nested
        owner[last] = value
    return ConfigDict(nested).lock()
