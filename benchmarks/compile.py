"""What the compilation of a train step takes, by depth of the generator and number of feature sets.

    python benchmarks/compile.py --recipe imagenet256_latent --stand_in latents --depths 6,12,24
    python benchmarks/compile.py --recipe imagenet256_latent --stand_in latents --target tpu:v6e:8x8

Nothing is read, allocated or run. A line of JSON for each program: the instructions of the program
that the compiler is given, the seconds to trace and lower it, and the seconds to compile it, which
--nocompile leaves out. Other flags are those of scripts/plan.py.

The depths are compiled with all feature sets; then the first of them with fewer: only the vectors
of all locations, and these with their means.
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.frame import print_line
from configs.default import Key
from planning.plan import FLAGS as PLAN_FLAGS
from planning.plan import build_parts, leave_out_figures, lower
from planning.step_shapes import arguments
from training import drift
from utils import config as config_lib
from utils.errors import UserError
from utils.logging import setup_logging

FLAGS = (
    Key("depths", (6.0, 12.0, 24.0), "blocks of the generator, one program each", "[1, inf)"),
    Key("compile", True, "also compile the programs"),
)
# What the names of the sets that are left out hold.
LEFT_OUT = {
    "all": (),
    "locations": ("_mean", "_std"),
    "locations and means": ("_std",),
}


def main(flag_values):
    setup_logging()
    flags: Any = config_lib.all_flags(flag_values)
    config: Any = config_lib.resolve(flag_values)
    if any(depth % 1 for depth in flags.depths):
        given = ",".join(map(str, flags.depths))
        raise UserError(f"--depths {given}: expected whole numbers of blocks")
    depths = [int(depth) for depth in flags.depths]
    leave_out_figures(flags, config)

    programs = [(depth, "all") for depth in depths]
    programs += [(depths[0], "locations"), (depths[0], "locations and means")]
    for depth, sets in programs:
        with config.unlocked():
            config.model.depth = depth
        print_line(measure(flags, config, LEFT_OUT[sets]))


def measure(flags: Any, config: Any, left_out: tuple[str, ...]) -> dict[str, Any]:
    """Returns the figures of one program, without the feature sets that `left_out` names."""
    parts = build_parts(flags, config, flags.target)
    widths = {}  # of the feature sets, by name; known when the program is traced
    encode = encode_fewer_sets(parts.encode, left_out, widths)
    parts = dataclasses.replace(parts, encode=encode)
    step_arguments = arguments(parts, drift.state_shapes(parts))

    begin = time.perf_counter()
    step: Any = drift.jit_step(parts)
    lowered = lower(step.trace(*step_arguments), flags.target)
    row = {
        "target": flags.target,
        "depth": config.model.depth,
        "sets": len(widths),
        "widths": len(set(widths.values())),
        "instructions": lowered.as_text().count(" = "),
        "trace_s": round(time.perf_counter() - begin, 1),
    }
    if flags.compile:
        begin = time.perf_counter()
        lowered.compile()
        row["compile_s"] = round(time.perf_counter() - begin, 1)
    return row


def encode_fewer_sets(encode: Callable, left_out: tuple[str, ...], widths: dict) -> Callable:
    """Returns an encoder without some of its feature sets, which notes the widths of the others."""

    def encode_fewer(params, images):
        chosen = {}
        for name, features in encode(params, images).items():
            if not any(part in name for part in left_out):
                chosen[name] = features
                widths[name] = features.shape[2]
        return chosen

    return encode_fewer


if __name__ == "__main__":
    config_lib.define_flags(extra=(*PLAN_FLAGS, *FLAGS))
    config_lib.run_main(main)
