#!/usr/bin/env python
"""A page to play with a generator: class, guidance, seeds, the way between two noises.

    python scripts/play.py --load_dir runs/digits      then open http://127.0.0.1:7860

Pictures come from JAX on this machine's GPU or CPU, so the network may be too large for a browser;
scripts/export.py --format web writes a page that needs no server. It needs the packages of
requirements-play.txt. Ctrl-C ends it.
"""

import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from configs.default import Key
from evaluation.flags import EMA, EULER_STEPS, GENERATOR, Flags
from utils import config as config_lib
from utils.logging import setup_logging

FLAGS = (
    GENERATOR,
    Key("step", 0, "checkpoint of the run; 0 = the newest", "[0, inf)"),
    EMA,
    EULER_STEPS,
    Key("port", 0, "of this machine; 0 = the first free one from 7860 on", "[0, 65535]"),
    Key("share", False, "also at a public address, through a tunnel of gradio's makers"),
    config_lib.KEYS["vae"],
)


def main(flag_values):
    """Serves the page."""
    # Not at the top, since they import jax: utils/config/__init__.py.
    from evaluation.play_page import open_page, serve
    from evaluation.sample_command import open_sampler
    from utils.compiler import keep_programs

    setup_logging()
    keep_programs()
    flags: Flags = config_lib.all_flags(flag_values)
    sampler = open_sampler(flags)
    blocks = open_page(sampler)
    address = serve(blocks, sampler, flags.port, flags.share)
    logging.getLogger("play").info("open %s in a browser; Ctrl-C ends it", address)
    blocks.block_thread()


if __name__ == "__main__":
    config_lib.define_flags((), FLAGS)
    config_lib.run_main(main)
