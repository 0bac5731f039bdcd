"""The figures of a run on given devices: memory, traffic, and the time that follows from them."""

import math
import time
from typing import Any

import jax

from configs.default import Key
from models.standin import load_shapes
from planning.compilation import Compiled, compile_for_absent, compile_here, needed_by_error
from planning.explain import explain
from planning.step_shapes import arguments, stand_in
from planning.targets import devices_of, platform_of
from planning.traffic import collective_traffic, estimated_cycles, memory_traffic, sent_bytes
from training import drift
from utils import sharding
from utils.chips import CHIPS, GIB, Chip, memory_of, network_of
from utils.errors import UserError
from utils.flops import matmul_flops
from utils.memory import bytes_on_a_device

FLAGS = (
    Key(
        "target",
        "local",
        "what to plan for: local, tpu:VERSION:TOPOLOGY, or gpu:NAME:COUNT; several, separated by "
        "commas, make a table",
    ),
    Key(
        "stand_in",
        "",
        "stand-in for a data set that is not here: latents (of ImageNet: 32x32x4, or 64x64x4 for a "
        "recipe of 512x512), or HEIGHTxWIDTHxCHANNELSxCLASSES; empty = --dataset_name",
    ),
    Key("samples", 1_281_167, "samples of the stand-in", "[1, inf)"),
    Key(
        "mfu",
        0.4,
        "share of the matrix units' rate that the expected speed assumes at most",
        "(0, 1]",
    ),
    Key("full", False, "compile to the end, for the TPU compiler's estimate of the time"),
    Key("explain", False, "also print where the bytes go, by the part of the program"),
    Key("json", "", "also write all figures to this file"),
)
# What a device holds between steps.
HELD = ("parameters", "optimizer", "ema", "encoder", "bank")


def plan(flags: Any, config: Any, target: str) -> dict[str, Any]:
    """Returns the figures of one target.

    Names end in the unit: _gib, _s; "tflop" is that of a step. All are per chip, but for "chips",
    "generated" (samples a step), "images_per_s" and "days".

    Args:
        flags: the values of `FLAGS`.
        config: of the run, after `leave_out_figures`.
        target: see `planning.targets.devices_of`.
    """
    parts = build_parts(flags, config, target)
    state = drift.state_shapes(parts)
    step_arguments = arguments(parts, state)
    devices = parts.mesh.devices.flat
    memory = memory_of(devices[0], len(parts.mesh.local_devices))

    begin = time.perf_counter()
    step: Any = drift.jit_step(parts)
    traced = step.trace(*step_arguments)
    figures = {
        "target": target,
        "device": devices[0].device_kind,
        "chips": parts.mesh.size,
        "recipe": config.recipe,
        "fsdp": config.mesh.fsdp,
        "generated": config.batch_size,
        "bank": parts.bank_place,
        "memory_gib": round(memory / GIB, 2) if memory else None,
    }
    figures |= _held(parts, state, step_arguments)
    figures["tflop"] = matmul_flops(traced.jaxpr) / parts.mesh.size / 1e12
    try:
        compiled = compile_step(traced, target, flags.full)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        figures |= _refused(str(error), figures)
        return figures | {"plan_s": time.perf_counter() - begin, "fits": False}

    figures["plan_s"] = time.perf_counter() - begin
    figures |= _memory_and_traffic(compiled, memory)
    if flags.explain:
        figures["parts_gib"] = _in_gib(explain(compiled.text))
    if compiled.executable:
        figures |= _compilers_count(compiled.executable)
    chip = CHIPS.get(figures["device"])
    if chip:
        figures |= _times(chip, compiled.text, figures, flags.mfu)
        figures["images_per_s"] = config.batch_size / figures["expected_s"]
        figures["days"] = figures["expected_s"] * config.max_steps / 86400
    return figures


def leave_out_figures(flags: Any, config: Any) -> None:
    """Changes a configuration to what a plan needs: nothing is decoded, drawn or scored.

    A stand-in for latents needs no VAE, and a step is alike whatever weights it begins with. A dry
    run would be without an encoder, of which a plan takes the shapes.
    """
    with config.unlocked():
        config.dry_run = False
        config.sample_interval = config.eval_interval = 0
        if config.init_from.startswith("hf://"):
            config.init_from = ""  # nothing is fetched
        if flags.stand_in == "latents":
            config.model.use_stable_vae = False


def build_parts(flags: Any, config: Any, target: str) -> Any:
    """Returns the parts of a run on the devices of a target; encoders are known by their shapes."""
    devices = devices_of(target)
    if config.mesh.devices > len(devices):
        raise UserError(
            f"--mesh.devices {config.mesh.devices}: {target} has {len(devices)}; give a larger "
            "target, or leave it out"
        )
    if config.mesh.devices:
        devices = devices[: config.mesh.devices]
    mesh = sharding.mesh_from_devices(devices, config.mesh.fsdp)
    return drift.build(config, stand_in(flags, config), mesh, load_encoder=load_shapes)


def lower(traced: Any, target: str) -> Any:
    """Returns a traced program as the compiler of the target takes it."""
    platform = platform_of(target)
    return traced.lower(lowering_platforms=(platform,) if platform else None)


def compile_step(traced: Any, target: str, to_the_end: bool) -> Compiled:
    """Compiles a traced step for a target; absent ones `to_the_end`, or until memory is placed."""
    lowered, platform = lower(traced, target), platform_of(target)
    if platform is None:
        return compile_here(lowered)
    return compile_for_absent(lowered, platform, to_the_end)


# ---------------------------------------------------------------- memory


def _held(parts: Any, state: Any, step_arguments: tuple) -> dict[str, float]:
    """Returns the GiB of what a device holds between steps."""
    on_chip = not parts.bank_on_host
    return {
        "parameters_gib": bytes_on_a_device(state.params) / GIB,
        "optimizer_gib": bytes_on_a_device(state.opt_state) / GIB,
        "ema_gib": bytes_on_a_device(state.ema) / GIB,
        "encoder_gib": bytes_on_a_device(step_arguments[-1]) / GIB,
        "bank_gib": bytes_on_a_device(step_arguments[1]) / GIB if on_chip else 0.0,
    }


def _refused(message: str, figures: dict[str, Any]) -> dict[str, float]:
    """Returns what the compiler says of the memory of a program that does not fit."""
    needed = needed_by_error(message)
    if not needed:
        return {}
    held = sum(figures[f"{name}_gib"] for name in HELD)
    return {"needed_gib": needed, "temporary_gib": needed - held}


def _memory_and_traffic(compiled: Compiled, memory: float | None) -> dict[str, Any]:
    traffic = collective_traffic(compiled.text)
    collectives = {}
    for name, (count, size) in traffic.items():
        collectives[name] = {"count": int(count), "gib": size / GIB}
    return {
        "temporary_gib": compiled.temporary / GIB,
        "needed_gib": compiled.needed / GIB,
        "fits": compiled.needed <= memory if memory else None,
        "memory_traffic_gib": memory_traffic(compiled.text) / GIB,
        "collective_gib": sum(size for _, size in traffic.values()) / GIB,
        "collectives": collectives,
    }


def _in_gib(parts: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {way: size / GIB for way, size in part.items()} for name, part in parts.items()}


# ---------------------------------------------------------------- time


def _compilers_count(executable: Any) -> dict[str, float]:
    """Returns the compiler's own figures, in which every loop counts as one turn."""
    cost = executable.cost_analysis() or {}
    return {
        "compiler_flops_loops_once": cost.get("flops", math.nan),
        "compiler_bytes_loops_once": cost.get("bytes accessed", math.nan),
        "compiler_s_loops_once": cost.get("optimal_seconds", math.nan),
    }


def _times(chip: Chip, text: str, figures: dict[str, Any], mfu: float) -> dict[str, Any]:
    """Returns the seconds of a step: by each thing that limits it, and what is to be expected.

    Expected is the longest of these, where products reach the share `mfu` of the chip's rate. That
    the others go on beside the longest is a guess: it is a roofline, not a simulation.
    """
    cycles = estimated_cycles(text)
    by_compiler = cycles / chip.clock if cycles and chip.clock else None
    matrix = figures["tflop"] * 1e12 / chip.flops
    memory = figures["memory_traffic_gib"] * GIB / chip.bandwidth
    network = sent_bytes(collective_traffic(text)) / network_of(chip, figures["chips"])
    return {
        "compiler_s": by_compiler,
        "matrix_s": matrix,
        "memory_s": memory,
        "network_s": network,
        "expected_s": max(matrix / mfu, memory, network, by_compiler or 0.0),
    }
