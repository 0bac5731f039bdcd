"""The configuration that a run has saved: config.json."""

import functools
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from utils import storage
from utils.config.levels import build
from utils.config.nesting import flatten
from utils.config.schema import MAE_TRAINER, TRAINER, Schema
from utils.config.values import convert_all
from utils.errors import UserError

log = logging.getLogger(__name__)


def from_dict(
    values: Mapping[str, Any], source: str = "config", schema: Schema = TRAINER
) -> ConfigDict:
    """Returns a saved configuration, nested or dotted, locked and validated.

    Keys that it lacks, because it is older than they are, take their defaults, with a warning.

    Args:
        values: nested groups, or dotted keys.
        source: the file that the values were read from, for messages.
        schema: that of the program which reads it.
    Raises:
        UserError: an unknown key, a bad value, or the configuration of the other trainer.
    """
    dotted = flatten(values)
    refuse_other_trainer(dotted, source, schema)
    dotted = convert_all(dotted, schema.keys, source)
    missing = [name for name in schema.keys if name not in dotted]
    if missing:
        _warn_once(source, ", ".join(missing))
    return build(with_defaults(dotted, schema), schema)


@functools.cache
def _warn_once(source: str, missing: str) -> None:
    """Warns of settings that a file lacks; a program reads its file in several places."""
    log.warning("%s lacks %s: using the defaults", source, missing)


def with_defaults(dotted: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """Returns all settings of a run: those that are newer than it have had their defaults."""
    return {key.name: key.default for key in schema.keys.values()} | dict(dotted)


def refuse_other_trainer(dotted: Mapping[str, Any], source: str, schema: Schema) -> None:
    """Raises UserError where the keys are those of the other trainer."""
    other = MAE_TRAINER if schema is TRAINER else TRAINER
    fits_other = dotted.keys() <= other.keys.keys()
    fits_here = dotted.keys() <= schema.keys.keys()
    if dotted and fits_other and not fits_here:
        raise UserError(
            f"{source} is of a run of {other.program}, but one of {schema.program} is needed here: "
            "give another folder"
        )


def from_json(path: str | os.PathLike, schema: Schema = TRAINER) -> ConfigDict:
    """Returns the config.json of a run. Raises UserError if it is absent, not JSON, or not ours."""
    try:
        values = json.loads(storage.as_path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; expected a run's config.json"
        ) from None
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON ({error}); expected a run's config.json: delete it, and train on "
            "with the run's own flags"
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}; expected a run's config.json")
    return from_dict(values, str(path), schema)


def save_json(config: ConfigDict, path: str | os.PathLike) -> None:
    """Writes nested JSON, whole or not at all. Raises UserError where that is not possible."""
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    try:
        storage.write(storage.as_path(path), text.encode())
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; choose another --save_dir"
        ) from None
