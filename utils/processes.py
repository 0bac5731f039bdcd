"""Several processes of one job, each with its own devices: who does which samples, and how their results meet. How they start and stop: utils/distributed.py."""

import jax
import numpy as np


def is_first() -> bool:
    """Whether this process writes the files."""
    return jax.process_index() == 0


def own_range(n: int) -> range:
    """The indices, of n, that are this process's: contiguous, so that joining in the order of processes restores the order."""
    rank, ranks = jax.process_index(), jax.process_count()
    return range(rank * n // ranks, (rank + 1) * n // ranks)


def concatenate_all(array: np.ndarray) -> list[np.ndarray]:
    """The arrays of all processes, by rank, bit for bit; they may differ in their first axis. All processes must call it."""
    array = np.ascontiguousarray(array)
    if jax.process_count() == 1:
        return [array]
    from jax.experimental.multihost_utils import process_allgather

    counts = process_allgather(np.array(len(array), np.int32))
    data = array.view(np.uint8).reshape(
        len(array), -1
    )  # as bytes: jax would make float32 of float64
    data = np.pad(data, [(0, int(counts.max()) - len(array)), (0, 0)])
    return [
        part[:n].reshape(-1).view(array.dtype).reshape(n, *array.shape[1:])
        for part, n in zip(process_allgather(data), counts)
    ]
