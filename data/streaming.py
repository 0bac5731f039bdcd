"""`--data.streaming 1`: parquet files read piece by piece while they are needed, without a copy.

The files are those of the Hugging Face hub, or of a folder. The order is that of `data.windows`.
The window of the first position is read first, and the next one while the second half of a window
is used, so that memory holds two windows at most. Where R processes share the stream and R is a
power of two up to 64, each reads about its own R-th of the bytes; with other numbers each process
reads everything.
"""

import concurrent.futures
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from data.columns import choose_columns
from data.dataset import Dataset, Options, Samples
from data.hub_cards import Card
from data.images import make_images
from data.row_groups import Footer, RowGroups, read_footer
from data.splits import choose_split
from data.windows import Windows
from utils.errors import UserError

PROBED = 2  # images looked at to find the shape: each takes reading a row group


class Schema(NamedTuple):
    """A `data.columns.Table` of which only the kinds of the columns are known."""

    features: Mapping[str, Any]

    @property
    def column_names(self) -> list[str]:
        return list(self.features)


class Stream:
    """Samples by position of the endless stream, for one of several processes.

    Args:
        samples: The samples, by row.
        groups: Reads the row groups ahead.
        windows: The order.
        start: The first position of this process.
        ranks: Number of processes; this one takes every such position from `start` on.
    """

    def __init__(
        self, samples: Samples, groups: RowGroups, windows: Windows, start: int, ranks: int
    ):
        self.samples = samples
        self.groups = groups
        self.windows = windows
        self.start = start
        self.ranks = ranks
        # (epoch, window, whether in its second half) of the latest position asked for.
        self.latest: tuple[int, int, bool] | None = None
        self.lock = threading.Lock()  # of `latest`

    def __len__(self):
        return 2**62  # as good as without end

    def __getitem__(self, position):
        position = int(position)
        epoch, window, offset = self.windows.find(position)
        rows = self.windows.rows(epoch, window)
        reached = (epoch, window, 2 * offset >= len(rows))
        with self.lock:
            if self.latest is None or reached > self.latest:
                self._read_ahead(position - offset, *reached)
                self.latest = reached
        return self.samples[rows[offset]]

    def _read_ahead(self, first: int, epoch: int, window: int, in_second_half: bool):
        """Reads the window that starts at position `first`, and in its second half the next one.

        The window before stays until the second half begins: threads may be behind in it.
        """
        rows = self.windows.rows(epoch, window)
        wanted = self._own_groups(rows, first)
        if in_second_half:
            next_rows = self.windows.rows(*self.windows.after(epoch, window))
            wanted += self._own_groups(next_rows, first + len(rows))
        without_repeats = list(dict.fromkeys(wanted))
        self.groups.hold(without_repeats, and_previous=not in_second_half)

    def _own_groups(self, rows: np.ndarray, first: int) -> list[int]:
        """Returns the row groups that this process needs of a window from position `first` on."""
        own_rows = rows[(self.start - first) % self.ranks :: self.ranks]
        return self.windows.groups_of(own_rows)


def load(
    name: str,
    files: Mapping[str, list[str]],
    features: Mapping[str, Any] | None,
    split: str,
    options: Options,
    card: Card | None,
) -> Dataset:
    """Returns a split of parquet files, of which only the footers and two images are read.

    Args:
        name: As given on the command line.
        files: {split: its files}, paths or what else fsspec opens.
        features: The kinds of the columns, of the library `datasets`; None for what the files say.
        split: "train", "test", or one of `files`.
        options: The settings `data.*`.
        card: Of a well-known data set.
    """
    import datasets

    own_name, split = choose_split(name, files, split, card and card.own_names)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(read_footer, files[own_name]))
    if not features:
        schema = footers[0].metadata.schema.to_arrow_schema()
        features = datasets.Features.from_arrow_schema(schema)
    image, label = choose_columns(name, Schema(dict(features)), options, card)
    n = sum(sum(footer.counts) for footer in footers)
    if not n:
        raise UserError(
            f"{name}: the files of the split {own_name} have no rows, {files[own_name][0]} first; "
            "give another --data.split, or get the files again"
        )
    first_label, class_names, counts = 0, ("all",), (n,)
    if label:
        if isinstance(features[label], datasets.ClassLabel):
            first_label, class_names = find_classes(name, features, label, footers)
        else:
            learned = footers_of_train(name, files, card, own_name, footers)
            first_label, class_names = find_classes(name, features, label, learned)
            check_bounds(name, label, footers, first_label, len(class_names))
        counts = None
    groups = RowGroups(name, footers, image, label, first_label)
    size, channels = options.image_size, options.channels
    if card:
        size, channels = size or card.size, channels or card.channels
    images = make_images(groups, n, size, channels, name, PROBED)

    def order(samples: Samples, seed: int, start: int, ranks: int) -> Stream:
        windows = Windows(groups.counts, seed, options.stream_window)
        return Stream(samples, groups, windows, start, ranks)

    return Dataset(
        name=name,
        split=split,
        samples=images,
        shape=images.shape,
        dtype="uint8",
        class_names=class_names,
        counts=counts,
        max_corrupt=options.max_corrupt,
        order=order,
    )


def footers_of_train(
    name: str,
    files: Mapping[str, list[str]],
    card: Card | None,
    own_name: str,
    footers: list[Footer],
) -> list[Footer]:
    """Returns the footers of the training split, whose classes count for every split.

    Args:
        name: of the data set, for messages.
        files: {split: its files}.
        card: of a well-known data set.
        own_name, footers: the split that is read, which stands in where none is for training.
    """
    try:
        train, _ = choose_split(name, files, "train", card and card.own_names)
    except UserError:
        return footers
    if train == own_name:
        return footers
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return list(pool.map(read_footer, files[train]))


def check_bounds(name: str, label: str, footers: list[Footer], first: int, n_classes: int) -> None:
    """Raises UserError where a split has integer labels that the training split has not."""
    bounds = _bounds_of_column(label, footers)
    if bounds and not (first <= bounds[0] and bounds[1] < first + n_classes):
        raise UserError(
            f"{name}: column {label!r} has labels from {bounds[0]} to {bounds[1]} in this split, "
            f"and from {first} to {first + n_classes - 1} in the training split; leave "
            "--data.streaming out, or give --data.label_column none for one class"
        )


def find_classes(
    name: str, features: Mapping[str, Any], label: str, footers: list[Footer]
) -> tuple[int, tuple[str, ...]]:
    """Returns the least label and the names of the classes, without reading the labels.

    Class labels have names; integers are the classes between the bounds that the footers tell.
    Raises UserError for other labels, and for statistics that are missing or negative.
    """
    import datasets

    if isinstance(features[label], datasets.ClassLabel):
        return 0, tuple(features[label].names)
    bounds = _bounds_of_column(label, footers)
    if bounds is None:
        raise UserError(
            f"{name}: column {label!r} ({features[label]}) does not tell its classes without being "
            "read: leave --data.streaming out, or give --data.label_column none"
        )
    low, high = bounds
    if low < 0:
        raise UserError(
            f"{name}: column {label!r} has labels from {low} to {high}, expected 0 or more; this "
            "split may have none (--data.split)"
        )
    return low, tuple(str(number) for number in range(low, high + 1))


def _bounds_of_column(column: str, footers: list[Footer]) -> tuple[int, int] | None:
    """Returns the least and the greatest value of a column of integers, if the footers tell."""
    schema = footers[0].metadata.schema
    paths = [schema.column(i).path for i in range(footers[0].metadata.num_columns)]
    if column not in paths:
        return None
    lows, highs = [], []
    for footer in footers:
        for group in range(footer.metadata.num_row_groups):
            if not footer.metadata.row_group(group).num_rows:
                continue
            statistics = footer.metadata.row_group(group).column(paths.index(column)).statistics
            if statistics is None or not statistics.has_min_max:
                return None
            if not isinstance(statistics.min, int):
                return None
            lows.append(statistics.min)
            highs.append(statistics.max)
    return min(lows), max(highs)
