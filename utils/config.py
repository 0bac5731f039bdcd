"""From the command line to one locked configuration.

Per key, a later level goes over an earlier one: default < recipe < objective < preset < command line. All keys,
defaults and help texts are rows of `configs.default.TABLE`; anything not in it is an error. Nothing here imports
jax, so `--help` is fast.

    if __name__ == "__main__":
        config_lib.define_flags()
        config_lib.run_main(main)  # main(flag_values), whose first line is config = resolve(flag_values)
"""

import dataclasses
import importlib
import json
import logging
import math
import os
import pathlib
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict

from configs.default import MAE_TABLE, TABLE, Key
from configs.presets import OBJECTIVES, PRESETS, WITHOUT_USE
from utils.errors import UserError
from utils.words import did_you_mean

KEYS = {key.name: key for key in TABLE}
MAE_KEYS = {key.name: key for key in MAE_TABLE}
BOOLEANS = {
    "1": True,
    "true": True,
    "t": True,
    "yes": True,
    "0": False,
    "false": False,
    "f": False,
    "no": False,
}
NOT_RECIPES = {"default", "presets"}

Given = flags.FlagValues | Mapping[str, Any]  # parsed flags, or {"model.depth": 4, ...}

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Schema:
    """What a program is configured by. recipes: the package of its recipes. check: (config), raises UserError where
    values do not fit together."""

    keys: Mapping[str, Key]
    recipes: str
    check: Callable[[ConfigDict], None]


# ---------------------------------------------------------------- one value


def expected(key: Key) -> str:
    """What a key takes, in words: "an integer in [1, inf) or all"."""
    if isinstance(key.accepts, tuple):
        return "one of " + ", ".join(key.accepts)
    noun = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "text",
        tuple: "different numbers, separated by commas, each",
    }[type(key.default)]
    return f"{noun} in {key.accepts}" if key.accepts else noun


def convert(key: Key, value: Any) -> Any:
    """`value`, text or already typed, as the key's type. Raises ValueError("expected ...") if it is not."""
    interval, _, word = str(key.accepts).partition(" or ")
    kind = type(key.default)
    try:
        if word and value == word:
            return value
        if kind is bool:
            return value if isinstance(value, bool) else BOOLEANS[str(value).lower()]
        if kind is str:
            if isinstance(value, str) and (not key.accepts or value in key.accepts):
                return value
        elif kind is tuple:
            items = value.strip("()[] ").split(",") if isinstance(value, str) else value
            numbers = tuple(_number(item, float, interval) for item in items)
            if numbers and len(set(numbers)) == len(numbers):
                return numbers
        else:
            return _number(value, kind, interval)
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"expected {expected(key)}")


def _number(value: Any, kind: type, interval: str) -> int | float:
    """An int or float inside "[lo, hi)"; 1e5 and 100_000 are integers, true is not. Raises ValueError."""
    if isinstance(value, bool):
        raise ValueError
    number = float(value)
    if kind is int:
        if not number.is_integer():
            raise ValueError
        number = int(number)
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below and math.isfinite(number)):
        raise ValueError
    return number


def _show(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, tuple):
        return ",".join(map(_show, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---------------------------------------------------------------- the levels


def recipes(package: str = "configs") -> list[str]:
    """Names of the recipes: the files in configs/, but for the two tables, or those in a package of it."""
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return sorted({module.name for module in found if not module.ispkg} - NOT_RECIPES)


def _choose(flag: str, name: str, names: Iterable[str]) -> str:
    if name not in names:
        raise UserError(
            f"--{flag}={name}: there is none of that name{did_you_mean(name, names)} "
            f"(known: {', '.join(names)})"
        )
    return name


def _checked(
    values: Mapping[str, Any], keys: Mapping[str, Key], source: str = ""
) -> dict[str, Any]:
    """The values as their keys' types. Raises UserError, with `source`, for an unknown key or a bad value."""
    where = f"{source}: " if source else ""
    for name in values:
        if name not in keys:
            raise UserError(f"{where}unknown key {name}{did_you_mean(name, keys)}")
    checked = {}
    for name, value in values.items():
        try:
            checked[name] = convert(keys[name], value)
        except ValueError as error:
            raise UserError(f"{where or '--'}{name}={value}: {error}") from None
    return checked


def _levels(
    given: Given, saved: ConfigDict | None, schema: Schema
) -> list[tuple[str, dict[str, Any]]]:
    """(where from, {key: value}), the weakest first."""
    keys = schema.keys
    if isinstance(given, flags.FlagValues):
        given = {name: value for name, value in given_flags(given).items() if name in keys}
    given = _checked(flatten(given), keys)
    default = {key.name: key.default for key in keys.values()}
    names = recipes(schema.recipes)

    if (
        saved is not None
    ):  # its recipe and preset are already part of what it saved; only new ones count
        levels = [("default", default), ("saved run", flatten(saved))]
        recipe = given.get("recipe", "none")
    else:
        dataset_name = given.get("dataset_name", default["dataset_name"])
        recipe = given.get("recipe", "") or (dataset_name if dataset_name in names else "none")
        levels = [("default", default | {"recipe": recipe})]

    if recipe not in ("", "none"):
        module = importlib.import_module(f"{schema.recipes}.{_choose('recipe', recipe, names)}")
        levels.append((f"recipe {recipe}", _checked(module.OVERRIDES, keys, f"recipe {recipe}")))

    changes = [values for _, values in levels[1 if saved is None else 2 :]] + [given]
    objective = next(
        (values["objective"] for values in reversed(changes) if "objective" in values), ""
    )
    if objective and (saved is None or objective != saved.get("objective")):
        levels.append((f"objective {objective}", OBJECTIVES[objective]))
    preset = next(
        (values["model.preset"] for values in reversed(changes) if "model.preset" in values), ""
    )
    if preset:
        sizes = PRESETS[_choose("model.preset", preset, PRESETS)]
        levels.append((f"preset {preset}", _checked(sizes, keys, f"preset {preset}")))
    if not given.get("recipe"):
        given.pop("recipe", None)  # "" asks for the choice made above
    return levels + [("command line", given)]


def resolve(
    given: Given, saved: ConfigDict | None = None, schema: Schema | None = None
) -> ConfigDict:
    """The whole configuration, locked and validated.

    Args:
        given: parsed flags, of which those on the command line count, or {"model.depth": 4, ...}.
        saved: the configuration of an existing run, in the place of defaults and recipe.
        schema: of the program; None = TRAINER.
    Raises:
        UserError: an unknown key, recipe or preset, a bad value, or values that do not fit together.
    """
    merged, schema = {}, schema or TRAINER
    for _, values in _levels(given, saved, schema):
        merged |= values
    return _build(merged, schema)


def check_use(config: ConfigDict, given: flags.FlagValues) -> None:
    """Raises UserError if the command line has flags that the objective has no use for."""
    without, used = WITHOUT_USE[config.objective]
    senseless = [
        name for name in given_flags(given) if name.startswith(without) and name not in used
    ]
    check(
        not senseless,
        f"{', '.join(f'--{name}' for name in senseless)}: --objective {config.objective} has no use for "
        f"{'it; leave it' if len(senseless) == 1 else 'them; leave them'} out",
    )


def explain(
    config: ConfigDict, given: Given, saved: ConfigDict | None = None, schema: Schema | None = None
) -> str:
    """The configuration as an aligned table of key, value and where the value comes from.

    `given`, `saved` and `schema` are what `resolve` was given. A value changed since comes "from the program".
    """
    merged, origin, schema = {}, {}, schema or TRAINER
    for source, values in _levels(given, saved, schema):
        merged |= values
        origin |= dict.fromkeys(values, source)
    rows = [("key", "value", "from")]
    group = ""
    values = flatten(config)
    for name in schema.keys:
        value = values[name]
        if name.rpartition(".")[0] != group:
            group = name.rpartition(".")[0]
            rows.append(("", "", ""))
        rows.append(
            (name, _show(value) or '""', origin[name] if merged[name] == value else "program")
        )
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = (
        f"{name:{widths[0]}}  {value:{widths[1]}}  {source}".rstrip()
        for name, value, source in rows
    )
    return "\n".join(lines)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"depth": 4}} as {"model.depth": 4}; dotted keys stay."""
    flat = {}
    for name, value in nested.items():
        is_group = isinstance(value, Mapping | ConfigDict)
        flat |= flatten(value, f"{prefix}{name}.") if is_group else {f"{prefix}{name}": value}
    return flat


def _nest(flat: Mapping[str, Any]) -> ConfigDict:
    config = ConfigDict()
    for name, value in flat.items():
        group, _, tail = name.rpartition(".")
        if group and group not in config:
            config[group] = ConfigDict()
        (config[group] if group else config)[tail] = value
    return config.lock()


def _build(flat: Mapping[str, Any], schema: Schema) -> ConfigDict:
    config = _nest({name: flat[name] for name in schema.keys})
    schema.check(config)
    return config


def validate(config: ConfigDict) -> None:
    """Check the values of the trainer against one another. What depends on data or devices is checked where these are
    known.

    Raises:
        UserError: names the flags, their values, and what would fit.
    """
    model, drift = config.model, config.drift
    check(
        config.objective == "flow" or config.batch_size % drift.n_neg == 0,
        f"--batch_size={config.batch_size} must be classes per step x --drift.n_neg={drift.n_neg}, e.g. "
        f"{max(1, config.batch_size // drift.n_neg) * drift.n_neg}",
    )
    check(
        drift.alpha_min <= drift.alpha_max,
        f"--drift.alpha_min={drift.alpha_min:g} must not exceed --drift.alpha_max={drift.alpha_max:g}",
    )
    check(
        drift.n_unc > 0 or drift.alpha_max == 1,
        f"--drift.n_unc=0 allows no guidance: raise it, or give --drift.alpha_max=1 "
        f"(not {drift.alpha_max:g})",
    )
    if drift.bank_per_class != "all":
        check(
            drift.n_pos == "all" or drift.n_pos <= drift.bank_per_class,
            f"--drift.n_pos={drift.n_pos} reals cannot be drawn from "
            f"--drift.bank_per_class={drift.bank_per_class}; lower the first or raise the second",
        )
    check(
        drift.bank_global == 0 or drift.n_unc <= drift.bank_global,
        f"--drift.n_unc={drift.n_unc} reals cannot be drawn from --drift.bank_global={drift.bank_global}; "
        "lower the first or raise the second",
    )

    if model.name == "dit":
        check(
            model.hidden_size % model.num_heads == 0,
            f"--model.hidden_size={model.hidden_size} must be a multiple of "
            f"--model.num_heads={model.num_heads}",
        )
        check(
            not model.use_rope or model.hidden_size // model.num_heads % 2 == 0,
            f"--model.hidden_size={model.hidden_size} / --model.num_heads={model.num_heads} "
            "must be even with --model.use_rope",
        )
        size = config.data.image_size
        check(
            model.use_stable_vae or size % model.patch_size == 0,
            f"--data.image_size={size} must be a multiple of --model.patch_size={model.patch_size}",
        )
    check(
        config.objective == "drift" or model.noise_classes == 0,
        f"--model.noise_classes={model.noise_classes}: style embeddings are noise of a one-pass generator; "
        "give 0 with --objective flow",
    )
    check(
        model.attention != "cudnn" or model.use_bf16 and not model.attn_fp32,
        "--model.attention=cudnn works in bfloat16 alone: give --model.use_bf16=1 --model.attn_fp32=0, or choose --model.attention=xla",
    )

    _validate_shared(config)


def validate_mae(config: ConfigDict) -> None:
    """The same for the pre-training of encoders."""
    mae = config.mae
    blocks = mae.layers.split(",")
    check(
        len(blocks) == 4 and all(n.strip().isdecimal() and int(n) for n in blocks),
        f"--mae.layers={mae.layers}: expected the residual blocks of four stages, such as 3,4,6,3",
    )
    check(
        mae.finetune_steps <= config.max_steps,
        f"--mae.finetune_steps={mae.finetune_steps} are the last of --max_steps={config.max_steps}: lower the first or "
        "raise the second",
    )
    _validate_shared(config)


def check(fits: bool, message: str) -> None:
    if not fits:
        raise UserError(message)


def _validate_shared(config: ConfigDict) -> None:
    optim, mesh = config.optim, config.mesh
    if optim.schedule == "cosine":
        check(
            optim.warmup_steps < config.max_steps,
            f"--optim.warmup_steps={optim.warmup_steps} must be less than --max_steps={config.max_steps} "
            "with --optim.schedule=cosine",
        )
        check(
            optim.end_learning_rate <= optim.learning_rate,
            f"--optim.end_learning_rate={optim.end_learning_rate:g} must not exceed "
            f"--optim.learning_rate={optim.learning_rate:g}",
        )
    if mesh.devices:
        check(
            mesh.devices % mesh.fsdp == 0,
            f"--mesh.devices={mesh.devices} must be a multiple of --mesh.fsdp={mesh.fsdp}",
        )


TRAINER = Schema(KEYS, "configs", lambda config: validate(config))
MAE_TRAINER = Schema(MAE_KEYS, "configs.mae", validate_mae)


# ---------------------------------------------------------------- config.json


def from_dict(
    values: Mapping[str, Any], source: str = "config", schema: Schema | None = None
) -> ConfigDict:
    """A saved configuration, nested or dotted, locked and validated. Keys it lacks take defaults (logged).

    Raises:
        UserError: an unknown key or a bad value; `source` says where.
    """
    schema, flat = schema or TRAINER, flatten(values)
    if (
        flat
        and flat.keys() <= (MAE_KEYS if schema is TRAINER else KEYS).keys()
        and not flat.keys() <= schema.keys.keys()
    ):
        made, wanted = (
            ("pretrain_mae.py", "train_drift.py")
            if schema is TRAINER
            else ("train_drift.py", "pretrain_mae.py")
        )
        raise UserError(
            f"{source} is of a run of {made}, but one of {wanted} is needed here: give another folder"
        )
    flat = _checked(flat, schema.keys, source)
    missing = [name for name in schema.keys if name not in flat]
    if missing:
        log.warning("%s lacks %s: using the defaults", source, ", ".join(missing))
    return _build({key.name: key.default for key in schema.keys.values()} | flat, schema)


def from_json(path: str | os.PathLike, schema: Schema | None = None) -> ConfigDict:
    """The config.json of a run. Raises UserError if it is not there, not JSON, or not ours."""
    try:
        values = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; expected a run's config.json"
        ) from None
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON ({error}); expected a run's config.json: delete it, and train on with the run's own flags"
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}; expected a run's config.json")
    return from_dict(values, str(path), schema)


def save_json(config: ConfigDict, path: str | os.PathLike) -> None:
    """Write the configuration as nested JSON, whole or not at all. Raises UserError if that fails."""
    path = pathlib.Path(path)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; choose another --save_dir"
        ) from None


# ---------------------------------------------------------------- flags


class _Parser(flags.ArgumentParser):
    """absl's view of one row of a table."""

    def __init__(self, key: Key):
        super().__init__()
        self.key = key
        self.syntactic_help = expected(key)

    def parse(self, argument):
        return convert(self.key, argument)

    def flag_type(self):
        return type(self.key.default).__name__


class _Serializer(flags.ArgumentSerializer):
    def serialize(self, value):
        return _show(value)


def define_flags(
    groups: Iterable[str] | None = None,
    extra: Iterable[Key] = (),
    flag_values: flags.FlagValues = flags.FLAGS,
    schema: Schema = TRAINER,
) -> flags.FlagValues:
    """Register one absl flag per key; call it once per program, not at import.

    Args:
        groups: what of the table to take: groups ("model") and single keys ("load_dir"); None = all of it.
        extra: rows for flags of this program alone.
        flag_values: where to register them.
        schema: whose keys.
    """
    keys = schema.keys
    if groups is not None:
        groups = set(groups)
        for name in groups - set(keys) - {name.partition(".")[0] for name in keys}:
            raise ValueError(f"{name} is neither a group nor a key of configs/default.py")
    rows = [
        key
        for key in keys.values()
        if groups is None or {key.name, key.name.partition(".")[0]} & groups
    ]
    for key in (*rows, *extra):
        serializer = None if isinstance(key.default, bool) else _Serializer()
        flags.DEFINE_flag(
            flags.Flag(
                _Parser(key),
                serializer,
                key.name,
                key.default,
                key.help,
                boolean=isinstance(key.default, bool),
            ),
            flag_values,
        )
    return flag_values


def _rows(flag_values: flags.FlagValues) -> dict[str, Key]:
    """Our flags among those registered."""
    return {
        name: flag_values[name].parser.key
        for name in flag_values
        if isinstance(flag_values[name].parser, _Parser)
    }


def given_flags(flag_values: flags.FlagValues) -> dict[str, Any]:
    """{name: value} of our flags that are on the command line."""
    return {
        name: flag_values[name].value for name in _rows(flag_values) if flag_values[name].present
    }


def all_flags(flag_values: flags.FlagValues) -> ConfigDict:
    """All our flags with their values, for programs that do not take the whole table; locked."""
    return _nest({name: flag_values[name].value for name in _rows(flag_values)})


def parse(argv: list[str], flag_values: flags.FlagValues = flags.FLAGS) -> flags.FlagValues:
    """Parse a command line, the program's name first: `--flag value`, `--flag=value`; for booleans also
    `--flag`, `--noflag`.

    Raises:
        UserError: an unknown flag, a bad value, or a word that belongs to no flag.
        SystemExit: after printing the help for `--help`.
    """
    if {"--help", "-help", "-h", "--helpshort"} & set(argv[1:]):
        sys.stdout.write(help_text(flag_values))
        raise SystemExit(0)
    joined, rest = [argv[0]], list(argv[1:])
    while rest:  # absl takes a boolean's value only after "=", and for other flags any next word, even a flag
        word = rest.pop(0)
        name = word.lstrip("-")
        if word.startswith("-") and name in flag_values and rest:
            if not flag_values[name].boolean:
                if rest[0].startswith("--"):
                    raise UserError(f"{word} has no value; expected one before {rest[0]}")
                word = f"{word}={rest.pop(0)}"
            elif rest[0].lower() in BOOLEANS:
                word = f"{word}={rest.pop(0)}"
        joined.append(word)
    try:
        words = flag_values(joined)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(
            f"unknown flag --{error.flagname}{did_you_mean(error.flagname, _rows(flag_values), '--')} "
            "(--help lists all)"
        ) from None
    except (flags.Error, ValueError) as error:
        raise UserError(str(error).removeprefix("flag ")) from None
    if words:
        hint = did_you_mean(words[0].partition("=")[0], _rows(flag_values), "--")
        raise UserError(f"unexpected word {words[0]!r}{hint or '; expected only --flag=value'}")
    return flag_values


def help_text(flag_values: flags.FlagValues) -> str:
    """All our flags by group: name, default, meaning, and what they accept."""
    rows = _rows(flag_values)
    lines = [(sys.modules["__main__"].__doc__ or "").strip()]
    group = None
    for name, key in rows.items():
        if name.rpartition(".")[0] != group:
            group = name.rpartition(".")[0]
            lines += ["", f"{group or 'general'}:"]
        accepts = f" [{expected(key)}]" if key.accepts else ""
        lines.append(f"  --{name:26} {_show(key.default) or '-':26} {key.help}{accepts}")
    lines.append("")
    if "recipe" in rows:
        package = MAE_TRAINER.recipes if "mae.layers" in rows else TRAINER.recipes
        lines.append(f"recipes: {', '.join(recipes(package))}")
    if "model.preset" in rows:
        lines.append(f"presets: {', '.join(PRESETS)}")
    lines.append(
        "--flagfile=FILE reads flags from a file; --helpfull lists those of the libraries too."
    )
    return "\n".join(lines) + "\n"


def run_main(
    main: Callable[[flags.FlagValues], Any], flag_values: flags.FlagValues = flags.FLAGS
) -> None:
    """Parse sys.argv and call `main(flag_values)`. A UserError ends as one line and exit code 2."""
    try:
        app.run(main, flags_parser=lambda argv: parse(argv, flag_values))
    except UserError as error:
        message = str(error)
    except OSError as error:  # a file that the user named, or the disk
        if error.filename is None:
            raise
        message = f"{error.filename}: {error.strerror}; give another place, or make room there"
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    else:
        return
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(2)
