"""Several processes of one job: who does which samples, and how their results meet.

Each process has devices of its own. How a job starts and stops is in `utils/distributed.py`. The
functions here that exchange something must be called by all processes, in the same order.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np

LONGEST_TEXT = 256  # bytes


_is_alone = False


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What is done within is this process's own affair: it asks and waits for no other."""
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        yield
    finally:
        _is_alone = before


def is_alone() -> bool:
    """Tells whether this process is one of several and asks none of them; see `alone`."""
    return _is_alone and jax.process_count() > 1


def is_single() -> bool:
    """Tells whether there are no others to exchange anything with."""
    return _is_alone or jax.process_count() == 1


def is_first() -> bool:
    """Tells whether this process is the one that writes the files."""
    return jax.process_index() == 0


def own_range(n: int) -> range:
    """Returns the indices, of n, that are this process's.

    They are contiguous, so that results joined in the order of the processes are in order again.
    """
    if is_single():
        return range(n)
    rank, ranks = jax.process_index(), jax.process_count()
    return range(rank * n // ranks, (rank + 1) * n // ranks)


def concatenate_all(array: np.ndarray) -> list[np.ndarray]:
    """Returns the arrays of all processes by rank, bit for bit. All processes must call it.

    Args:
        array: [n, ...]; n may differ between the processes, the rest of the shape may not.
    """
    array = np.ascontiguousarray(array)
    if is_single():
        return [array]
    from jax.experimental.multihost_utils import process_allgather

    counts = process_allgather(np.array(len(array), np.int32))
    # They travel as bytes, because jax would make float32 of float64, and with rows of zeros at
    # their ends, because all must have the same shape.
    data = array.view(np.uint8).reshape(len(array), -1)
    data = np.pad(data, [(0, int(counts.max()) - len(array)), (0, 0)])
    return [
        part[:n].reshape(-1).view(array.dtype).reshape(n, *array.shape[1:])
        for part, n in zip(process_allgather(data), counts, strict=True)
    ]


def text_of_first(text: str) -> str:
    """Returns the text of process 0, cut to 256 bytes, in all. All processes must call it."""
    if is_single():
        return text
    from jax.experimental.multihost_utils import broadcast_one_to_all

    padded = text.encode()[:LONGEST_TEXT].ljust(LONGEST_TEXT)  # all must have the same length
    received = broadcast_one_to_all(np.frombuffer(padded, np.uint8))
    return bytes(received).decode(errors="replace").strip()


def wait_for_all(name: str) -> None:
    """Returns when all processes have called this with the same name."""
    if not is_single():
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices(name)
