"""Memory of the host and of the devices."""

import ctypes
import os
import sys
from typing import Any

import jax
import numpy as np

from utils.errors import UserError

# The parameters of glibc's mallopt, by the numbers of its malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
ARENAS_PER_CORE = 8  # of glibc where nothing is said


def keep_freed_memory(of_threads: bool = False) -> None:
    """Where JAX computes on a CPU, lets glibc keep freed memory instead of returning it.

    XLA frees its temporaries after every step. When the kernel has to provide these pages anew, a
    step takes longer by a fifth and more (docs/benchmarks.md). glibc keeps large pieces for the
    main thread alone, so programs on one CPU device then run in the thread that calls them.

    Call this before the first use of a device. With other C libraries it does nothing more.

    of_threads: also what threads free, which share one heap then. Large convolutions need it, whose
        pieces are made by the threads that compute them.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if not hasattr(libc, "mallopt"):
        return
    if of_threads:
        libc.mallopt(M_ARENA_MAX, 1)  # before a device is used, and threads have their own heaps
    if jax.default_backend() != "cpu":
        if of_threads:
            libc.mallopt(M_ARENA_MAX, ARENAS_PER_CORE * (os.cpu_count() or 1))
        return
    libc.mallopt(M_MMAP_MAX, 0)  # no piece of memory has a mapping of its own
    libc.mallopt(M_TRIM_THRESHOLD, -1)  # the end of the heap is never given back
    libc.mallopt(M_TOP_PAD, 2**28)  # when the heap grows, it grows by 256 MB


# ---- what fits ----


def host_memory() -> int:
    """Returns the bytes of memory that this machine has; 2^62 where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 2**62


def device_memory(device: Any) -> int:
    """Returns the bytes of memory that a device has for itself; 2^62 where it does not tell.

    The CPU devices of a process share the memory of the host evenly.
    """
    if device.platform == "cpu":
        return host_memory() // jax.local_device_count()
    statistics = device.memory_stats() or {}
    return statistics.get("bytes_limit", 2**62)


def bytes_on_a_device(tree: Any) -> int:
    """Returns the memory on each device of arrays, or of shapes with shardings."""
    size = 0
    for array in jax.tree.leaves(tree):
        shard_shape = array.sharding.shard_shape(array.shape)
        size += int(np.prod(shard_shape, dtype=object)) * array.dtype.itemsize
    return size


def require_memory(what: str, needed: int, there: int, advice: str) -> None:
    """Raises UserError where something takes more bytes than there are."""
    if needed > there:
        raise UserError(
            f"{what} takes {needed / 1e9:.3g} GB of memory, of {there / 1e9:.3g} GB: {advice}"
        )
