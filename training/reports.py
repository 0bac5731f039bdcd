"""What a run takes, known before it starts: the text that a dry run prints."""

import inspect
from typing import Any, get_args

import jax

import data
from drifting.config import DriftConfig
from drifting.fields import FIELDS
from drifting.state import TrainState
from models.dit import AttentionKernel, DiT
from models.generator import count_parameters
from training.drift_parts import DriftParts
from training.flow_parts import FlowParts
from training.mae_parts import MAEParts
from utils.memory import bytes_on_a_device

# In words, the places of `training.resolve_bank.place_of_bank`.
PLACES = {
    "device": "on each device",
    "divided": "divided over the devices",
    "host": "in host memory",
}


def drift_report(parts: DriftParts | FlowParts, shapes: TrainState) -> str:
    """Returns the report of a generator's training. shapes: of its state, with shardings."""
    config = parts.config
    rows = {
        "data": describe_data(parts.dataset),
        "generator": f"{config.model.name}, {count_parameters(shapes.params):,} parameters",
        **attention_row(parts),
        "step": describe_step(parts),
        "steps": f"{config.max_steps:,}",
        "devices": describe_devices(parts.mesh),
        "per device": describe_memory(shapes),
    }
    if isinstance(parts, DriftParts):
        rows["field"] = describe_field(parts.drift, shapes)
    rows["bank"] = describe_bank(parts)
    return table(rows)


def mae_report(parts: MAEParts, shapes: TrainState) -> str:
    """Returns the report of an encoder's training. shapes: of its state, with shardings."""
    config = parts.config
    steps = f"{config.max_steps:,}"
    if config.mae.finetune_steps:
        steps += f", with the classifier from step {parts.step.finetune_from:,} on"
    encoder = f"{count_parameters(shapes.params):,} parameters, "
    encoder += f"of which {count_parameters(shapes.params['encoder']):,} encode"
    rows = {
        "data": describe_data(parts.dataset),
        "encoder": f"masked autoencoder, {encoder}",
        "steps": steps,
        "devices": describe_devices(parts.mesh),
        "per device": describe_memory(shapes),
    }
    return table(rows)


def table(rows: dict[str, str]) -> str:
    """Returns the rows as lines of two columns."""
    return "\n".join(f"{name:12}{text}" for name, text in rows.items())


# ---- the rows of both ----


def describe_data(dataset: data.Dataset) -> str:
    """Returns the name, the number of samples, their shape [H, W, C], and the classes."""
    size = f"{len(dataset.samples):,} samples of {dataset.shape}"
    if dataset.condition_width:
        return f"{dataset.name}: {size}, with conditions of {dataset.condition_width} numbers"
    return f"{dataset.name}: {size}, {dataset.n_classes} classes"


def describe_devices(mesh: jax.sharding.Mesh) -> str:
    """Returns the number and kind of the devices, and how the mesh divides them."""
    kind = mesh.devices.flat[0].device_kind
    axes = f"mesh data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}"
    return f"{mesh.size} x {kind}, {axes}"


def describe_memory(shapes: TrainState) -> str:
    """Returns the memory of a state on each device."""
    params = megabytes_per_device(shapes.params)
    optimizer = megabytes_per_device(shapes.opt_state)
    averages = megabytes_per_device(shapes.ema)
    return f"parameters {params}, optimiser {optimizer}, {len(shapes.ema)} EMA {averages}"


def megabytes_per_device(tree: Any) -> str:
    """Returns the memory of arrays, or of shapes with shardings, on each device."""
    return f"{bytes_on_a_device(tree) / 1e6:.1f} MB"


# ---- the rows of a generator's training ----


def describe_step(parts: DriftParts | FlowParts) -> str:
    """Returns how many samples a step takes, of which kind, and where they are."""
    if isinstance(parts, FlowParts):
        return f"{parts.config.batch_size} samples of a rectified flow"
    drift = parts.drift
    samples = f"{drift.n_neg} generated, {drift.n_pos} positive, {drift.n_unc} unconditional"
    kind = "conditions" if parts.dataset.condition_width else "classes"
    groups = ""
    if drift.joint:
        groups = f" in one group, the conditions with weight {drift.joint:g}"
    if drift.groups > 1:
        groups = f" in {drift.groups} groups"
    if drift.row_parts > 1:
        rows = drift.n_neg // drift.row_parts
        groups = f" in {drift.row_parts} parts of {rows} generated of each class"
    return f"{drift.n_c} {kind} x ({samples}){groups}; {parts.layout}"


def attention_row(parts: DriftParts | FlowParts) -> dict[str, str]:
    """Returns {"attention": the kernel and the flag that asks for one}; {} without attention."""
    model = parts.model
    if not isinstance(model, DiT):
        return {}
    device = parts.mesh.devices.flat[0]
    kernel = model.kernel_on(device)
    text = f"{kernel}, as --model.attention asks"
    if model.attention == "auto":
        others = [name for name in get_args(AttentionKernel) if name not in ("auto", kernel)]
        text = f"{kernel}, which auto takes here ({device.device_kind}); "
        text += f"--model.attention {' or '.join(others)} asks for another"
    return {"attention": text}


def describe_field(drift: DriftConfig, shapes: TrainState) -> str:
    """Returns the name of the drifting field, and what is unusual about it."""
    name = str(drift.field)
    words = [name]
    usual = inspect.signature(FIELDS[name].field).parameters
    for option, value in drift.field_options.items():
        if value != usual[option].default:
            words.append(f"{option} {value}")
    if shapes.field:
        words.append(drift.memory.describe(shapes.field))
    start, end = drift.temperature_factors
    if start != end:
        words.append(f"temperatures times {start:g} to {end:g}")
    if drift.second_batch:
        words.append("a second generated batch")
    return ", ".join(words)


def describe_bank(parts: DriftParts | FlowParts) -> str:
    """Returns the size of the bank of real samples, what it stores, and where it is."""
    size = f"{parts.bank_bytes / 1e6:.1f} MB"
    stored = "features" if parts.cached else "samples"
    if isinstance(parts, DriftParts) and not parts.encode:  # a dry run does not load the encoder
        stored += " (of features, if they are kept, which takes the encoder to know)"
    place = PLACES[parts.bank_place]
    if parts.bank_place == "divided":
        place += f", {bytes_on_a_device(parts.bank_shapes) / 1e6:.1f} MB on each"
    return f"{size} of {stored} {place}"
