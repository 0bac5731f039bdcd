"""What the compilation of a train step takes, by depth of the generator and number of feature sets; nothing is read, allocated or run.

    python benchmarks/compile.py --recipe imagenet256_latent --stand_in latents --depths 6,12,24
    python benchmarks/compile.py --recipe imagenet256_latent --stand_in latents --target tpu:v6e:8x8

A line of JSON per program: instructions (of the program that the compiler is given), seconds to trace and lower it, seconds to compile it (--nocompile leaves this out).
Flags as in scripts/plan.py.
"""

import dataclasses
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))

import plan

from configs.default import Key
from models.standin import load_shapes
from training import drift
from utils import config as config_lib
from utils import sharding
from utils.errors import UserError
from utils.logging import setup_logging

FLAGS = (
    Key("depths", (6.0, 12.0, 24.0), "blocks of the generator, one program each", "[1, inf)"),
    Key("compile", True, "also compile the programs"),
)
STATISTICS = {
    "locations": lambda name: "_mean" not in name and "_std" not in name,
    "locations and means": lambda name: "_std" not in name,
    "all": lambda name: True,
}


def measure(flags, config, depth: int, kind: str) -> dict:
    """The figures of one program."""
    with config.unlocked():
        config.model.depth = depth
    mesh = sharding.mesh_from_devices(plan.devices_of(flags.target), config.mesh.fsdp)
    parts = drift.build(config, plan.stand_in(flags, config), mesh, load_encoder=load_shapes)
    count = []

    def encode(params, images):
        sets = {
            name: f for name, f in parts.encode(params, images).items() if STATISTICS[kind](name)
        }
        count[:] = [len(sets), len({f.shape[2] for f in sets.values()})]
        return sets

    chosen = dataclasses.replace(parts, encode=encode)
    arguments = plan.inputs(chosen, drift.state_shapes(chosen))
    begin = time.perf_counter()
    lowered = (
        drift.jit_step(chosen)
        .trace(*arguments)
        .lower(lowering_platforms=("tpu",) if flags.target != "local" else None)
    )
    row = {
        "target": flags.target,
        "depth": depth,
        "sets": count[0],
        "widths": count[1],
        "instructions": lowered.as_text().count(" = "),
        "trace_s": time.perf_counter() - begin,
    }
    if flags.compile:
        begin = time.perf_counter()
        lowered.compile()
        row["compile_s"] = time.perf_counter() - begin
    return {k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()}


def main(flag_values):
    setup_logging()
    flags, config = config_lib.all_flags(flag_values), config_lib.resolve(flag_values)
    with config.unlocked():
        config.sample_interval = config.eval_interval = 0
    if any(depth % 1 for depth in flags.depths):
        raise UserError(
            f"--depths {','.join(map(str, flags.depths))}: expected whole numbers of blocks"
        )
    depths = [int(depth) for depth in flags.depths]
    for depth, kind in [(depth, "all") for depth in depths] + [
        (depths[0], kind) for kind in list(STATISTICS)[:-1]
    ]:
        print(json.dumps(measure(flags, config, depth, kind)), flush=True)


if __name__ == "__main__":
    config_lib.define_flags(extra=(*plan.FLAGS, *FLAGS))
    config_lib.run_main(main)
