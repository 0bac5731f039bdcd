"""The command line: one absl flag for each key, their help, and how a program begins and ends."""

import errno
import sys
from collections.abc import Callable, Iterable
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict

from configs.default import Key
from configs.presets import PRESETS
from utils.config import other_projects
from utils.config.nesting import nest
from utils.config.schema import MAE_TRAINER, TRAINER, Schema, recipes
from utils.config.values import BOOLEANS, as_text, convert, expected
from utils.errors import UserError
from utils.words import did_you_mean

# What a write says that finds no room; it does not name the file.
NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)

# ---------------------------------------------------------------- definition


class _Parser(flags.ArgumentParser):
    """Tells absl what one row of a table accepts."""

    def __init__(self, key: Key):
        super().__init__()
        self.key = key
        self.syntactic_help = expected(key)

    def parse(self, argument):
        return convert(self.key, argument)

    def flag_type(self):
        return type(self.key.default).__name__


class _Serializer(flags.ArgumentSerializer):
    """Tells absl how a value is written."""

    def serialize(self, value):
        return as_text(value)


def define_flags(
    groups: Iterable[str] | None = None,
    extra: Iterable[Key] = (),
    flag_values: flags.FlagValues = flags.FLAGS,
    schema: Schema = TRAINER,
) -> flags.FlagValues:
    """Registers one absl flag per key. A program calls this once when it starts, not at import.

    Args:
        groups: what of the table to take: groups ("model") and single keys ("load_dir"); None: all.
        extra: rows for flags of this program alone.
        flag_values: where to register them.
        schema: whose keys.
    Raises:
        ValueError: one of `groups` is neither a group nor a key.
    """
    rows = list(schema.keys.values())
    if groups is not None:
        groups = set(groups)
        known = set(schema.keys) | {_group(key) for key in rows}
        for name in groups - known:
            raise ValueError(f"{name} is neither a group nor a key of configs/default.py")
        rows = [key for key in rows if {key.name, _group(key)} & groups]
    for key in (*rows, *extra):
        is_boolean = isinstance(key.default, bool)
        serializer = None if is_boolean else _Serializer()
        flag = flags.Flag(
            _Parser(key), serializer, key.name, key.default, key.help, boolean=is_boolean
        )
        flags.DEFINE_flag(flag, flag_values)
    return flag_values


def _group(key: Key) -> str:
    """Returns "model" for the key "model.depth"."""
    return key.name.partition(".")[0]


# ---------------------------------------------------------------- what was given


def _rows(flag_values: flags.FlagValues) -> dict[str, Key]:
    """Returns the rows of our flags among those registered; absl and other libraries have more."""
    parsers = {name: flag_values[name].parser for name in flag_values}
    return {name: parser.key for name, parser in parsers.items() if isinstance(parser, _Parser)}


def given_flags(flag_values: flags.FlagValues) -> dict[str, Any]:
    """Returns {name: value} of our flags that are on the command line."""
    ours = _rows(flag_values)
    return {name: flag_values[name].value for name in ours if flag_values[name].present}


def all_flags(flag_values: flags.FlagValues) -> ConfigDict:
    """Returns all our flags with their values, locked; for programs without the whole table."""
    return nest({name: flag_values[name].value for name in _rows(flag_values)})


# ---------------------------------------------------------------- parsing


def parse(argv: list[str], flag_values: flags.FlagValues = flags.FLAGS) -> flags.FlagValues:
    """Parses a command line, the program's name first.

    Flags are `--flag value` or `--flag=value`; for booleans also `--flag` and `--noflag`.

    Raises:
        UserError: an unknown flag, a bad value, or a word that belongs to no flag.
        SystemExit: after printing the help for `--help`.
    """
    if {"--help", "-help", "-h", "--helpshort"} & set(argv[1:]):
        sys.stdout.write(help_text(flag_values))
        raise SystemExit(0)
    try:
        words = flag_values(_join_values(argv, flag_values))[1:]
    except flags.UnrecognizedFlagError as error:
        value = _value_of(error.flagname, argv)
        hint = other_projects.answer(error.flagname, value, _rows(flag_values))
        hint = hint or did_you_mean(error.flagname, _rows(flag_values), "--")
        raise UserError(f"unknown flag --{error.flagname}{hint} (--help lists all)") from None
    except (flags.Error, ValueError) as error:
        raise UserError(str(error).removeprefix("flag ")) from None
    if words:
        hint = did_you_mean(words[0].partition("=")[0], _rows(flag_values), "--")
        hint = other_projects.answer_to_word(words[0], _rows(flag_values)) or hint
        raise UserError(f"unexpected word {words[0]!r}{hint or '; expected only --flag=value'}")
    return flag_values


def _value_of(name: str, argv: list[str]) -> str:
    """Returns what an unknown flag was given, or ""."""
    for word, following in zip(argv, [*argv[1:], "--"], strict=True):
        flag, _, value = word.lstrip("-").partition("=")
        if word.startswith("-") and flag == name:
            return value or ("" if following.startswith("-") else following)
    return ""


def _join_values(argv: list[str], flag_values: flags.FlagValues) -> list[str]:
    """Returns the command line with `--flag value` as `--flag=value`.

    absl takes the value of a boolean only after "=", and for other flags any next word, even when
    that is a flag itself. Raises UserError for a flag that is followed by another, not by a value.
    """
    joined, rest = [argv[0]], list(argv[1:])
    while rest:
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
    return joined


def help_text(flag_values: flags.FlagValues) -> str:
    """Returns all our flags by group: name, default, meaning, and what they accept."""
    rows = _rows(flag_values)
    lines = [(sys.modules["__main__"].__doc__ or "").strip()]
    groups: dict[str, list[Key]] = {}
    for name, key in rows.items():
        groups.setdefault(name.rpartition(".")[0], []).append(key)
    for group, keys in groups.items():
        lines += ["", f"{group or 'general'}:"]
        for key in keys:
            accepts = f" [{expected(key)}]" if key.accepts else ""
            default = as_text(key.default) or "-"
            lines.append(f"  --{key.name:26} {default:26} {key.help}{accepts}")
    lines.append("")
    if "recipe" in rows:
        schema = MAE_TRAINER if "mae.layers" in rows else TRAINER
        lines.append(f"recipes: {', '.join(recipes(schema.recipes))}")
    if "model.preset" in rows:
        lines.append(f"presets: {', '.join(PRESETS)}")
    lines.append("--flagfile=FILE reads flags from a file; --helpfull lists absl's too.")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- the program


def run_main(
    main: Callable[[flags.FlagValues], Any], flag_values: flags.FlagValues = flags.FLAGS
) -> None:
    """Parses sys.argv and calls `main(flag_values)`.

    A mistake that the user can mend ends the program with one line and exit code 2, an interrupt
    with 130. A mistake of ours keeps its traceback.
    """

    def parse_flags(argv):
        return parse(argv, flag_values)

    try:
        app.run(main, flags_parser=parse_flags)
    except UserError as error:
        message = str(error)
    except OSError as error:  # a file that the user named, or the disk
        if error.filename is None and error.errno not in NO_ROOM:
            raise
        place = error.filename or "a file could not be written"
        message = f"{place}: {error.strerror}; give another place, or make room there"
        if error.errno == errno.EFBIG:
            message = f"{place}: {error.strerror}; raise the limit of this shell (ulimit -f)"
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    else:
        return
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(2)
