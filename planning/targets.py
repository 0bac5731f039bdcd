"""The devices that a plan is for: this machine's, or those of which there is a description."""

import importlib.util
import os
import re
from typing import Any

import jax

from planning.gpus import GPUS, target_config, topology
from utils.chips import CHIPS, GPUS_PER_HOST
from utils.errors import UserError

# So that libtpu neither asks a TPU for its place nor takes one.
WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# What JAX calls the platform of the devices of a target.
PLATFORMS = {"tpu": "tpu", "gpu": "cuda"}
# The modules of the packages in requirements-plan-gpu.txt: the plugin, and the compiler's tools.
CUDA_MODULES = ("jax_plugins.xla_cuda13", "nvidia.cu13")


def devices_of(target: str) -> list[Any]:
    """Returns the devices of a target.

    target: "local"; "tpu:VERSION:TOPOLOGY" as Google Cloud names it, such as "tpu:v6e:8x8"; or
        "gpu:NAME:COUNT" with a name of `planning.gpus.GPUS`, such as "gpu:h100:8".
    Raises UserError for anything else, for devices that do not exist, and without their compiler.
    """
    if target == "local":
        return jax.devices()
    kind, _, rest = target.partition(":")
    if kind == "tpu" and re.fullmatch(r"v\w+:\d+x\d+(x\d+)?", rest):
        return _tpus(target, rest)
    if kind == "gpu" and re.fullmatch(r"\w+:[1-9]\d*", rest):
        name, _, count = rest.partition(":")
        return _gpus(target, name, int(count))
    raise UserError(
        f"--target {target}: expected local, tpu:VERSION:TOPOLOGY such as tpu:v6e:8x8 or "
        "tpu:v4:4x4x4, or gpu:NAME:COUNT such as gpu:h100:8"
    )


def platform_of(target: str) -> str | None:
    """Returns the platform that a program of the target is lowered for; None for this machine's."""
    return PLATFORMS.get(target.partition(":")[0])


def _tpus(target: str, name: str) -> list[Any]:
    os.environ |= WITHOUT_TPU
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--target {target}: libtpu is not installed; pip install -r requirements-plan-tpu.txt"
        )
    options = {}
    if name.startswith("v4"):
        options["chip_config_name"] = "megacore"  # two cores of a chip work as one
    expected = "a topology of v4, v5e, v5p or v6e, such as v6e:8x8"
    return _described(target, expected, platform="tpu", topology_name=name, **options)


def _gpus(target: str, name: str, count: int) -> list[Any]:
    if name not in GPUS:
        raise UserError(f"--target {target}: {name} is none of {', '.join(sorted(GPUS))}")
    if count > GPUS_PER_HOST and count % GPUS_PER_HOST:
        raise UserError(
            f"--target {target}: expected at most {GPUS_PER_HOST} GPUs, those of one host, or a "
            f"multiple of {GPUS_PER_HOST}"
        )
    if count > GPUS_PER_HOST and not CHIPS[GPUS[name].kind].between_hosts:
        raise UserError(
            f"--target {target}: expected at most {GPUS_PER_HOST} {name}, those of one host; what "
            "travels between hosts of them is not known"
        )
    if not all(map(_is_installed, CUDA_MODULES)):
        raise UserError(
            f"--target {target}: the compiler for GPUs is not installed; "
            "pip install -r requirements-plan-gpu.txt"
        )
    described = {"target_config": target_config(GPUS[name]), "topology": topology(count)}
    expected = "a version of jax-cuda13-plugin that is that of jax"
    return _described(target, expected, platform="cuda", **described)


def _is_installed(module: str) -> bool:
    """Returns whether there is a module, whose package may be missing too."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _described(target: str, expected: str, **description: str) -> list[Any]:
    """Returns devices by their description; expected: what to say where the compiler refuses."""
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(**description).devices
    except Exception as error:  # the compiler's own errors, of several types
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"--target {target}: {reason}; expected {expected}") from None
