#!/usr/bin/env python
"""The report of a run as one file of HTML: what was run, the result, curves, samples, health.

    python scripts/report.py --load_dir runs/digits          writes runs/digits/report.html

A training writes it at its end, so this is for runs that go on, or that were scored since. Several
runs on one page: scripts/compare.py. The page needs no server, and makes no request.
"""

import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from evaluation.flags import RUN, Flags
from utils import config as config_lib
from utils.errors import UserError
from utils.logging import setup_logging
from utils.paths import to_path

log = logging.getLogger("report")


def main(flag_values):
    """Writes the page."""
    # Not at the top, since they import jax: utils/config/__init__.py.
    from evaluation.report import write_report
    from utils.sharding import local_sharding

    setup_logging()
    flags: Flags = config_lib.all_flags(flag_values)
    if not flags.load_dir:
        raise UserError("--load_dir is missing: give the folder of a run, such as runs/digits")
    log.info("%s", write_report(to_path(flags.load_dir), flags.seed, local_sharding()))


if __name__ == "__main__":
    config_lib.define_flags(("seed",), extra=(RUN,))
    config_lib.run_main(main)
