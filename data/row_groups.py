"""Parquet files read by row groups, wherever fsspec reaches: on a disk, or on the hub.

The footer of a file says what row groups it has, so nothing else is read before it is needed.
"""

import collections
import concurrent.futures
import functools
import logging
import threading
import time
from typing import Any, NamedTuple

import numpy as np

from data.columns import PROBED, Pixels, image_content, look_at_images
from data.errors import in_words
from utils.errors import UserError

log = logging.getLogger(__name__)

TRIES = 4  # of reading a row group
PAUSE = 1.0  # seconds before the second try, doubled before each further one
SPARE = 4  # row groups kept beside those that were asked for


class Footer(NamedTuple):
    """What a parquet file says of itself. metadata: a FileMetaData of pyarrow."""

    file: str
    metadata: Any

    @property
    def counts(self) -> list[int]:
        """Rows of each row group."""
        groups = range(self.metadata.num_row_groups)
        return [self.metadata.row_group(group).num_rows for group in groups]


def read_footer(file: str) -> Footer:
    """Reads the footer of a parquet file. Raises UserError if it is none, or out of reach."""
    import fsspec
    import pyarrow.parquet

    try:
        with fsspec.open(file) as stream:
            return Footer(file, pyarrow.parquet.read_metadata(stream))
    except Exception as error:  # of the network, or of a damaged file
        raise UserError(
            f"{file} cannot be read as parquet ({in_words(error)}); get it again"
        ) from error


class RowGroups:
    """`read` of `data.images.Images`, over the row groups of parquet files.

    Row groups are read by threads. Those that `hold` asks for are kept until it asks for others;
    any other row group is read when one of its rows is needed, and only the last few are kept.

    Args:
        name: Of the data set, for messages.
        footers: Of the files, in their order.
        image: The column of images.
        label: The column of labels, or "".
        first_label: What the least label is; integers count from it.
    """

    def __init__(
        self, name: str, footers: list[Footer], image: str, label: str, first_label: int = 0
    ):
        self.name = name
        self.image = image
        self.label = label
        self.first_label = first_label
        self.parts = []  # (footer, index in the file) of each row group
        counts = []
        for footer in footers:
            for index, count in enumerate(footer.counts):
                if count:
                    self.parts.append((footer, index))
                    counts.append(count)
        self.counts = np.array(counts)
        self.first_row = np.concatenate([[0], np.cumsum(self.counts)])  # of each group, and the end
        # {row group: its table, when it is read}, those used last at the end.
        self.held: collections.OrderedDict[int, concurrent.futures.Future] = (
            collections.OrderedDict()
        )
        self.wanted: set[int] = set()
        self.lock = threading.Lock()  # of `held` and `wanted`
        self.pool = concurrent.futures.ThreadPoolExecutor(8, "parquet")

    def __len__(self):
        return int(self.first_row[-1])

    def __call__(self, index):
        group = int(np.searchsorted(self.first_row, index, side="right")) - 1
        row = int(index - self.first_row[group])
        table = self._table(group)
        value = table.column(self.image)[row].as_py()
        content, name = image_content(value, f"{self.name} sample {index}", self.pixels)
        label = 0
        if self.label:
            label = table.column(self.label)[row].as_py()
            if label is None:
                raise UserError(
                    f"{self.name}: sample {index} has no label in column {self.label!r}; fill it "
                    "in, or give --data.label_column none for one class"
                )
        return content, label - self.first_label, name

    @functools.cached_property
    def pixels(self) -> Pixels:
        """What the values of the column of images mean, by the first row group."""
        values = self._table(0).column(self.image).slice(0, PROBED).to_pylist()
        return look_at_images(self.name, self.image, values)

    def hold(self, groups: list[int], and_previous: bool):
        """Starts to read row groups, and lets go of others.

        and_previous: those that were asked for before are kept, too.
        """
        with self.lock:
            previous = self.wanted if and_previous else set()
            self.wanted = set(groups) | previous
            for group in groups:
                self._start(group)
            self._let_go()

    def _table(self, group: int):
        """Returns the columns of a row group, and waits for them if need be."""
        with self.lock:
            future = self._start(group)
            self._let_go()
        return future.result()

    def _start(self, group: int) -> concurrent.futures.Future:
        if group not in self.held:
            try:
                self.held[group] = self.pool.submit(self._read, group)
            except RuntimeError as error:  # The pool is shut down when the interpreter ends.
                raise UserError(
                    f"{self.name}: nothing is read any more, the program ends"
                ) from error
        self.held.move_to_end(group)
        return self.held[group]

    def _let_go(self):
        others = [group for group in self.held if group not in self.wanted]
        n_superfluous = max(0, len(others) - SPARE)
        for group in others[:n_superfluous]:
            del self.held[group]  # It is not cancelled: somebody may be waiting for it.

    def _read(self, group: int):
        """Reads the columns of a row group; tries several times, as networks fail."""
        footer, index = self.parts[group]
        for attempt in range(TRIES):
            try:
                return self._read_once(footer, index)
            except Exception as error:  # of the network, or of a damaged file
                if attempt + 1 == TRIES or isinstance(error, FileNotFoundError):
                    raise UserError(
                        f"{self.name}: row group {index} of {footer.file} cannot be read "
                        f"({in_words(error)}); "
                        f"the same command goes on from the last checkpoint"
                    ) from error
                log.warning(
                    "%s: row group %d of %s: %s; once more",
                    self.name,
                    index,
                    footer.file,
                    type(error).__name__,
                )
                time.sleep(PAUSE * 2**attempt)

    def _read_once(self, footer: Footer, index: int):
        import fsspec
        import pyarrow.parquet

        columns = [self.image]
        if self.label:
            columns.append(self.label)
        with fsspec.open(footer.file) as stream:
            file = pyarrow.parquet.ParquetFile(stream, metadata=footer.metadata, pre_buffer=True)
            return file.read_row_group(index, columns, use_threads=False)
