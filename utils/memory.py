"""Memory of the host."""

import ctypes
import sys


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory for the next allocation instead of giving it back to the kernel.

    XLA on a CPU frees its temporaries after every step; faulting them in again costs a fifth of a step and more (docs/benchmarks.md). Does nothing on other C libraries.
    """
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 2**28)
