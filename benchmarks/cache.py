"""What keeping the features of reals saves: python benchmarks/cache.py --encoder.name dinov2 --classes 1 --batch_size 8 --drift.n_neg 8 ...

The same step with features computed in each step and kept in the bank, timed alternately in one run: milliseconds, memory of the bank and of the step, and the losses of the
first steps. The data are random, and so are the weights of published encoders (models/standin.py): the time does not depend on them. One JSON line at the end.
"""

import json
import pathlib
import sys
import time

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.step import FLAGS as STEP_FLAGS
from benchmarks.step import Noise
from data import Dataset
from models.standin import load_random
from training import drift
from utils import config as config_lib
from utils import sharding
from utils.logging import setup_logging
from utils.memory import keep_freed_memory


def main(flag_values):
    setup_logging()
    flags, given = config_lib.all_flags(flag_values), config_lib.given_flags(flag_values)
    given = {name: value for name, value in given.items() if name in config_lib.KEYS}
    shape = (flags["size"], flags["size"], flags.channels)
    counts = (flags.samples_per_class,) * flags.classes
    dataset = Dataset(
        "noise",
        "train",
        Noise(sum(counts), flags.classes, shape),
        shape,
        "uint8",
        tuple(map(str, range(flags.classes))),
        counts,
    )
    if jax.default_backend() == "cpu":
        keep_freed_memory()

    runs = {}
    for cache in ("off", "on"):
        config = config_lib.resolve(
            {"recipe": "none", "mesh.devices": 1, "optim.warmup_steps": 0}
            | given
            | {"encoder.cache": cache}
        )
        mesh = sharding.make_mesh(config.mesh.devices, config.mesh.fsdp)
        parts = drift.build(config, dataset, mesh, load_encoder=load_random)
        state, bank = drift.make_state(parts), drift.put_bank(parts, drift.fill_bank(parts)[0])
        frozen = sharding.put(parts.encoder_params, sharding.replicated(mesh))
        n = config.drift.bank_push
        fresh = (
            None
            if parts.whole_bank
            else sharding.put(
                (np.zeros((n, *shape), np.uint8), np.arange(n, dtype=np.int32) % flags.classes),
                sharding.replicated(mesh),
            )
        )
        begin = time.perf_counter()
        step = drift.jit_step(parts).lower(state, bank, fresh, frozen).compile()
        runs[cache] = {
            "arguments": [state, bank, fresh, frozen],
            "step": step,
            "times": [],
            "losses": [],
            "compile_s": round(time.perf_counter() - begin, 1),
            "bank_mb": round(parts.bank_bytes / 1e6, 2),
            "temporary_mb": round(step.memory_analysis().temp_size_in_bytes / 1e6, 1),
        }
    for _ in range(flags.rounds + 1):
        for run in runs.values():
            begin = time.perf_counter()
            for _ in range(flags.steps):
                *run["arguments"][:2], metrics = run["step"](*run["arguments"])
                run["losses"].append(metrics["loss"])
            jax.block_until_ready((run["arguments"], metrics))
            run["times"].append((time.perf_counter() - begin) / flags.steps)
    out = {
        "encoder": config.encoder.name,
        "path": config.encoder.path,
        "device": mesh.devices.flat[0].device_kind,
        "jax": jax.__version__,
    }
    for cache, run in runs.items():
        out |= {
            f"step_ms_{cache}": round(1e3 * float(np.median(run["times"][1:])), 1),
            **{f"{k}_{cache}": run[k] for k in ("bank_mb", "temporary_mb", "compile_s")},
        }
    first = [float(run["losses"][0]) for run in runs.values()]
    print(
        json.dumps(
            out
            | {"speed_up": round(out["step_ms_off"] / out["step_ms_on"], 2), "first_losses": first}
        )
    )


if __name__ == "__main__":
    config_lib.define_flags(extra=STEP_FLAGS)
    config_lib.run_main(main)
