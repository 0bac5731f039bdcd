"""`--data.streaming 1`: parquet files of the Hugging Face hub, or of a folder, read piece by piece while they are needed, without a copy on the disk.

A piece is a row group. The order of an epoch: all pieces shuffled, and cut into windows of at least `--data.stream_window` samples; the samples of a window shuffled.
It is a function of (seed, position), so it can be entered anywhere; the window there is read first, and the next one while the second half of a window is used.
Where R processes share the stream and R is a power of two, each reads about its own R-th of the bytes: `Windows.rows` gives the positions p = r mod R to
successive pieces. With other numbers each process reads everything.
"""

import collections
import concurrent.futures
import functools
import logging
import threading
import time
from typing import NamedTuple

import numpy as np

from data import Dataset, choose_split
from data.images import make_source
from utils.errors import UserError

log = logging.getLogger(__name__)

LANES = 64  # processes that can share a window without reading it all
REVERSED = np.array([int(f"{i:06b}"[::-1], 2) for i in range(LANES)])
TRIES, PAUSE = 4, 1.0  # of reading a piece; seconds, doubled each time
PROBED = 2  # images looked at to find the shape
SPARE = 4  # pieces kept beside those that the order asks for


class Windows:
    """The shuffled order over pieces with `counts` samples. Sample indices count through the pieces as they are stored."""

    def __init__(self, counts, seed: int, size: int):
        self.counts, self.seed, self.size = np.asarray(counts), seed, size
        self.first = np.concatenate([[0], np.cumsum(self.counts)])  # sample of each piece
        self.epoch_plan = functools.lru_cache(4)(self._epoch_plan)
        self.rows = functools.lru_cache(4)(self._rows)

    def _epoch_plan(self, epoch: int):
        """(pieces in their order, first piece of each window and the end, first position of each window and the end)."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.counts))
        ends = np.cumsum(self.counts[order])
        cuts = [0]
        while cuts[-1] < len(order):
            begin = ends[cuts[-1] - 1] if cuts[-1] else 0
            cuts.append(min(int(np.searchsorted(ends, begin + self.size)) + 1, len(order)))
        return order, cuts, np.concatenate([[0], ends])[cuts]

    def find(self, position: int) -> tuple[int, int, int]:
        """(epoch, window, offset in the window) of a position of the stream."""
        epoch, inside = divmod(position, int(self.first[-1]))
        starts = self.epoch_plan(epoch)[2]
        window = int(np.searchsorted(starts, inside, side="right")) - 1
        return epoch, window, inside - int(starts[window])

    def after(self, epoch: int, window: int) -> tuple[int, int]:
        """The next window."""
        return (
            (epoch, window + 1) if window + 2 < len(self.epoch_plan(epoch)[1]) else (epoch + 1, 0)
        )

    def _rows(self, epoch: int, window: int) -> np.ndarray:
        """The samples of a window in their order. Every 64th position takes from the same run of stored samples."""
        order, cuts, _ = self.epoch_plan(epoch)
        pieces = order[cuts[window] : cuts[window + 1]]
        stored = np.concatenate([np.arange(self.first[p], self.first[p + 1]) for p in pieces])
        chance = np.random.default_rng((self.seed, epoch, window)).random(len(stored))
        rows = np.empty_like(stored)
        rows[np.lexsort((chance, REVERSED[np.arange(len(stored)) % LANES]))] = stored
        return rows

    def pieces(self, rows) -> list[int]:
        """The pieces of samples, in the order in which they come first."""
        return list(dict.fromkeys((np.searchsorted(self.first, rows, side="right") - 1).tolist()))


class Stream:
    """Samples by position of the stream, for one of `ranks` processes, whose first position is `start`. source: whose samples they are; groups: what to read ahead."""

    def __init__(self, source, groups, windows: Windows, start: int, ranks: int):
        self.source, self.groups, self.windows, self.start, self.ranks = (
            source,
            groups,
            windows,
            start,
            ranks,
        )
        self.at, self.lock = None, threading.Lock()

    def __len__(self):
        return 2**62

    def __getitem__(self, position):
        position = int(position)
        epoch, window, offset = self.windows.find(position)
        rows = self.windows.rows(epoch, window)
        here = (epoch, window, 2 * offset >= len(rows))
        with self.lock:
            if self.at is None or here > self.at:
                self._read_ahead(position - offset, here, rows)
                self.at = here
        return self.source[rows[offset]]

    def _read_ahead(self, first: int, here, rows):
        """In the first half of a window it stays, and the one before goes when the second half begins; then the next is read."""
        wanted = self._mine(rows, first)
        if here[2]:
            wanted += self._mine(
                self.windows.rows(*self.windows.after(*here[:2])), first + len(rows)
            )
        self.groups.hold(list(dict.fromkeys(wanted)), also=not here[2])

    def _mine(self, rows, first: int) -> list[int]:
        """Pieces of this process in a window that starts at the position `first`."""
        return self.windows.pieces(rows[(self.start - first) % self.ranks :: self.ranks])


class Footer(NamedTuple):
    """What a parquet file says of itself."""

    file: str
    metadata: object

    @property
    def groups(self) -> list[int]:
        return [self.metadata.row_group(k).num_rows for k in range(self.metadata.num_row_groups)]


class RowGroups:
    """read(i) of `data.images.Images` over the row groups of parquet files, wherever fsspec reaches. columns: image, and label or ""."""

    def __init__(self, name: str, footers: list[Footer], image: str, label: str):
        self.name, self.image, self.label = name, image, label
        self.where = [
            (footer, k) for footer in footers for k, rows in enumerate(footer.groups) if rows
        ]
        self.counts = np.array([footer.metadata.row_group(k).num_rows for footer, k in self.where])
        self.first = np.concatenate([[0], np.cumsum(self.counts)])
        self.held, self.wanted, self.lock = collections.OrderedDict(), set(), threading.Lock()
        self.pool = concurrent.futures.ThreadPoolExecutor(8, "parquet")

    def __len__(self):
        return int(self.first[-1])

    def __call__(self, index):
        from data.huggingface import content_of

        piece = int(np.searchsorted(self.first, index, side="right")) - 1
        row = int(index - self.first[piece])
        table = self._piece(piece)
        content, name = content_of(
            table.column(self.image)[row].as_py(), f"{self.name} sample {index}"
        )
        return content, table.column(self.label)[row].as_py() if self.label else 0, name

    def hold(self, pieces: list[int], also: bool):
        """Starts to read pieces, and lets go of all others; also: but for those that were asked for before."""
        with self.lock:
            self.wanted = set(pieces) | (self.wanted if also else set())
            for piece in pieces:
                self._start(piece)
            self._let_go()

    def _piece(self, piece: int):
        with self.lock:
            future = self._start(piece)
            self._let_go()
        return future.result()

    def _start(self, piece: int):
        if piece not in self.held:
            try:
                self.held[piece] = self.pool.submit(self._read, piece)
            except RuntimeError as error:  # the pool is gone
                raise UserError(
                    f"{self.name}: nothing is read any more, the program ends"
                ) from error
        self.held.move_to_end(piece)
        return self.held[piece]

    def _let_go(self):
        spare = [piece for piece in self.held if piece not in self.wanted]
        for piece in spare[: max(0, len(spare) - SPARE)]:
            del self.held[piece]  # not cancelled: somebody may be waiting for it

    def _read(self, piece: int):
        import fsspec
        import pyarrow.parquet as parquet

        footer, group = self.where[piece]
        columns = [self.image] + [self.label] * bool(self.label)
        for k in range(TRIES):
            try:
                with fsspec.open(footer.file) as file:
                    return parquet.ParquetFile(
                        file, metadata=footer.metadata, pre_buffer=True
                    ).read_row_group(group, columns, use_threads=False)
            except Exception as error:  # of the network, or of a damaged file
                if k + 1 == TRIES or isinstance(error, FileNotFoundError):
                    raise UserError(
                        f"{self.name}: row group {group} of {footer.file} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:120]}); "
                        f"the same command goes on from the last checkpoint"
                    ) from error
                log.warning(
                    "%s: row group %d of %s: %s; once more",
                    self.name,
                    group,
                    footer.file,
                    type(error).__name__,
                )
                time.sleep(PAUSE * 2**k)


def read_footer(file: str) -> Footer:
    import fsspec
    import pyarrow.parquet as parquet

    try:
        with fsspec.open(file) as stream:
            return Footer(file, parquet.read_metadata(stream))
    except Exception as error:  # of the network, or of a damaged file
        raise UserError(
            f"{file} cannot be read as parquet ({type(error).__name__}: {' '.join(str(error).split())[:120]}); get it again"
        ) from error


class Schema(NamedTuple):
    """As much of a table as finding columns takes."""

    features: dict

    @property
    def column_names(self) -> list[str]:
        return list(self.features)


def load(name: str, files: dict[str, list[str]], features, split: str, options, known) -> Dataset:
    """A split of parquet files {split: [place]}. features: of the `datasets` library, None = what the files say. known: see `data.huggingface.KNOWN`, or None."""
    import datasets

    from data.huggingface import choose_columns

    own, split = choose_split(
        name, files, split, known and {"train": known.train[0], "test": known.test[0]}
    )
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(read_footer, files[own]))
    features = features or datasets.Features.from_arrow_schema(
        footers[0].metadata.schema.to_arrow_schema()
    )
    image, label = choose_columns(name, Schema(dict(features)), options, known)
    groups = RowGroups(name, footers, image, label)
    class_names = class_names_of(name, features, label, footers) if label else ("all",)
    source = make_source(
        groups,
        len(groups),
        options.image_size or (known.size if known else 0),
        options.channels or (known.channels if known else 0),
        name,
        PROBED,
    )

    def order(readable, seed, start, ranks):
        return Stream(
            readable, groups, Windows(groups.counts, seed, options.stream_window), start, ranks
        )

    return Dataset(
        name,
        split,
        source,
        source.shape,
        "uint8",
        class_names,
        None if label else (len(groups),),
        max_corrupt=options.max_corrupt,
        order=order,
    )


def class_names_of(name: str, features, label: str, footers: list[Footer]) -> tuple[str, ...]:
    """Of class labels as they are named, of integers as many as the files' statistics tell; nothing is read for it."""
    import datasets

    if isinstance(features[label], datasets.ClassLabel):
        return tuple(features[label].names)
    column = [
        c
        for c in range(footers[0].metadata.num_columns)
        if footers[0].metadata.schema.column(c).path == label
    ]
    parts = (
        [
            f.metadata.row_group(k).column(column[0]).statistics
            for f in footers
            for k in range(f.metadata.num_row_groups)
        ]
        if column
        else [None]
    )
    if not all(s is not None and s.has_min_max and isinstance(s.min, int) for s in parts):
        raise UserError(
            f"{name}: column {label!r} ({features[label]}) does not tell its classes without being read: leave --data.streaming out, or give --data.label_column none"
        )
    low, high = min(s.min for s in parts), max(s.max for s in parts)
    if low < 0:
        raise UserError(
            f"{name}: column {label!r} has labels from {low} to {high}, expected 0 or more; this split may have none (--data.split)"
        )
    return tuple(map(str, range(high + 1)))
