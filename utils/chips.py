"""The devices that a step may run on, and what they can do at most, by their data sheets."""

import dataclasses
import os
from typing import Any

GIB = 2**30
GPUS_PER_HOST = 8  # as in NVIDIA's DGX and HGX machines


@dataclasses.dataclass(frozen=True)
class Chip:
    """The rates of one device.

    Attributes:
        flops: FLOP/s of the matrix units in bfloat16, without sparsity.
        memory: bytes that programs may use.
        bandwidth: bytes/s from and to this memory.
        network: bytes/s that it sends to all its neighbours together; of GPUs, within a host.
        source: where the figures are from.
        clock: cycles/s of the compiler's estimates; 0 where it gives none.
        between_hosts: bytes/s that a GPU sends to other hosts; 0 for TPUs, whose `network` reaches
            all chips, and where it is not known.
    """

    flops: float
    memory: float
    bandwidth: float
    network: float
    source: str
    clock: float = 0
    between_hosts: float = 0


# By the device's `device_kind` in JAX.
#
# TPUs. FLOP/s, bandwidth and network are on Google Cloud's page of each version; the network is
# given there in both directions, and here in one. The memory is what the compiler calls available.
# The clock is the FLOP/s over those of a cycle, by the matrix units in JAX's own table of TPUs, and
# half of that for v6e: so the compiler's estimate of a plain copy moves as much of the bandwidth,
# 81%, as on v5e.
#
# GPUs. All figures are on NVIDIA's data sheets: products without sparsity and with float32 sums;
# the network is NVLink, or PCIe where a card has none, in one direction; between hosts it is the
# link of each GPU in NVIDIA's DGX machines. Their memory is what XLA_PYTHON_CLIENT_MEM_FRACTION=.95
# leaves of what CUDA reports, which is the size on the data sheet, but for the L40S, where the
# error correction takes a part: CUDA reports 44.4 GiB.
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
        source="NVIDIA's data sheets of the A100 SXM, 80 GB, and of the DGX A100",
        between_hosts=25e9,
    ),
    "NVIDIA H100 80GB HBM3": Chip(
        flops=989e12,
        memory=80e9,
        bandwidth=3350e9,
        network=450e9,
        source="NVIDIA's data sheets of the H100 SXM and of the DGX H100",
        between_hosts=50e9,
    ),
    "NVIDIA H200": Chip(
        flops=989e12,
        memory=141e9,
        bandwidth=4800e9,
        network=450e9,
        source="NVIDIA's data sheets of the H200 SXM and of the DGX H200",
        between_hosts=50e9,
    ),
    "NVIDIA B200": Chip(
        flops=2250e12,
        memory=180e9,
        bandwidth=8000e9,
        network=900e9,
        source="NVIDIA's data sheet of the DGX B200, whose figures are of eight",
        between_hosts=50e9,
    ),
    "NVIDIA L40S": Chip(
        flops=362e12,
        memory=42.2 * GIB,
        bandwidth=864e9,
        network=32e9,
        source="NVIDIA's data sheet of the L40S",
    ),
    "NVIDIA GeForce RTX 4090": Chip(
        flops=165.2e12,
        memory=24e9,
        bandwidth=1008e9,
        network=32e9,
        source="NVIDIA's white paper of the Ada architecture",
    ),
}


def network_of(chip: Chip, count: int) -> float:
    """Returns the bytes/s that each of `count` devices sends.

    GPUs of several hosts are as fast as the slower of the links within a host and between hosts. Of
    a collective over all GPUs a host's eight share what leaves the host. One over groups with a
    single GPU of each host has an eighth of that, which is not counted here.
    """
    if count <= GPUS_PER_HOST or not chip.between_hosts:
        return chip.network
    return min(chip.network, GPUS_PER_HOST * chip.between_hosts)


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
