"""The levels of a configuration, merged: default < recipe < data < objective < preset < flags.

A run that is resumed, or a saved one that is read, has its saved configuration in the place of the
defaults and the recipe.
"""

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from configs.default import Key
from configs.presets import OBJECTIVES, PRESETS, WITHOUT_USE
from utils.config.checks import check
from utils.config.command_line import given_flags
from utils.config.nesting import flatten, nest
from utils.config.schema import TRAINER, Schema, recipes
from utils.config.values import as_text, convert_all
from utils.errors import UserError
from utils.words import did_you_mean

Given = flags.FlagValues | Mapping[str, Any]  # parsed flags, or {"model.depth": 4, ...}
Level = tuple[str, dict[str, Any]]  # where from, such as "recipe digits", and {key: value}


def resolve(
    given: Given,
    saved: ConfigDict | None = None,
    schema: Schema = TRAINER,
    chosen: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """Returns the whole configuration, locked and validated.

    Args:
        given: parsed flags, of which those on the command line count, or {"model.depth": 4, ...}.
        saved: the configuration of an existing run, in the place of defaults and recipe.
        schema: that of the program.
        chosen: what the program chose for data without a recipe, in the place of one.
    Raises:
        UserError: an unknown key, recipe or preset, a bad value, or values that do not fit.
    """
    merged = {}
    for _, values in _levels(given, saved, schema, chosen):
        merged |= values
    return build(merged, schema)


def build(dotted: Mapping[str, Any], schema: Schema) -> ConfigDict:
    """Returns {key: value} as a locked and checked configuration with the keys of the schema."""
    config = nest({name: dotted[name] for name in schema.keys})
    schema.check(config)
    return config


def explain(
    config: ConfigDict,
    given: Given,
    saved: ConfigDict | None = None,
    schema: Schema = TRAINER,
    chosen: Mapping[str, Any] | None = None,
) -> str:
    """Returns the configuration as an aligned table of key, value and where the value comes from.

    `given`, `saved`, `schema` and `chosen` are what `resolve` was given. A value that was changed
    since comes "from the program".
    """
    merged, origins = {}, {}
    for origin, values in _levels(given, saved, schema, chosen):
        merged |= values
        origins |= dict.fromkeys(values, origin)

    rows = [("key", "value", "from")]
    current = flatten(config)
    last_group = ""
    for name in schema.keys:
        group = name.rpartition(".")[0]
        if group != last_group:
            rows.append(("", "", ""))
            last_group = group
        value = current[name]
        origin = origins[name] if merged[name] == value else "program"
        rows.append((name, as_text(value) or '""', origin))

    key_width, value_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = [f"{name:{key_width}}  {value:{value_width}}  {origin}" for name, value, origin in rows]
    return "\n".join(line.rstrip() for line in lines)


def check_use(config: ConfigDict, given: flags.FlagValues) -> None:
    """Raises UserError if the command line has flags that change nothing.

    They are those that the objective has no use for, and those of a part that is not there.
    """
    beginnings, used_all_the_same = WITHOUT_USE[config.objective]
    useless = [
        name
        for name in given_flags(given)
        if name.startswith(beginnings) and name not in used_all_the_same
    ]
    named = ", ".join(f"--{name}" for name in useless)
    advice = "it; leave it" if len(useless) == 1 else "them; leave them"
    check(not useless, f"{named}: --objective {config.objective} has no use for {advice} out")

    model, values = config.model, given_flags(given)
    check(
        model.name == "dit" or not values.get("model.refine_channels"),
        f"--model.refine_channels={model.refine_channels}: convolutions follow the last layer of a "
        f"dit, not of --model.name={model.name}; leave it out",
    )
    check(
        model.name == "dit" or not values.get("model.antialias"),
        f"--model.antialias={model.antialias:g}: the edges of a dit are smoothed, not those of "
        f"--model.name={model.name}; leave it out",
    )
    check(
        model.clip_output or not values.get("model.antialias"),
        f"--model.antialias={model.antialias:g}: samples are not clipped (--model.clip_output 0), "
        "so their edges are not hard; leave it out",
    )
    check(
        model.clip_output or not values.get("model.clip_margin"),
        f"--model.clip_margin={model.clip_margin:g}: samples are not clipped "
        "(--model.clip_output 0), so there is no margin; leave it out",
    )
    joint = config.drift.joint
    check(
        not joint or "drift.n_pos" not in values,
        f"--drift.n_pos={config.drift.n_pos}: with --drift.joint={joint:g} the positives of a step "
        "are the reals of its conditions, one of each; leave it out, and give a larger "
        "--batch_size for more of them",
    )


# ---------------------------------------------------------------- the levels one by one


def _levels(
    given: Given,
    saved: ConfigDict | None,
    schema: Schema,
    chosen: Mapping[str, Any] | None = None,
) -> list[Level]:
    """Returns the levels, the weakest first."""
    keys = schema.keys
    given_values = _given_values(given, keys)
    default = {key.name: key.default for key in keys.values()}
    recipe = _recipe(given_values, saved, default, schema)
    if saved is None:
        levels = [("default", default | {"recipe": recipe})]
    else:
        # The recipe and the preset of a saved run are part of what it saved: only new ones count.
        levels = [("default", default), ("saved run", flatten(saved))]

    changes = []  # what may choose an objective or a preset, the weakest first
    if recipe not in ("", "none"):
        overrides = _overrides(recipe, schema)
        levels.append((f"recipe {recipe}", overrides))
        changes.append(overrides)
    if chosen:
        chosen = convert_all(chosen, keys, "the choice for the data")
        levels.append(("the data", chosen))
        changes.append(chosen)
    changes.append(given_values)

    objective = _strongest("objective", changes)
    if objective and (saved is None or objective != saved.get("objective")):
        levels.append((f"objective {objective}", OBJECTIVES[objective]))

    preset = _strongest("model.preset", changes)
    if preset:
        sizes = PRESETS[_choose("model.preset", preset, PRESETS)]
        levels.append((f"preset {preset}", convert_all(sizes, keys, f"preset {preset}")))

    n_neg = _samples_per_class(given_values, levels) if saved is None else 0
    if n_neg:
        levels.append(("--batch_size", {"drift.n_neg": n_neg}))

    if not given_values.get("recipe"):
        given_values.pop("recipe", None)  # an empty one asks for the choice that was made above
    levels.append(("command line", given_values))
    return levels


def _samples_per_class(given: Mapping[str, Any], levels: list[Level]) -> int:
    """Returns the samples per class that follow from --batch_size alone; 0 for those of the levels.

    A batch that does not hold whole classes of the recipe keeps its number of classes instead,
    where that divides it: CIFAR-10 with one class of 640 takes 128 as one class of 128.
    """
    if "batch_size" not in given or "drift.n_neg" in given:
        return 0
    merged = {}
    for _, values in levels:
        merged |= values
    if "drift.n_neg" not in merged:
        return 0  # the trainer of encoders has no sets
    batch, n_neg = given["batch_size"], merged["drift.n_neg"]
    classes = max(1, merged["batch_size"] // n_neg)
    if batch % n_neg == 0 or batch % classes or batch // classes < 2:
        return 0
    return batch // classes


def _given_values(given: Given, keys: Mapping[str, Key]) -> dict[str, Any]:
    """Returns {key: value} of what the user gave. Flags of other tables are left out."""
    if isinstance(given, flags.FlagValues):
        given = {name: value for name, value in given_flags(given).items() if name in keys}
    return convert_all(flatten(given), keys)


def _recipe(
    given: Mapping[str, Any], saved: ConfigDict | None, default: Mapping[str, Any], schema: Schema
) -> str:
    """Returns the given recipe, or else that of the data set, if there is one, or "none"."""
    if saved is not None:
        return given.get("recipe", "none")
    if given.get("recipe"):
        return given["recipe"]
    dataset_name = given.get("dataset_name", default["dataset_name"])
    return dataset_name if dataset_name in recipes(schema.recipes) else "none"


def _overrides(recipe: str, schema: Schema) -> dict[str, Any]:
    """Returns what the file of a recipe sets."""
    _choose("recipe", recipe, recipes(schema.recipes))
    module = importlib.import_module(f"{schema.recipes}.{recipe}")
    return convert_all(module.OVERRIDES, schema.keys, f"recipe {recipe}")


def _strongest(key: str, changes: list[dict[str, Any]]) -> str:
    """Returns the value of a key in the last of the changes that has it, or ""."""
    for values in reversed(changes):
        if key in values:
            return values[key]
    return ""


def _choose(flag: str, name: str, names: Iterable[str]) -> str:
    """Returns `name`, which must be one of `names`. Raises UserError with the flag if it is not."""
    if name not in names:
        raise UserError(
            f"--{flag}={name}: there is none of that name{did_you_mean(name, names)} "
            f"(known: {', '.join(names)})"
        )
    return name
