"""Will it fit, how fast will it be, how long will it take? Compiles the real train step for devices that need not be there.

    python scripts/plan.py --recipe imagenet256_B --stand_in latents --target tpu:v6e:8x8,tpu:v5e:16x16
    python scripts/plan.py --dataset_name digits                     for the devices of this machine

TPU targets take libtpu (pip install -r requirements-plan.txt), no TPU: tpu:VERSION:TOPOLOGY with v4, v5e, v5p or v6e, as Google Cloud names them. Nothing is read, fetched or
run: data sets and encoders are known by their shapes. All flags of train_drift.py hold. Exit code 0: fits every target; 1: does not fit one, or its memory is not known; 2: a mistake.

A TPU program is compiled until its buffers have their places, which says what the memory holds and what travels; with --full to its end, several times as long, for the
compiler's own estimate of the time.
"""

import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import jax.numpy as jnp
import numpy as np

import data
from configs.default import Key
from drifting.bank import Batch
from models.standin import load_shapes
from planning.cost import CHIPS, GIB, matmul_flops, tree_bytes
from planning.hlo import (
    allocations,
    collective_traffic,
    estimated_cycles,
    memory_traffic,
    sent_bytes,
)
from training import drift
from utils import config as config_lib
from utils import sharding
from utils.errors import UserError
from utils.logging import setup_logging

FLAGS = (
    Key(
        "target",
        "local",
        "what to plan for: local, or tpu:VERSION:TOPOLOGY; several, separated by commas, make a table",
    ),
    Key(
        "stand_in",
        "",
        "stand-in for a data set that is not here: latents (32x32x4, 1000 classes), or HEIGHTxWIDTHxCHANNELSxCLASSES; empty = --dataset_name",
    ),
    Key("samples", 1_281_167, "samples of the stand-in", "[1, inf)"),
    Key(
        "mfu",
        0.4,
        "share of the matrix units' rate that the expected speed assumes at most",
        "(0, 1]",
    ),
    Key("full", False, "TPU: compile to the end, for the compiler's estimate of the time"),
    Key("json", "", "also write all figures to this file"),
)


def devices_of(target: str):
    """The devices of a target, real or described."""
    if target == "local":
        return jax.devices()
    kind, _, name = target.partition(":")
    if kind != "tpu" or not re.fullmatch(r"v\w+:\d+x\d+(x\d+)?", name):
        raise UserError(
            f"--target {target}: expected local, or tpu:VERSION:TOPOLOGY such as tpu:v6e:8x8 or tpu:v4:4x4x4"
        )
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }  # no TPU is asked for its place, or taken
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError(
            f"--target {target}: libtpu is not installed; pip install -r requirements-plan.txt"
        ) from None
    from jax.experimental import topologies

    options = (
        {"chip_config_name": "megacore"} if name.startswith("v4") else {}
    )  # two cores of a v4 chip work as one
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except Exception as error:  # of the compiler, in its own words
        raise UserError(
            f"--target {target}: {str(error).splitlines()[0][:200]}; expected a topology of v4, v5e, v5p or v6e, such as v6e:8x8"
        ) from None


def stand_in(flags, config) -> data.Dataset:
    """The data set by its facts."""
    if not flags.stand_in:
        return data.load(config.dataset_name, config.data.split, config.data, facts_only=True)
    words = "32x32x4x1000" if flags.stand_in == "latents" else flags.stand_in
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){3}", words):
        raise UserError(
            f"--stand_in {flags.stand_in}: expected latents, or HEIGHTxWIDTHxCHANNELSxCLASSES such as 256x256x3x1000"
        )
    *shape, classes = map(int, words.split("x"))
    if flags.samples < classes:
        raise UserError(
            f"--samples {flags.samples}: expected at least one for each of the {classes} classes of --stand_in {flags.stand_in}"
        )
    counts = (flags.samples // classes,) * classes
    return data.Dataset(
        "stand-in",
        "train",
        range(flags.samples),
        tuple(shape),
        "float32" if shape[2] == 4 else "uint8",
        tuple(map(str, range(classes))),
        counts,
    )


def inputs(parts, state):
    """What the step takes, as shapes with their places."""
    everywhere = sharding.replicated(parts.mesh)
    put = lambda tree, where: jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), tree
    )
    c, shape, dtype = parts.drift, parts.dataset.shape, np.dtype(parts.dataset.dtype)
    encoder = put(parts.encoder_params, everywhere)
    if parts.bank_on_host:
        s = lambda shape, dtype: jax.ShapeDtypeStruct((c.groups, c.n_c // c.groups, *shape), dtype)
        kept = parts.stored if parts.cached else jax.ShapeDtypeStruct(shape, dtype)
        reals = lambda n: jax.tree.map(lambda a: s((n, *a.shape), a.dtype), kept)
        batch = Batch(
            s((), jnp.int32),
            s((), jnp.float32),
            reals(c.n_pos),
            s((c.n_pos,), jnp.float32),
            reals(c.n_unc),
        )
        return state, put(batch, parts.layout.groups_sharding), encoder
    bank = put(
        jax.eval_shape(parts.empty_bank),
        everywhere,
    )
    n = parts.config.drift.bank_push
    fresh = (
        None
        if parts.whole_bank
        else put(
            (jax.ShapeDtypeStruct((n, *shape), dtype), jax.ShapeDtypeStruct((n,), jnp.int32)),
            everywhere,
        )
    )
    return state, bank, fresh, encoder


def plan(flags, config, target: str) -> dict:
    """The figures of one target, per chip unless their name says otherwise."""
    devices = devices_of(target)
    if config.mesh.devices:
        devices = devices[: config.mesh.devices]
    mesh = sharding.mesh_from_devices(devices, config.mesh.fsdp)
    parts = drift.build(config, stand_in(flags, config), mesh, load_encoder=load_shapes)
    state = drift.state_shapes(parts)
    arguments = inputs(parts, state)
    kind, n = devices[0].device_kind, len(devices)
    chip, memory, begin = (
        CHIPS.get(kind),
        memory_of(devices[0], len(mesh.local_devices)),
        time.perf_counter(),
    )
    traced = drift.jit_step(parts).trace(*arguments)
    out = {
        "target": target,
        "device": kind,
        "chips": n,
        "recipe": config.recipe,
        "fsdp": config.mesh.fsdp,
        "generated": config.batch_size,
        "bank": "host" if parts.bank_on_host else "chip",
        "memory_gib": round(memory / GIB, 2) if memory else None,
        "parameters_gib": tree_bytes(state.params) / GIB,
        "optimizer_gib": tree_bytes(state.opt_state) / GIB,
        "ema_gib": tree_bytes(state.ema) / GIB,
        "encoder_gib": tree_bytes(arguments[-1]) / GIB,
        "bank_gib": 0.0 if parts.bank_on_host else tree_bytes(arguments[1]) / GIB,
        "tflop": matmul_flops(traced.jaxpr) / n / 1e12,
    }
    lowered = traced.lower(lowering_platforms=("tpu",) if target != "local" else None)
    try:
        text, compiled, needed, temporary = (compile_here if target == "local" else compile_tpu)(
            lowered, flags.full
        )
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed, held = (
            needed_by_error(str(error)),
            sum(
                out[f"{name}_gib"] for name in ("parameters", "optimizer", "ema", "encoder", "bank")
            ),
        )
        size = {"needed_gib": needed, "temporary_gib": needed - held} if needed else {}
        return out | size | {"plan_s": time.perf_counter() - begin, "fits": False}
    traffic, moved = collective_traffic(text), memory_traffic(text)
    out |= {
        "plan_s": time.perf_counter() - begin,
        "temporary_gib": temporary / GIB,
        "needed_gib": needed / GIB,
        "fits": needed <= memory if memory else None,
        "memory_traffic_gib": moved / GIB,
        "collective_gib": sum(size for _, size in traffic.values()) / GIB,
        "collectives": {
            name: {"count": int(count), "gib": size / GIB}
            for name, (count, size) in traffic.items()
        },
    }
    if compiled:
        cost = compiled.cost_analysis() or {}
        out |= {
            f"compiler_{name}_loops_once": cost.get(key, math.nan)
            for name, key in (
                ("flops", "flops"),
                ("bytes", "bytes accessed"),
                ("s", "optimal_seconds"),
            )
        }
    if chip:
        cycles = estimated_cycles(text)
        estimate = cycles / chip.clock if cycles and chip.clock else None
        out |= {
            "compiler_s": estimate,
            "matrix_s": out["tflop"] * 1e12 / chip.flops,
            "memory_s": moved / chip.bandwidth,
            "network_s": sent_bytes(traffic) / chip.network,
        }
        seconds = max(
            out["matrix_s"] / flags.mfu, out["memory_s"], out["network_s"], estimate or 0.0
        )
        out |= {
            "expected_s": seconds,
            "images_per_s": config.batch_size / seconds,
            "days": seconds * config.max_steps / 86400,
        }
    return out


def memory_of(device, sharing: int) -> float | None:
    """Bytes that a device has for programs: by the data sheet, or what it says itself; of a CPU its part of the machine's. None: not known."""
    if device.device_kind in CHIPS:
        return CHIPS[device.device_kind].memory
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / sharing
    return (device.memory_stats() or {}).get("bytes_limit")


def compile_here(lowered, full):
    """(text of the compiled program, the program, bytes that it needs of a device, bytes of them for temporaries)."""
    compiled = lowered.compile()
    m = compiled.memory_analysis()
    needed = (
        m.argument_size_in_bytes
        + m.temp_size_in_bytes
        + m.output_size_in_bytes
        - m.alias_size_in_bytes
        + m.generated_code_size_in_bytes
    )
    return compiled.as_text(), compiled, needed, m.temp_size_in_bytes


def compile_tpu(lowered, full):
    """The same by the TPU compiler's dumps, which it writes before it generates code: that, most of its time, goes on in a thread that ends with this process."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        done = []

        def compile():
            try:
                done.append(lowered.compile(compiler_options={"xla_dump_to": folder}))
            except Exception as error:
                done.append(error)

        found = lambda name: next(pathlib.Path(folder).glob(f"*.{name}.txt"), None)
        threading.Thread(target=compile, daemon=True).start()
        while not done and (full or not found("after_optimizations_after_buffer_assignment")):
            time.sleep(0.1)
        if done and isinstance(done[0], Exception):
            raise done[0]
        sizes = allocations(found("after_optimizations-buffer-assignment").read_text())
        text = done[0].as_text() if full else found("after_optimizations").read_text()
    return text, done[0] if full else None, sum(sizes.values()), sizes.get("temporary", 0)


def needed_by_error(message: str) -> float:
    """GiB that a program would take on a chip by the compiler's refusal, whose "temporaries" are all that it holds; 0 if it does not say."""
    found = re.search(
        r"HLO temporaries \(([\d.]+)([KMG])\) exceeds available HBM|Used ([\d.]+)([KMG]) of",
        message,
    )
    number, unit = (found[1] or found[3], found[2] or found[4]) if found else (0, "G")
    return float(number) * {"K": 2**-20, "M": 2**-10, "G": 1}[unit]


COLUMNS = {
    "target": "target",
    "chips": "chips",
    "fits": "fits",
    "needed_gib": "GiB needed",
    "memory_gib": "of",
    "temporary_gib": "temporary",
    "encoder_gib": "encoder",
    "parameters_gib": "params",
    "optimizer_gib": "optim.",
    "ema_gib": "EMA",
    "bank_gib": "bank",
    "tflop": "TFLOP",
    "memory_traffic_gib": "GiB moved",
    "collective_gib": "GiB in collectives",
    "matrix_s": "matrix s",
    "memory_s": "memory s",
    "network_s": "network s",
    "compiler_s": "compiler s",
    "expected_s": "expected s",
    "images_per_s": "images/s",
    "days": "days",
    "plan_s": "planned in s",
}


def table(rows: list[dict]) -> str:
    """As Markdown; a figure that is not known is a dash."""

    def show(value):
        if value is None or isinstance(value, float) and not math.isfinite(value):
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "NO"
        return (
            f"{value:,.0f}"
            if isinstance(value, float) and value >= 1000
            else f"{value:.3g}"
            if isinstance(value, float)
            else str(value)
        )

    lines = [list(COLUMNS.values()), ["---"] * len(COLUMNS)] + [
        [show(row.get(name)) for name in COLUMNS] for row in rows
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plan_alone(target: str, words: list[str]) -> dict:
    """`plan` of one of several targets, in a process of its own, with which its compiler ends."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        done = subprocess.run(
            [sys.executable, __file__, *words, "--target", target, "--json", file.name],
            stdout=subprocess.DEVNULL,
        )
        if done.returncode not in (0, 1):
            raise SystemExit(2)
        return json.loads(pathlib.Path(file.name).read_text())[0]


def main(flag_values):
    setup_logging()
    flags, config = config_lib.all_flags(flag_values), config_lib.resolve(flag_values)
    with config.unlocked():
        config.sample_interval = config.eval_interval = 0  # nothing is decoded or scored here
        config.model.use_stable_vae &= flags.stand_in != "latents"
    if flags.json and not pathlib.Path(flags.json).parent.is_dir():
        raise UserError(
            f"--json {flags.json}: there is no folder {pathlib.Path(flags.json).parent}; make it, or give another place"
        )
    targets = flags.target.split(",")
    rows = (
        [plan(flags, config, *targets)]
        if len(targets) == 1
        else [plan_alone(target, sys.argv[1:]) for target in targets]
    )
    for name, one in rows[0].get("collectives", {}).items() if len(rows) == 1 else ():
        print(f"{targets[0]}: {one['count']} {name}, {one['gib']:.3f} GiB", file=sys.stderr)
    print(table(rows), flush=True)
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(rows, indent=2) + "\n")
    sys.stderr.flush()
    os._exit(0 if all(row["fits"] for row in rows) else 1)  # the compiler may still be at work


if __name__ == "__main__":
    if not os.environ.get("JAX_PLATFORMS") and any("tpu:" in word for word in sys.argv):
        jax.config.update("jax_platforms", "cpu")  # libtpu looks for TPUs otherwise
    config_lib.define_flags(extra=FLAGS)
    config_lib.run_main(main)
