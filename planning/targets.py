"""The devices that a plan is for: this machine's, or TPUs of which there is a description."""

import os
import re
from typing import Any

import jax

from utils.errors import UserError

# So that libtpu neither asks a TPU for its place nor takes one.
WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices_of(target: str) -> list[Any]:
    """Returns the devices of a target.

    target: "local", or "tpu:VERSION:TOPOLOGY" as Google Cloud names it, such as "tpu:v6e:8x8".
    Raises UserError for anything else, for a topology that does not exist, and without libtpu.
    """
    if target == "local":
        return jax.devices()
    kind, _, topology = target.partition(":")
    if kind != "tpu" or not re.fullmatch(r"v\w+:\d+x\d+(x\d+)?", topology):
        raise UserError(
            f"--target {target}: expected local, or tpu:VERSION:TOPOLOGY such as tpu:v6e:8x8 or "
            "tpu:v4:4x4x4"
        )
    os.environ |= WITHOUT_TPU
    try:
        import libtpu  # noqa: F401  is not needed for plans of this machine's devices
    except ImportError:
        raise UserError(
            f"--target {target}: libtpu is not installed; pip install -r requirements-plan.txt"
        ) from None
    from jax.experimental import topologies

    options = {}
    if topology.startswith("v4"):
        options["chip_config_name"] = "megacore"  # two cores of a chip work as one
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except Exception as error:  # the compiler's own errors, of several types
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"--target {target}: {reason}; expected a topology of v4, v5e, v5p or v6e, such as "
            "v6e:8x8"
        ) from None
    return found.devices


def is_local(target: str) -> bool:
    """Returns whether the devices of a target are here."""
    return target == "local"
