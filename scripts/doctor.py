#!/usr/bin/env python
"""What is wrong with the drifting field of a run, in words, with the flag to change.

    python scripts/doctor.py --load_dir runs/digits

It reads the newest checkpoint with its bank, looks at the batch of the next step, and prints one
line for each finding: docs/doctor.md. It changes nothing, so a run may go on meanwhile. A finding
is advice, and the exit code is 0 with any; 2 stands for a mistake on the command line.
"""

import json
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from configs.default import Key
from evaluation.flags import RUN
from utils import config as config_lib
from utils.errors import UserError
from utils.logging import setup_logging
from utils.paths import refuse_checkpoint, to_path

FLAGS = (
    RUN,
    Key("json", False, "print the findings as one line of JSON"),
)


def main(flag_values):
    """Prints the findings."""
    # Not at the top, since they import jax: utils/config/__init__.py.
    from training.doctor import examine
    from utils.compiler import keep_programs

    setup_logging()
    keep_programs()
    flags: Any = config_lib.all_flags(flag_values)
    if not flags.load_dir:
        raise UserError("--load_dir is missing: give the folder of a run, such as runs/digits")
    refuse_checkpoint("load_dir", flags.load_dir, step_flag=False)
    findings = examine(to_path(flags.load_dir))
    if flags.json:
        print(json.dumps([finding._asdict() for finding in findings]))
    else:
        print(*findings, sep="\n")


if __name__ == "__main__":
    config_lib.define_flags((), extra=FLAGS)
    config_lib.run_main(main)
