"""What a training step costs on the devices at hand.

    python benchmarks/step.py --recipe digits          any recipe, with any flag of train_drift.py
    python benchmarks/step.py --setting encoder        a small DiT in a random MAE's features
    python benchmarks/step.py --setting pixels         a DiT of 9M parameters in raw pixels
    python benchmarks/step.py --recipe digits --against "optim.accumulate=2 model.remat=1"

Data and the weights of --random_encoder and --random_mae are random. One line of JSON at the end:

    trace_s, compile_s     seconds to trace the step, and to compile it
    step_ms, images_per_s  of the whole step
    host_ms                what a step takes of the Python thread; on one CPU device that is all
    data_wait_ms           how long a step waits for new reals of the bank, which are read and
                           shuffled by the real input pipeline; null where none are read
    gflop_per_step         XLA's count for the same step with the layers unrolled, since it counts a
                           loop as one turn
    matmul_gflop_per_step  the matrix products of the traced program, loops included
    matmul_gflop_per_s     the rate of matrix products on this device, in turn with the step
    share_of_matmul_rate   of all FLOPs in this rate
    mfu                    of the matrix products in the data sheet's rate, in bfloat16
    arguments_mb, temporary_mb, peak_mb    memory; the peak is that of the whole process on a CPU
    bank_mb                one copy of the bank: samples, or their features
    first_loss             for comparisons: the same step on the same data gives the same number
    peers                  recorded figures of other programs for the same setting

With --against a second step, of the same flags but for those named, takes turns with the first. Its
figures are in `against`, and `times_as_fast` says what the first one gains. Both banks are then
filled from the data as in a run, so that the first losses can be compared.
"""

import dataclasses
import json
import logging
import pathlib
import re
import statistics
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.frame import (
    PEERS,
    PORT,
    beside_peers,
    noise_dataset,
    peak_bytes,
    print_line,
    time_in_turn,
)
from configs.default import Key
from drifting.bank import Bank
from models.encoders import load_encoder
from models.mae import MAE, mae_fields
from models.standin import load_random
from training import drift
from training.drift_parts import DriftParts
from training.drift_state import make_state
from training.fill_bank import fill_bank
from training.flow_parts import FlowParts
from training.reals import next_reals, put_bank, stream_reals
from utils import config as config_lib
from utils import sharding
from utils.chips import CHIPS
from utils.errors import UserError
from utils.flops import matmul_flops
from utils.logging import setup_logging
from utils.memory import keep_freed_memory

log = logging.getLogger("benchmark")

# ---------------------------------------------------------------- settings and flags

SETTINGS = {
    # 4 classes of 8 generated, 8 positive and 4 unconditional samples; an MAE of base width 32
    # with two blocks a stage, and all feature sets of A.5.
    "encoder": {
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
    "pixels": {"recipe": "none", "size": 32, "channels": 1} | PORT,
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
        "random weights of the size that --encoder.name and --encoder.path say, which are not "
        "fetched",
    ),
    Key(
        "random_mae",
        "",
        "an MAE encoder by its base width and residual blocks a stage, such as 32,2,2,2,2",
    ),
    Key("against", "", "flags of a second step, such as 'encoder.cache=off model.remat=1'"),
)


def choose_settings(flag_values: Any) -> tuple[Any, list[Any]]:
    """Returns the flags of this program, and the configuration of each step.

    The command line goes over --setting, and --against over the command line.
    """
    flags: Any = config_lib.all_flags(flag_values)
    if flags.setting and flags.setting not in SETTINGS:
        raise UserError(f"--setting {flags.setting}: expected one of {', '.join(SETTINGS)}")
    values = SETTINGS.get(flags.setting, {}) | config_lib.given_flags(flag_values)
    of_run = {name: value for name, value in values.items() if name in config_lib.KEYS}
    with flags.unlocked():
        flags.update({name: value for name, value in values.items() if name not in of_run})

    configs: list[Any] = [config_lib.resolve(of_run)]
    if flags.against:
        configs.append(config_lib.resolve(of_run | second_flags(flags.against)))
    return flags, configs


def second_flags(text: str) -> dict[str, str]:
    """Returns {name: value} of --against. Raises UserError for a word that is not NAME=VALUE."""
    pairs = [word.removeprefix("--").partition("=") for word in text.split()]
    for name, equals, value in pairs:
        if not (equals and value):
            raise UserError(f"--against {text}: {name} has no value; expected NAME=VALUE")
    return {name: value for name, _, value in pairs}


# ---------------------------------------------------------------- the step


class Step:
    """A compiled step that can be called again and again, and what is known of it.

    Args:
        config: of the run.
        flags: of this program.
        filled: whether the bank is filled from the data, as in a run, or with noise.
    """

    def __init__(self, config: Any, flags: Any, filled: bool):
        self.config = config
        self.parts = parts = build_parts(config, flags)
        if parts.bank_on_host:
            raise UserError(
                "the bank is in host memory, and the benchmark times a step with it on the device; "
                "give --drift.bank_placement device"
            )
        whole = sharding.replicated(parts.mesh)
        self.encoder_params = jax.device_put(parts.encoder_params, whole)
        self.state = make_state(parts)
        self.bank = put_bank(parts, fill_bank(parts)[0] if filled else bank_of_noise(parts))
        self.stream = None if parts.whole_bank else stream_reals(parts, 0)
        self.first_metrics: Any = None
        self.waits, self.hosts = [], []  # seconds of each step: for data, and of the Python thread
        self._compile()

    def _compile(self) -> None:
        arguments = (self.state, self.bank, self.next_reals(), self.encoder_params)
        step: Any = drift.jit_step(self.parts)
        log.info("tracing the step")
        begin = time.perf_counter()
        lowered = step.lower(*arguments)
        traced = time.perf_counter()
        log.info("compiling it")
        self.compiled = lowered.compile()
        self.compile_s = time.perf_counter() - traced
        self.trace_s = traced - begin
        log.info("traced in %.1f s, compiled in %.1f s", self.trace_s, self.compile_s)

        self.matmul_flops = matmul_flops(step.trace(*arguments).jaxpr)
        model = self.parts.model
        unrolled = dataclasses.replace(self.parts, model=model.clone(unroll=model.depth))
        in_one_piece: Any = drift.jit_step(unrolled)
        self.flops = in_one_piece.lower(*arguments).cost_analysis()["flops"]

    def next_reals(self) -> Any:
        return next_reals(self.parts, self.stream)

    def __call__(self) -> Any:
        """Takes one step, without waiting for the device."""
        begin = time.perf_counter()
        fresh = self.next_reals()
        ready = time.perf_counter()
        result = self.compiled(self.state, self.bank, fresh, self.encoder_params)
        self.state, self.bank, metrics = result
        self.waits.append(ready - begin)
        self.hosts.append(time.perf_counter() - ready)
        if self.first_metrics is None:
            self.first_metrics = metrics
        return self.state, metrics

    def figures(self, seconds: float, matmul_rate: float, calls: int) -> dict[str, Any]:
        """Returns what this program reports.

        Args:
            seconds: of a step.
            matmul_rate: FLOP/s of matrix products on one device.
            calls: how many steps count, of the last ones.
        """
        config, device = self.config, self.parts.mesh.devices.flat[0]
        chip, devices = CHIPS.get(device.device_kind), self.parts.mesh.size
        memory = self.compiled.memory_analysis()
        mfu = wait_ms = None
        if chip and config.model.use_bf16:
            mfu = self.matmul_flops / seconds / chip.flops / devices
        if self.stream:
            wait_ms = 1e3 * statistics.median(self.waits[-calls:])
        return {
            "device": device.device_kind,
            "devices": devices,
            "jax": jax.__version__,
            "trace_s": self.trace_s,
            "compile_s": self.compile_s,
            "step_ms": 1e3 * seconds,
            "images_per_s": config.batch_size / seconds,
            "gflop_per_step": self.flops / 1e9,
            "matmul_gflop_per_s": matmul_rate / 1e9,
            "share_of_matmul_rate": self.flops / seconds / matmul_rate / devices,
            "matmul_gflop_per_step": self.matmul_flops / 1e9,
            "mfu": mfu,
            "data_wait_ms": wait_ms,
            "host_ms": 1e3 * statistics.median(self.hosts[-calls:]),
            "accumulate": config.optim.accumulate,
            "attention": config.model.attention,
            "arguments_mb": memory.argument_size_in_bytes / 1e6,
            "temporary_mb": memory.temp_size_in_bytes / 1e6,
            "peak_mb": peak_bytes(device) / 1e6,
            "bank_mb": self.parts.bank_bytes / 1e6,
            "first_loss": float(self.first_metrics["loss"]),
        }


def build_parts(config: Any, flags: Any) -> DriftParts | FlowParts:
    """Returns the parts of a run on noise."""
    shape = (flags["size"], flags["size"], flags.channels)
    dataset = noise_dataset(shape, flags.classes, flags.samples_per_class)
    mesh = sharding.make_mesh(config.mesh.devices, config.mesh.fsdp)
    random = flags.random_encoder or flags.random_mae
    load = load_random if random else load_encoder
    with tempfile.TemporaryDirectory() as folder, config.unlocked():
        if flags.random_mae:
            describe_mae(flags.random_mae, flags.channels, pathlib.Path(folder))
            config.encoder.name, config.encoder.path = "mae", folder
        return drift.build(config, dataset, mesh, load_encoder=load)


def describe_mae(sizes: str, channels: int, folder: pathlib.Path) -> None:
    """Writes the description of an MAE to a folder.

    Args:
        sizes: its base width and the blocks of its four stages, such as "32,2,2,2,2".
        channels: of its images.
        folder: where to write metadata.json.
    """
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*){4}", sizes):
        raise UserError(
            f"--random_mae {sizes}: expected the base width and the blocks of four stages, such as "
            "32,2,2,2,2"
        )
    width, *layers = map(int, sizes.split(","))
    model = MAE(
        in_channels=channels,
        base_channels=width,
        patch_size=2,
        layers=tuple(layers),
        input_patch_size=1,
        dropout_prob=0.0,
        use_bf16=False,
        num_classes=1000,
    )
    model_config = {name: getattr(model, name) for name in mae_fields()}
    facts = {"kind": "mae", "model_config": model_config}
    (folder / "metadata.json").write_text(json.dumps(facts))


def bank_of_noise(parts: DriftParts | FlowParts) -> Bank:
    """Returns a bank whose every slot holds noise; filling it so takes no encoder."""
    random = np.random.default_rng(0)

    def noise(array: np.ndarray) -> np.ndarray:
        if array.dtype == np.uint8:
            return random.integers(0, 256, array.shape, np.uint8)
        return random.random(array.shape, np.float32) * 4 - 2

    bank = parts.empty_bank()
    samples, pool = jax.tree.map(noise, (bank.samples, bank.pool))
    bank.counters.filled[:] = bank.sizes.per_class
    bank.counters.pool_filled[...] = bank.sizes.pool
    return bank.replace(samples=samples, pool=pool)


# ---------------------------------------------------------------- the program


def main(flag_values):
    setup_logging()
    keep_freed_memory()
    flags, configs = choose_settings(flag_values)
    names = ("first", "second")[: len(configs)]
    steps = {
        name: Step(config, flags, filled=bool(flags.against))
        for name, config in zip(names, configs, strict=True)
    }
    dtype = jnp.bfloat16 if configs[0].model.use_bf16 else jnp.float32
    timing = time_in_turn(steps, flags.rounds, flags.steps, dtype)

    counted = flags.rounds * flags.steps
    rows = {
        name: step.figures(timing.median(name), timing.matmul_rate, counted)
        for name, step in steps.items()
    }
    line = {"recipe": flags.setting or configs[0].recipe} | rows["first"]
    if flags.against:
        line["against"] = {"flags": flags.against} | rows["second"]
        line["times_as_fast"] = timing.median("second") / timing.median("first")
    if flags.setting in PEERS and jax.default_backend() == "cpu":
        line["peers"] = beside_peers(
            PEERS[flags.setting], timing.median("first"), timing.matmul_rate
        )
    print_line(line)


if __name__ == "__main__":
    config_lib.define_flags(extra=FLAGS)
    config_lib.run_main(main)
