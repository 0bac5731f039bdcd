#!/usr/bin/env python
"""Several runs on one page of HTML: scores with their errors, curves over steps and alpha, \
samples of the same noise side by side, nearest training images.

    python scripts/compare.py runs/a runs/b runs/c --out compare.html

The page is one file. It needs no server, and makes no request.
"""

import functools
import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from configs.default import BUCKET, Key
from evaluation.flags import Flags
from utils import config as config_lib
from utils.errors import UserError
from utils.files import replacing
from utils.logging import setup_logging
from utils.paths import to_path

log = logging.getLogger("compare")

FLAGS = (
    Key("out", "compare.html", "the page to write", BUCKET),
    Key("alpha", 1.0, "guidance scale of the samples", "[1, inf)"),
    Key("per_class", 8, "samples of each class", "[1, 64]"),
)


def take_runs(words: list[str]) -> list[str]:
    """Takes the runs out of a command line, and returns them.

    They are the words that are neither flags nor the value of one; every flag here has a value.
    """
    names = {"seed", *(key.name for key in FLAGS)}
    runs, rest = [], words[1:]
    del words[1:]
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            runs.append(word)
            continue
        words.append(word)
        if rest and word.lstrip("-") in names:
            words.append(rest.pop(0))
    return runs


def main(runs: list[str], flag_values):
    """Writes the page."""
    # Not at the top, since they import jax: utils/config/__init__.py.
    from evaluation.compare_runs import comparison_page, open_runs
    from utils.sharding import local_sharding

    setup_logging()
    flags: Flags = config_lib.all_flags(flag_values)
    out = to_path(flags.out)
    if out.suffix != ".html":
        raise UserError(f"--out {out}: expected a name that ends in .html")
    text = comparison_page(
        open_runs(runs),
        seed=flags.seed,
        alpha=flags.alpha,
        per_class=flags.per_class,
        sharding=local_sharding(),
    )
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    log.info("%s", out)


if __name__ == "__main__":
    given = take_runs(sys.argv)
    config_lib.define_flags(("seed",), FLAGS)
    config_lib.run_main(functools.partial(main, given))
