#!/usr/bin/env python
"""Writes the network of a run in the published format, which the paper's own code reads too.

    python scripts/export.py --load_dir runs/cifar10 --out exported/cifar10
    python sample.py --load_dir exported/cifar10

The network is a generator or an encoder. The folder holds metadata.json and ema_params.msgpack, and
is for sample.py, eval_fid.py and --init_from, or for --encoder.path.
"""

import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from configs.default import PATH, Key
from models.export import export_run
from utils import config as config_lib
from utils.errors import UserError
from utils.logging import setup_logging

FLAGS = (
    Key("step", 0, "checkpoint of the run; 0 = the newest", "[0, inf)"),
    Key(
        "ema", "", "parameters: a decay that the run keeps, raw, or empty for the run's first decay"
    ),
    Key("out", "", "folder to write", PATH),
)


def main(flag_values):
    setup_logging()
    flags = config_lib.all_flags(flag_values)
    if not flags.load_dir or not flags.out:
        raise UserError("--load_dir, --out: give the folder of a run and the folder to write")
    kind = export_run(flags.load_dir, flags.out, flags.step or None, flags.ema)
    logging.getLogger("export").info("%s: the %s in the published format", flags.out, kind)


if __name__ == "__main__":
    config_lib.define_flags(("load_dir",), FLAGS)
    config_lib.run_main(main)
