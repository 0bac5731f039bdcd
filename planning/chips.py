"""The devices that a step may run on, and what they can do at most, by their data sheets."""

import dataclasses
import os
from typing import Any

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The rates of one device.

    Attributes:
        flops: FLOP/s of the matrix units in bfloat16, without sparsity.
        memory: bytes that programs may use.
        bandwidth: bytes/s from and to this memory.
        network: bytes/s that it sends to all its neighbours together.
        source: where the figures are from.
        clock: cycles/s of the compiler's estimates; 0 where it gives none.
    """

    flops: float
    memory: float
    bandwidth: float
    network: float
    source: str
    clock: float = 0


# By the device's `device_kind` in JAX.
#
# TPUs. FLOP/s, bandwidth and network are on Google Cloud's page of each version; the network is
# given there in both directions, and here in one. The memory is what the compiler calls available.
# The clock is the FLOP/s over those of a cycle, by the matrix units in JAX's own table of TPUs, and
# half of that for v6e: so the compiler's estimate of a plain copy moves as much of the bandwidth,
# 81%, as on v5e.
#
# GPUs. All figures are on NVIDIA's data sheets; the network is NVLink, in one direction.
CHIPS = {
    "TPU v4": Chip(
        flops=275e12,
        memory=30.75 * GIB,
        bandwidth=1228e9,
        network=300e9,
        source="https://cloud.google.com/tpu/docs/v4",
        clock=1.05e9,
    ),
    "TPU v5 lite": Chip(
        flops=197e12,
        memory=15.75 * GIB,
        bandwidth=819e9,
        network=200e9,
        source="https://cloud.google.com/tpu/docs/v5e",
        clock=1.5e9,
    ),
    "TPU v5": Chip(
        flops=459e12,
        memory=95.73 * GIB,
        bandwidth=2765e9,
        network=600e9,
        source="https://cloud.google.com/tpu/docs/v5p",
        clock=1.75e9,
    ),
    "TPU v6 lite": Chip(
        flops=918e12,
        memory=31.24 * GIB,
        bandwidth=1600e9,
        network=400e9,
        source="https://cloud.google.com/tpu/docs/v6e",
        clock=1.75e9,
    ),
    "NVIDIA A100-SXM4-80GB": Chip(
        flops=312e12,
        memory=80e9,
        bandwidth=2039e9,
        network=300e9,
        source="NVIDIA's data sheet of the A100 SXM, 80 GB",
    ),
    "NVIDIA H100 80GB HBM3": Chip(
        flops=989e12,
        memory=80e9,
        bandwidth=3350e9,
        network=450e9,
        source="NVIDIA's data sheet of the H100 SXM",
    ),
    "NVIDIA H200": Chip(
        flops=989e12,
        memory=141e9,
        bandwidth=4800e9,
        network=450e9,
        source="NVIDIA's data sheet of the H200 SXM",
    ),
}


def memory_of(device: Any, local_devices: int) -> float | None:
    """Returns how many bytes a device has for programs, or None where that is not known.

    They are those of the table, or what the device says itself. A CPU device has its part of the
    machine's memory.

    Args:
        device: a JAX device, real or described.
        local_devices: how many devices of its kind this machine has.
    """
    if device.device_kind in CHIPS:
        return CHIPS[device.device_kind].memory
    if device.platform == "cpu":
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return machine / local_devices
    statistics = device.memory_stats() or {}
    return statistics.get("bytes_limit")
