"""What a training step costs on the devices at hand.

    python benchmarks/step.py --recipe digits          any recipe, with any flag of train_drift.py over it
    python benchmarks/step.py --setting encoder        a small DiT in a random MAE's features, 32x32x3
    python benchmarks/step.py --setting pixels         a DiT of 9M parameters in raw pixels, 32x32x1

Compile time, step time, images/s, FLOPs, share of the measured matrix-multiply rate, memory; one JSON line at the end. Data and the weights of --random_mae are random.
FLOPs are XLA's count for the same step with the layers unrolled (its count of a loop is that of one turn); `matmul_gflop_per_step` counts the matrix products of the traced
program, loops included, and `mfu` is their share of the data sheet's bf16 rate. The step and the matrix multiply are timed alternately. `host_ms` is what a step takes of
the Python thread (on one CPU device all of it, `utils/memory.py`); `data_wait_ms` is how long it waits for the next reals of the bank, read and shuffled by the real input pipeline (null where grain is not installed).
Runs with jax, flax, optax, orbax, einops, absl and ml_collections alone (benchmarks/bare.py).
"""

import dataclasses
import json
import pathlib
import re
import resource
import sys
import tempfile
import time

import bare  # noqa: F401  before the rest
import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.frame import matmul_rate
from configs.default import Key
from data import Dataset, pipeline
from models.mae import MAE, mae_fields
from models.standin import load_random
from planning.chips import CHIPS
from planning.cost import matmul_flops
from training import drift
from utils import config as config_lib
from utils import sharding
from utils.errors import UserError
from utils.logging import setup_logging
from utils.memory import keep_freed_memory

SETTINGS = {
    "encoder": {  # 4 classes x (8 generated, 8 positive, 4 unconditional); MAE of base width 32, two blocks a stage, all feature sets of A.5
        "recipe": "none",
        "size": 32,
        "channels": 3,
        "random_mae": "32,2,2,2,2",
        "batch_size": 32,
        "drift.n_neg": 8,
        "drift.n_pos": 8,
        "drift.n_unc": 4,
        "drift.bank_per_class": 16,
        "drift.bank_global": 64,
        "drift.bank_push": 8,
        "model.hidden_size": 128,
        "model.depth": 4,
        "model.num_heads": 4,
        "model.patch_size": 4,
        "model.n_cls_tokens": 4,
        "model.noise_coords": 8,
        "model.noise_classes": 64,
        "model.use_bf16": False,
    },
    "pixels": {  # 10 classes x (32 generated, 32 positive)
        "recipe": "none",
        "size": 32,
        "channels": 1,
        "batch_size": 320,
        "drift.n_neg": 32,
        "drift.n_pos": 32,
        "drift.n_unc": 0,
        "drift.alpha_max": 1.0,
        "drift.bank_per_class": 64,
        "drift.bank_global": 0,
        "drift.bank_push": 8,
        "model.hidden_size": 256,
        "model.depth": 6,
        "model.num_heads": 8,
        "model.patch_size": 4,
        "model.n_cls_tokens": 8,
        "model.use_bf16": False,
    },
}
FLAGS = (
    Key("setting", "", f"one of {', '.join(SETTINGS)}: its values hold where no flag is given"),
    Key("rounds", 5, "rounds of timing; the median is reported", "[1, inf)"),
    Key("steps", 10, "steps in a round", "[1, inf)"),
    Key("classes", 10, "classes of the stand-in data", "[1, inf)"),
    Key("samples_per_class", 128, "samples per class of the stand-in data", "[1, inf)"),
    Key("size", 8, "side of the stand-in images", "[1, inf)"),
    Key("channels", 1, "their channels; 4: latents, float32", "[1, inf)"),
    Key(
        "random_encoder",
        False,
        "random weights of the size that --encoder.name and --encoder.path say, which are not fetched",
    ),
    Key(
        "random_mae",
        "",
        "an MAE encoder by its base width and residual blocks a stage, such as 32,2,2,2,2",
    ),
)


class Noise:
    """Random access over uniform noise, the same for every index; of latents as numbers between -2 and 2."""

    def __init__(self, count, classes, shape, dtype="uint8"):
        self.count, self.classes = count, classes
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self.image = image if dtype == "uint8" else (image / 64 - 2).astype(dtype)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": np.roll(self.image, index), "label": index % self.classes}


def describe_mae(text: str, channels: int, folder: str) -> None:
    """Writes the description of an MAE of that width and these blocks to `folder`."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*){4}", text):
        raise UserError(
            f"--random_mae {text}: expected the base width and the blocks of four stages, such as 32,2,2,2,2"
        )
    width, *layers = (int(n) for n in text.split(","))
    model = MAE(channels, width, 2, tuple(layers), 1, 0.0, False, 1000)
    facts = {"model_config": {name: getattr(model, name) for name in mae_fields()}}
    (pathlib.Path(folder) / "metadata.json").write_text(json.dumps(facts))


def full_bank(parts):
    """A bank whose every place holds noise."""
    bank, random = (
        parts.empty_bank(),
        np.random.default_rng(0),
    )
    noise = lambda a: (
        random.integers(0, 256, a.shape, np.uint8)
        if a.dtype == np.uint8
        else random.random(a.shape, np.float32) * 4 - 2
    )
    samples, pool = jax.tree.map(noise, (bank.samples, bank.pool))
    bank.counters.filled[:], bank.counters.pool_filled[...] = bank.sizes
    return bank.replace(samples=samples, pool=pool)


def program(parts, state, bank, fresh, frozen):
    return drift.make_step(parts).lower(state, bank, fresh, frozen)


def peak_bytes(device) -> int:
    """Greatest memory so far: of the device, or of this process where the device is the CPU."""
    stats = device.memory_stats()
    return (
        stats["peak_bytes_in_use"]
        if stats
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )


def chosen(flag_values):
    """(the benchmark's own flags, the configuration), by the setting and the command line over it."""
    flags, given = config_lib.all_flags(flag_values), config_lib.given_flags(flag_values)
    if flags.setting and flags.setting not in SETTINGS:
        raise UserError(f"--setting {flags.setting}: expected one of {', '.join(SETTINGS)}")
    values = SETTINGS.get(flags.setting, {}) | given
    with flags.unlocked():
        flags.update({name: value for name, value in values.items() if name not in config_lib.KEYS})
    return flags, config_lib.resolve(
        {name: value for name, value in values.items() if name in config_lib.KEYS}
    )


def main(flag_values):
    setup_logging()
    keep_freed_memory()
    flags, config = chosen(flag_values)
    shape = (flags["size"], flags["size"], flags.channels)
    counts, dtype = (
        (flags.samples_per_class,) * flags.classes,
        "float32" if flags.channels == 4 else "uint8",
    )
    dataset = Dataset(
        "noise",
        "train",
        Noise(sum(counts), flags.classes, shape, dtype),
        shape,
        dtype,
        tuple(map(str, range(flags.classes))),
        counts,
    )
    if config.drift.bank_placement == "host":
        raise UserError(
            "--drift.bank_placement host: the benchmark times the step with the bank on the device; leave it out"
        )
    mesh = sharding.make_mesh(config.mesh.devices, config.mesh.fsdp)
    with tempfile.TemporaryDirectory() as folder, config.unlocked():
        if flags.random_mae:
            describe_mae(flags.random_mae, flags.channels, folder)
            config.encoder.name, config.encoder.path = "mae", folder
        parts = drift.build(
            config,
            dataset,
            mesh,
            **({"load_encoder": load_random} if flags.random_encoder or flags.random_mae else {}),
        )
    state, bank = drift.make_state(parts), full_bank(parts)
    bank, frozen = jax.device_put((bank, parts.encoder_params), sharding.replicated(mesh))
    n, stream = config.drift.bank_push, None
    reals = np.zeros((n, *shape), dtype), np.arange(n, dtype=np.int32) % flags.classes
    if not parts.whole_bank and not hasattr(sys.modules["grain"], "missing"):
        stream = pipeline.stream(dataset, 0, n, workers=config.data.workers)
    next_reals = lambda: (
        None
        if parts.whole_bank
        else jax.device_put(next(stream) if stream else reals, sharding.replicated(mesh))
    )
    fresh = next_reals()

    begin = time.perf_counter()
    lowered = program(parts, state, bank, fresh, frozen)
    traced = time.perf_counter()
    step = lowered.compile()
    trace_s, compile_s = traced - begin, time.perf_counter() - traced
    unrolled = dataclasses.replace(parts, model=parts.model.clone(unroll=parts.model.depth))
    flops = program(unrolled, state, bank, fresh, frozen).cost_analysis()["flops"]
    memory = step.memory_analysis()
    device = mesh.devices.flat[0]
    products = matmul_flops(drift.jit_step(parts).trace(state, bank, fresh, frozen).jaxpr)
    chip = CHIPS.get(device.device_kind)

    rates, times, waits, hosts = [], [], [], []
    for _ in range(flags.rounds + 1):
        begin, waited = time.perf_counter(), 0.0
        for _ in range(flags.steps):
            before = time.perf_counter()
            fresh = next_reals()
            waited += time.perf_counter() - before
            state, bank, metrics = step(state, bank, fresh, frozen)
        waits.append(waited / flags.steps)
        hosts.append((time.perf_counter() - begin) / flags.steps - waits[-1])
        jax.block_until_ready((state, metrics))
        times.append((time.perf_counter() - begin) / flags.steps)
        rates.append(matmul_rate(jnp.bfloat16 if config.model.use_bf16 else jnp.float32))
    seconds, rate = float(np.median(times[1:])), float(np.median(rates[1:]))
    print(
        json.dumps(
            {
                "recipe": flags.setting or config.recipe,
                "device": device.device_kind,
                "devices": mesh.size,
                "jax": jax.__version__,
                "trace_s": round(trace_s, 2),
                "compile_s": round(compile_s, 2),
                "step_ms": round(1e3 * seconds, 2),
                "images_per_s": round(config.batch_size / seconds, 1),
                "gflop_per_step": round(flops / 1e9, 3),
                "matmul_gflop_per_s": round(rate / 1e9, 1),
                "share_of_matmul_rate": round(flops / seconds / rate / mesh.size, 3),
                "matmul_gflop_per_step": round(products / 1e9, 3),
                "mfu": round(products / seconds / chip.flops / mesh.size, 3)
                if chip and config.model.use_bf16
                else None,
                "data_wait_ms": round(1e3 * float(np.median(waits[1:])), 3) if stream else None,
                "host_ms": round(1e3 * float(np.median(hosts[1:])), 3),
                "accumulate": config.optim.accumulate,
                "attention": config.model.attention,
                "arguments_mb": round(memory.argument_size_in_bytes / 1e6, 1),
                "temporary_mb": round(memory.temp_size_in_bytes / 1e6, 1),
                "peak_mb": round(peak_bytes(device) / 1e6, 1),
            }
        )
    )


if __name__ == "__main__":
    config_lib.define_flags(extra=FLAGS)
    config_lib.run_main(main)
