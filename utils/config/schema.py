"""What each of the two trainers is configured by."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from configs.default import TABLE, Key
from configs.mae.default import MAE_TABLE
from utils.config.checks import validate, validate_mae

KEYS = {key.name: key for key in TABLE}
MAE_KEYS = {key.name: key for key in MAE_TABLE}
NOT_RECIPES = {"default", "presets"}  # the other files of configs/


@dataclasses.dataclass(frozen=True)
class Schema:
    """What a program is configured by.

    Attributes:
        program: its file, such as "train_drift.py".
        keys: the rows of its table by name, in the order of the table.
        recipes: the package of its recipes, such as "configs".
        check: takes the configuration; raises UserError where values do not fit together.
    """

    program: str
    keys: Mapping[str, Key]
    recipes: str
    check: Callable[[ConfigDict], None]


TRAINER = Schema("train_drift.py", KEYS, "configs", validate)
MAE_TRAINER = Schema("pretrain_mae.py", MAE_KEYS, "configs.mae", validate_mae)


def recipes(package: str = "configs") -> list[str]:
    """Returns the names of the recipes in a package, sorted: its files but for the tables."""
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return sorted({module.name for module in found if not module.ispkg} - NOT_RECIPES)
