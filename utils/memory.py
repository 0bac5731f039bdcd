"""Memory of the host."""

import ctypes
import sys

import jax


def keep_freed_memory() -> None:
    """Where JAX computes on a CPU: tells glibc to keep freed memory for the next allocation instead of giving it back to the kernel.

    XLA frees its temporaries after every step; faulting them in again costs a fifth of a step and more (docs/benchmarks.md). glibc keeps large ones for the main thread alone, so
    programs on one CPU device run in the thread that calls them. To be called before the first use of a device. Does nothing on other C libraries.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    if (
        jax.default_backend() == "cpu"
        and sys.platform.startswith("linux")
        and hasattr(libc := ctypes.CDLL(None), "mallopt")
    ):
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, -1)
        libc.mallopt(m_top_pad, 2**28)
