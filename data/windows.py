"""The shuffled order of streaming: where each position of the endless stream is stored.

Rows (samples) lie in row groups, the pieces that a parquet file is read by, and are numbered
through all files as they are stored. Each epoch shuffles the row groups and cuts them into windows
of at least so many rows; then each window shuffles its rows. All of it is a function of the seed
and the position, so the stream can be entered anywhere.
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LANES = 64  # processes that can share a window without reading all of it, a power of two


def _reversed_bits(n: int) -> np.ndarray:
    """Returns 0 ... n-1 with their bits in reverse order, for a power of two n."""
    width = (n - 1).bit_length()
    return np.array([int(f"{i:0{width}b}"[::-1], 2) for i in range(n)])


# The rank of each lane (position modulo LANES) in the stored order. By reversed bits, the lanes
# that are r modulo R come one after the other, for any R = 2, 4, ... LANES.
RANK_OF_LANE = _reversed_bits(LANES)


class EpochPlan(NamedTuple):
    """The windows of an epoch. Both lists have one entry per window, and one for the end.

    order: The row groups of the epoch in their order.
    cuts: Index in `order` of the first row group of each window.
    starts: Position in the epoch of the first row of each window.
    """

    order: np.ndarray
    cuts: list[int]
    starts: np.ndarray


class Windows:
    """The order over row groups.

    Args:
        counts: Rows of each row group.
        seed: The order depends on it alone.
        size: The least rows of a window; only the last of an epoch may have fewer.
    """

    def __init__(self, counts: np.ndarray, seed: int, size: int):
        self.counts = np.asarray(counts)
        self.seed = seed
        self.size = size
        # Of each row group, and the end.
        self.first_row: NDArray[np.int64] = np.concatenate([[0], np.cumsum(self.counts)])
        # Two windows are in use at a time, and they may be of two epochs.
        self.epoch_plan = functools.lru_cache(4)(self._epoch_plan)
        self.rows = functools.lru_cache(4)(self._rows)

    def _epoch_plan(self, epoch: int) -> EpochPlan:
        generator = np.random.default_rng((self.seed, epoch))
        order = generator.permutation(len(self.counts))
        ends = np.cumsum(self.counts[order])
        bounds = np.concatenate([[0], ends])
        cuts = [0]
        while cuts[-1] < len(order):
            full = bounds[cuts[-1]] + self.size
            last = int(np.searchsorted(ends, full))  # the group in which the window gets full
            cuts.append(min(last + 1, len(order)))
        return EpochPlan(order, cuts, bounds[cuts])

    def find(self, position: int) -> tuple[int, int, int]:
        """Returns (epoch, window, offset in the window) of a position of the stream."""
        epoch, inside = divmod(position, int(self.first_row[-1]))
        starts = self.epoch_plan(epoch).starts
        window = int(np.searchsorted(starts, inside, side="right")) - 1
        return epoch, window, inside - int(starts[window])

    def after(self, epoch: int, window: int) -> tuple[int, int]:
        """Returns (epoch, window) of the next window."""
        n_windows = len(self.epoch_plan(epoch).cuts) - 1
        if window + 1 < n_windows:
            return epoch, window + 1
        return epoch + 1, 0

    def _rows(self, epoch: int, window: int) -> np.ndarray:
        """Returns the rows of a window in their order.

        The window's rows, as they are stored, are cut into one run per lane; position p of the
        window takes a random row of the run of lane p modulo LANES. So of R = 2, 4, ... LANES
        processes, of which each takes every R-th position, each needs its own R-th of the window
        and reads no more than that. The order is as random as the window, but for this division.
        """
        plan = self.epoch_plan(epoch)
        groups = plan.order[plan.cuts[window] : plan.cuts[window + 1]].tolist()
        stored = np.concatenate([self._rows_of(group) for group in groups])
        chance = np.random.default_rng((self.seed, epoch, window)).random(len(stored))
        lane = np.arange(len(stored)) % LANES
        positions = np.lexsort((chance, RANK_OF_LANE[lane]))  # by lane, then by chance
        rows = np.empty_like(stored)
        rows[positions] = stored
        return rows

    def _rows_of(self, group: int) -> np.ndarray:
        first, end = self.first_row[group : group + 2].tolist()
        return np.arange(first, end)

    def groups_of(self, rows: np.ndarray) -> list[int]:
        """Returns the row groups that hold the rows, in the order in which they are needed."""
        groups = np.searchsorted(self.first_row, rows, side="right") - 1
        return list(dict.fromkeys(groups.tolist()))
