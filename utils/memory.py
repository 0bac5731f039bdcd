"""Memory of the host."""

import ctypes
import sys

import jax

# The parameters of glibc's mallopt, by the numbers of its malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Where JAX computes on a CPU, lets glibc keep freed memory instead of returning it.

    XLA frees its temporaries after every step. When the kernel has to provide these pages anew, a
    step takes longer by a fifth and more (docs/benchmarks.md). glibc keeps large pieces for the
    main thread alone, so programs on one CPU device then run in the thread that calls them.

    Call this before the first use of a device. With other C libraries it does nothing more.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.default_backend() != "cpu" or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(M_MMAP_MAX, 0)  # no piece of memory has a mapping of its own
    libc.mallopt(M_TRIM_THRESHOLD, -1)  # the end of the heap is never given back
    libc.mallopt(M_TOP_PAD, 2**28)  # when the heap grows, it grows by 256 MB
