"""NVIDIA's GPUs as the compiler sees them where there are none.

XLA compiles for a GPU that it has only a description of: the text of its `GpuTargetConfigProto`.
Rates and memory for plans are in `utils/chips.py`; here is what the compiler chooses tiles,
fusions and instructions by.
"""

import dataclasses

from utils.chips import GPUS_PER_HOST


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What the compiler knows of one GPU.

    Attributes:
        kind: the device's `device_kind` in JAX, which is its name in `utils.chips.CHIPS`.
        capability: CUDA's compute capability.
        accelerated: whether code is made with the instructions of this architecture alone (sm_90a).
        cores: multiprocessors.
        fpus: float32 units of a multiprocessor.
        threads: that a multiprocessor holds at most.
        shared: bytes of shared memory of a multiprocessor; a block may use all but `RESERVED`.
        cache: bytes of the L2 cache.
        clock: its highest, in GHz.
        memory: bytes as CUDA reports them.
        bandwidth: bytes/s from and to this memory.
    """

    kind: str
    capability: tuple[int, int]
    accelerated: bool
    cores: int
    fpus: int
    threads: int
    shared: int
    cache: int
    clock: float
    memory: int
    bandwidth: int


RESERVED = 1024  # bytes of shared memory that CUDA keeps of each block

# By the name in --target gpu:NAME:COUNT.
#
# Of A100, H100, H200 and B200 the figures are those with which XLA's own tests compile for them
# (openxla/xla, xla/backends/gpu/target_config/specs). Of L40S and RTX 4090 they are in NVIDIA's
# white paper of the Ada architecture and in the table of compute capabilities of the CUDA
# programming guide; their memory is what CUDA reports on such cards.
GPUS = {
    "a100": Gpu(
        kind="NVIDIA A100-SXM4-80GB",
        capability=(8, 0),
        accelerated=False,
        cores=108,
        fpus=64,
        threads=2048,
        shared=164 * 1024,
        cache=40 * 2**20,
        clock=1.41,
        memory=85_100_068_864,
        bandwidth=2_039_040_000_000,
    ),
    "h100": Gpu(
        kind="NVIDIA H100 80GB HBM3",
        capability=(9, 0),
        accelerated=True,
        cores=132,
        fpus=128,
        threads=2048,
        shared=228 * 1024,
        cache=50 * 2**20,
        clock=1.98,
        memory=84_942_979_072,
        bandwidth=3_352_320_000_000,
    ),
    "h200": Gpu(
        kind="NVIDIA H200",
        capability=(9, 0),
        accelerated=True,
        cores=132,
        fpus=128,
        threads=2048,
        shared=228 * 1024,
        cache=50 * 2**20,
        clock=1.98,
        memory=151_397_597_184,
        bandwidth=4_800_000_000_000,
    ),
    "b200": Gpu(
        kind="NVIDIA B200",
        capability=(10, 0),
        accelerated=True,
        cores=148,
        fpus=128,
        threads=2048,
        shared=228 * 1024,
        cache=132_644_864,
        clock=1.965,
        memory=191_514_411_008,
        bandwidth=7_672_320_000_000,
    ),
    "l40s": Gpu(
        kind="NVIDIA L40S",
        capability=(8, 9),
        accelerated=False,
        cores=142,
        fpus=128,
        threads=1536,
        shared=100 * 1024,
        cache=96 * 2**20,
        clock=2.52,
        memory=47_695_611_904,
        bandwidth=864_000_000_000,
    ),
    "rtx4090": Gpu(
        kind="NVIDIA GeForce RTX 4090",
        capability=(8, 9),
        accelerated=False,
        cores=128,
        fpus=128,
        threads=1536,
        shared=100 * 1024,
        cache=72 * 2**20,
        clock=2.52,
        memory=25_383_256_064,
        bandwidth=1_008_000_000_000,
    ),
}

CONFIG = """\
platform_name: "CUDA"
device_description_str: "{gpu.kind}"
dnn_version_info {{ major: 9 minor: 10 }}
gpu_device_info {{
  name: "{gpu.kind}"
  device_vendor: "NVIDIA Corporation"
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
  cuda_compute_capability {{
    major: {gpu.capability[0]}
    minor: {gpu.capability[1]}
    feature_extension: {extension}
  }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus}
  clock_rate_ghz: {gpu.clock}
  threads_per_core_limit: {gpu.threads}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: {gpu.shared}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {largest_block}
  l2_cache_size: {gpu.cache}
  device_memory_size: {gpu.memory}
  memory_bandwidth: {gpu.bandwidth}
}}
"""


def target_config(gpu: Gpu) -> str:
    """Returns the description of a GPU as XLA reads it."""
    extension = "ACCELERATED_FEATURES" if gpu.accelerated else "NONE"
    return CONFIG.format(gpu=gpu, extension=extension, largest_block=gpu.shared - RESERVED)


def topology(count: int) -> str:
    """Returns where `count` GPUs are, as XLA reads it: slices x hosts x GPUs of a host."""
    if count <= GPUS_PER_HOST:
        return f"1x1x{count}"
    return f"1x{count // GPUS_PER_HOST}x{GPUS_PER_HOST}"
