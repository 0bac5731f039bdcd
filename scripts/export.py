#!/usr/bin/env python
"""Writes the network of a run for others: the published format, a page for browsers, or the hub.

    python scripts/export.py --load_dir runs/cifar10 --out exported/cifar10
    python sample.py --load_dir exported/cifar10

    python scripts/export.py --load_dir runs/digits --format web --out runs/digits/web
    python -m http.server --bind 127.0.0.1 --directory runs/digits/web

    python scripts/export.py --load_dir runs/digits --push me/digits --space 1 --license mit
    python sample.py --load_dir hf://me/digits

The published format holds a generator or an encoder: metadata.json and ema_params.msgpack, for
sample.py, eval_fid.py and --init_from, or for --encoder.path. The paper's own code reads it too
where the network has nothing of our own, such as convolutions. The web page makes pictures in a
browser, by WebGPU or WebAssembly, and asks no other machine for anything. It needs the packages of
requirements-web.txt, and npm. On the Hugging Face hub a repository gets the weights, samples and a
card with the scores, and with --space 1 a Space of the same name gets the page. Without a network
both are written, as folders.
"""

import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from configs.default import BUCKET, PATH, Key
from evaluation.flags import EMA, load_dir
from utils import config as config_lib
from utils.logging import setup_logging

FLAGS = (
    load_dir("run folder, of a generator or an encoder; for --format web also an artifact"),
    Key("step", 0, "checkpoint of the run; 0 = the newest", "[0, inf)"),
    EMA,
    Key("out", "", "folder to write", BUCKET),
    Key("format", "published", "what to write", ("published", "web")),
    Key("weights", "float16", "of --format web, as they are stored", ("float16", "float32")),
    Key("onnxruntime_web", "", "the package of npm, a folder or .tgz; empty = npm gets it", PATH),
    Key("push", "", "put it on the Hugging Face hub, as OWNER/NAME; --out is then RUN/hub"),
    Key("space", False, "of --push: also the page for browsers, as a Space"),
    Key("license", "", "of --push: of the weights, as the hub names it, such as mit"),
    config_lib.KEYS["vae"],
)


def main(flag_values):
    """Exports."""
    # Not at the top, since they import jax: utils/config/__init__.py.
    from evaluation.export_command import export
    from utils.compiler import keep_programs

    setup_logging()
    keep_programs()
    logging.getLogger("export").info("%s", export(config_lib.all_flags(flag_values)))


if __name__ == "__main__":
    config_lib.define_flags(("seed",), FLAGS)
    config_lib.run_main(main)
