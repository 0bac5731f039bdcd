"""From the command line to one locked configuration.

For each key a later level goes over an earlier one:

    default < recipe < data < objective < preset < command line

All keys, defaults and help texts are rows of the tables in `configs/default.py`, so a new flag is
one new row there. A key that is in no table is an error. Nothing in this folder imports jax, which
keeps `--help` fast. A program looks like this:

    def main(flag_values):
        from training import drift      # which imports jax

        config = config_lib.resolve(flag_values)
        ...

    if __name__ == "__main__":
        config_lib.define_flags()
        config_lib.run_main(main)

The files of this folder:

    values         text to the typed value of one key, and back
    nesting        {"model.depth": 4} to config.model.depth, and back
    checks         which values fit together
    schema         what each of the two trainers is configured by
    levels         default, recipe, objective, preset, command line: merged, and explained
    saved          config.json of a run
    command_line   flags, their help, and the end of a program
    other_projects flags of other projects, answered as fits the program
"""

from configs.default import Key
from utils.config.checks import check
from utils.config.command_line import (
    all_flags,
    define_flags,
    given_flags,
    help_text,
    parse,
    run_main,
)
from utils.config.levels import check_use, explain, resolve
from utils.config.nesting import flatten, nest
from utils.config.saved import (
    from_dict,
    from_json,
    refuse_other_trainer,
    save_json,
    with_defaults,
)
from utils.config.schema import KEYS, MAE_KEYS, MAE_TRAINER, TRAINER, Schema, recipes
from utils.config.values import convert, expected

__all__ = [
    "KEYS",
    "MAE_KEYS",
    "MAE_TRAINER",
    "TRAINER",
    "Key",
    "Schema",
    "all_flags",
    "check",
    "check_use",
    "convert",
    "define_flags",
    "expected",
    "explain",
    "flatten",
    "from_dict",
    "from_json",
    "given_flags",
    "help_text",
    "nest",
    "parse",
    "recipes",
    "refuse_other_trainer",
    "resolve",
    "run_main",
    "save_json",
    "with_defaults",
]
