"""Will it fit, how fast will it be, how long will it take?

Compiles the real train step for devices that need not be there.

    python scripts/plan.py --recipe imagenet256_B --stand_in latents \\
        --target tpu:v6e:8x8,tpu:v5e:16x16
    python scripts/plan.py --recipe imagenet256_B --stand_in latents --target gpu:h100:64 --explain
    python scripts/plan.py --dataset_name digits       for the devices of this machine

TPU targets take libtpu (pip install -r requirements-plan-tpu.txt), but no TPU: tpu:VERSION:TOPOLOGY
with v4, v5e, v5p or v6e, as Google Cloud names them. GPU targets take the CUDA compiler
(requirements-plan-gpu.txt), but no GPU: gpu:NAME:COUNT with a100, h100, h200, b200, l40s or
rtx4090; more than 8 are in hosts of 8. Nothing is fetched or run: data sets and encoders are
known by their shapes, and only what --encoder.name whiten is fitted on is read. All flags of
train_drift.py hold.

Exit code 0: it fits every target; 1: it does not fit one, or its memory is not known; 2: a mistake.

A program for absent devices is compiled until its buffers have their places, which says what the
memory holds and what travels. With --full it is compiled to its end, which takes several times as
long, for the TPU compiler's own estimate of the time. --explain prints where the bytes go.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax

from planning.explain import explanation
from planning.plan import FLAGS, leave_out_figures, plan
from planning.table import table
from utils import config as config_lib
from utils.errors import UserError
from utils.logging import setup_logging


def main(flag_values):
    setup_logging()
    flags: Any = config_lib.all_flags(flag_values)
    config: Any = config_lib.resolve(flag_values)
    leave_out_figures(flags, config)
    folder = pathlib.Path(flags.json).parent
    if flags.json and not folder.is_dir():
        raise UserError(
            f"--json {flags.json}: there is no folder {folder}; make it, or give another place"
        )

    targets = flags.target.split(",")
    if len(targets) == 1:
        rows = [plan(flags, config, targets[0])]
        print_collectives(rows[0])
    else:
        rows = [plan_alone(target) for target in targets]
    print(table(rows), flush=True)
    for row in rows:
        if "parts_gib" in row:
            print(f"\n{row['target']}\n\n{explanation(row['parts_gib'])}", flush=True)
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(rows, indent=2) + "\n")
    sys.stderr.flush()
    # The compiler may still be at work in a thread, for which a usual end would wait.
    os._exit(0 if all(row["fits"] for row in rows) else 1)


def print_collectives(row: dict) -> None:
    """Prints how often the devices exchange what, for the reader of one plan."""
    for name, one in row.get("collectives", {}).items():
        print(f"{row['target']}: {one['count']} {name}, {one['gib']:.3f} GiB", file=sys.stderr)


def plan_alone(target: str) -> dict:
    """Returns the figures of one of several targets.

    This program is started for it with the same flags, and the compiler ends with the process.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        words = [*sys.argv[1:], "--target", target, "--json", file.name]
        done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.DEVNULL)
        written = pathlib.Path(file.name).read_text()
        if done.returncode not in (0, 1) or not written:
            raise SystemExit(2)  # it has said why
        return json.loads(written)[0]


def is_absent(word: str) -> bool:
    """Tells whether a word of the command line names devices that need not be here."""
    return "tpu:" in word or "gpu:" in word


if __name__ == "__main__":
    if not os.environ.get("JAX_PLATFORMS") and any(map(is_absent, sys.argv)):
        # libtpu looks for TPUs otherwise, and the plugin for CUDA for GPUs.
        jax.config.update("jax_platforms", "cpu")
    config_lib.define_flags(extra=FLAGS)
    config_lib.run_main(main)
