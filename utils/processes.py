"""Several processes of one job: who does which samples, and how their results meet.

Each process has devices of its own. How a job starts and stops is in `utils/distributed.py`. The
functions here that exchange something must be called by all processes, in the same order.
"""

import jax
import numpy as np

LONGEST_TEXT = 256  # bytes


def is_first() -> bool:
    """Tells whether this process is the one that writes the files."""
    return jax.process_index() == 0


def own_range(n: int) -> range:
    """Returns the indices, of n, that are this process's.

    They are contiguous, so that results joined in the order of the processes are in order again.
    """
    rank, ranks = jax.process_index(), jax.process_count()
    return range(rank * n // ranks, (rank + 1) * n // ranks)


def concatenate_all(array: np.ndarray) -> list[np.ndarray]:
    """Returns the arrays of all processes by rank, bit for bit. All processes must call it.

    Args:
        array: [n, ...]; n may differ between the processes, the rest of the shape may not.
    """
    array = np.ascontiguousarray(array)
    if jax.process_count() == 1:
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
    if jax.process_count() == 1:
        return text
    from jax.experimental.multihost_utils import broadcast_one_to_all

    padded = text.encode()[:LONGEST_TEXT].ljust(LONGEST_TEXT)  # all must have the same length
    received = broadcast_one_to_all(np.frombuffer(padded, np.uint8))
    return bytes(received).decode(errors="replace").strip()


def wait_for_all(name: str) -> None:
    """Returns when all processes have called this with the same name."""
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices(name)
