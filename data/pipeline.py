"""From a data set to batches: shuffled without end from any position on, or once in order.

The shuffled stream is a function of the seed and the position. A resumed run, also on another
number of processes, goes on with the very next sample.
"""

import atexit
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import grain
import numpy as np
from absl import flags

from data.dataset import Dataset
from data.images import Corrupt
from utils.errors import UserError

log = logging.getLogger(__name__)

MIN_JUDGED = 1000  # samples read before the part of unreadable ones is judged

# Images or latents [S,H,W,C], and labels [S] int32; of a data set with conditions, in the place of
# labels, these [S,K] float32.
Batches = Iterator[tuple[np.ndarray, np.ndarray]]


# ---------------------------------------------------------------- unreadable samples


class Readable:
    """The samples of a data set; where one is unreadable, the next one stands in for it.

    So positions in the stream mean the same with and without unreadable samples. These are named
    in the log, once each, and kept in `bad`, {index: why}.

    Raises UserError when the unreadable ones are more than `max_corrupt` of the samples that this
    process has read so far. It also raises UserError for a label that is no class, because not
    every source can tell without reading everything.
    """

    def __init__(self, dataset: Dataset):
        self.samples = dataset.samples
        self.name = dataset.name
        self.max_corrupt = dataset.max_corrupt
        self.conditions = dataset.conditions
        self.n_classes = dataset.n_classes
        self.bad: dict[int, str] = {}
        self.reads = 0

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        """Returns the first sample that can be read, from `index` on."""
        n = len(self.samples)
        for i in range(int(index), int(index) + n):
            sample = self.get(i % n)
            if sample is not None:
                return sample
        raise UserError(f"{self.name}: none of its {n} samples can be read")

    def get(self, index: int) -> dict[str, Any] | None:
        """Returns the sample, or None if it cannot be read."""
        # A value of its own: other threads count on meanwhile.
        self.reads = reads = self.reads + 1
        try:
            sample = self.samples[index]
        except Corrupt as error:
            self._note_bad(index, error)
        else:
            self._check_label(index, sample["label"])
            if self.conditions is not None:
                sample = sample | {"condition": self.conditions[index]}
            return sample
        judged = min(max(reads, MIN_JUDGED), len(self.samples))
        if len(self.bad) > self.max_corrupt * judged:
            raise UserError(
                f"{self.name}: {len(self.bad)} unreadable images among {min(reads, judged)} read, "
                f"more than --data.max_corrupt {self.max_corrupt} of {judged}; the last is "
                f"{self.bad[index]}. Repair or remove them, or raise --data.max_corrupt"
            )
        return None

    def _note_bad(self, index: int, error: Corrupt):
        if index in self.bad:
            return
        self.bad[index] = str(error)
        log.warning("%s: skipped %s, unreadable; %d so far", self.name, error, len(self.bad))

    def _check_label(self, index: int, label: int):
        if not 0 <= label < self.n_classes:
            raise UserError(
                f"{self.name}: sample {index} has the label {label}, expected 0 to "
                f"{self.n_classes - 1}; this split may have none (--data.split)"
            )


# ---------------------------------------------------------------- batches


def ordered(dataset: Dataset, seed: int, start: int = 0, ranks: int = 1) -> grain.MapDataset:
    """Returns the endless shuffled order of a data set, by position.

    The element at position i depends on (seed, i) alone, and n successive elements from a multiple
    of n on are each of the n samples once.

    start, ranks: this process will take every ranks-th element from `start` on. A data set with an
    order of its own reads ahead by it.
    """
    readable = Readable(dataset)
    if dataset.order:
        in_own_order = dataset.order(readable, seed, start, ranks)
        samples = grain.MapDataset.source(in_own_order).seed(seed)
    else:
        samples = grain.MapDataset.source(readable).seed(seed).shuffle().repeat()
    if dataset.augment:
        samples = samples.random_map(dataset.augment)
    return samples


def stream(
    dataset: Dataset,
    seed: int,
    batch_size: int,
    position: int = 0,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
) -> Batches:
    """Yields batches of the shuffled, repeated data set without end.

    Process `rank` of `ranks` takes the samples position + rank, position + rank + ranks, ... of
    the order. Together the processes take each sample once, also after their number has changed.

    Args:
        dataset: What to read.
        seed: The order depends on it alone.
        batch_size: Samples of a batch, of this process.
        position: Sample of the order, over all processes, to start from.
        rank: Which process this is.
        ranks: Number of processes.
        workers: Processes that read and decode; 0 for threads of this one. The batches are the
            same. A data set with an order of its own is always read by threads, since each process
            would read all of it: as many as `workers`, if they are more than four.

    Yields:
        As `Batches` has it.
    """
    start = position + rank
    own = ordered(dataset, seed, start, ranks)[start::ranks]
    batches = own.batch(batch_size)
    if dataset.order:
        return _read_ahead(batches, batch_size, 0, max(4, workers))
    return _read_ahead(batches, batch_size, workers)


def in_order(
    dataset: Dataset, batch_size: int, position: int, workers: int, augment: bool = False
) -> Batches:
    """Yields batches of each sample once, in the order of the data set, from `position` on.

    The last batch may be smaller. In the place of a sample that cannot be read stands the next one;
    `everything` leaves it out.

    Args:
        dataset: What to read.
        batch_size: Samples of a batch.
        position: The first sample.
        workers: As in `stream`.
        augment: Whether samples are augmented, as in `stream` but each time alike (not as in
            `everything`, which draws in another way).
    """
    samples = grain.MapDataset.source(Readable(dataset)).seed(0)
    if augment and dataset.augment:
        samples = samples.random_map(dataset.augment)
    return _read_ahead(samples[position:].batch(batch_size), batch_size, workers)


def everything(
    dataset: Dataset, chosen: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns all samples that can be read, in the order of the data set.

    They are one batch, as `Batches` has it.

    chosen: the indices of those to read, in this order; None for all.
    """
    readable = Readable(dataset)
    samples = []
    for index in range(len(readable)) if chosen is None else chosen:
        sample = readable.get(index)
        if sample is not None:
            samples.append(sample)
    if dataset.augment:
        samples = [
            dataset.augment(sample, np.random.default_rng(i)) for i, sample in enumerate(samples)
        ]
    if not samples:
        raise UserError(f"{dataset.name}: none of its {len(readable)} samples can be read")
    names = ["image", "label" if dataset.conditions is None else "condition"]
    return _images_and_labels({name: np.stack([s[name] for s in samples]) for name in names})


def _images_and_labels(batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns a batch as `Batches` has it."""
    if "condition" in batch:
        return batch["image"], batch["condition"]
    return batch["image"], batch["label"].astype(np.int32)


# How far threads read ahead: chosen, not measured. Farther would fill the memory with large images,
# and take the interpreter from the step that is traced meanwhile.
SAMPLES_AHEAD = 512
MOST_BATCHES_AHEAD = 64


def batches_ahead(batch_size: int, threads: int) -> int:
    """Returns how many batches threads read ahead.

    Together they hold `SAMPLES_AHEAD` samples, in `MOST_BATCHES_AHEAD` batches at most; but every
    thread has a batch to read, and one is ready.
    """
    return max(threads + 1, min(SAMPLES_AHEAD // batch_size, MOST_BATCHES_AHEAD))


def _read_ahead(
    batches: grain.MapDataset, batch_size: int, workers: int, threads: int = 4
) -> Batches:
    """Yields batches as (images, labels), while the next ones are read."""
    if workers:
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        if not flags.FLAGS.is_parsed():
            # Grain reads its own flags, which programs without flags never parse.
            flags.FLAGS.mark_as_parsed()
        in_advance = batches.to_iter_dataset(options).mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=4)
        )
    else:
        ahead = batches_ahead(batch_size, threads)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        in_advance = batches.to_iter_dataset(options)
    iterator = iter(in_advance)
    # Without this, worker processes and threads print errors when the program ends.
    atexit.register(iterator.close)
    try:
        for batch in iterator:
            yield _images_and_labels(batch)
    except RuntimeError as error:
        # What a worker process raised arrives as text.
        _, found, message = str(error).rpartition("UserError: ")
        if not found:
            raise
        raise UserError(message.splitlines()[0]) from None
    finally:
        iterator.close()
        atexit.unregister(iterator.close)


# ---------------------------------------------------------------- enough of each class


def check_counts(
    dataset: Dataset, counts: Sequence[int] | np.ndarray, needed: int | Literal["all"], flag: str
) -> None:
    """Raises UserError unless each class has `needed` samples, as `flag` asks for.

    Args:
        dataset: whose classes they are.
        counts: samples of each class, in the order of the labels.
        needed: samples of each; "all" there are, which must be one at least.
        flag: for the message.
    """
    least_needed = 1 if needed == "all" else needed
    few = []
    for name, count in zip(dataset.class_names, counts, strict=True):
        if count < least_needed:
            few.append((name, int(count)))
    if not few:
        return
    name, count = few[0]
    others = ""
    if len(few) > 1:
        others = f", {len(few) - 1} more classes have too few"
    least = min(count for _, count in few)
    if least >= 2:
        advice = f"give {flag} {least} or less, or all"
    elif least == 1:
        advice = f"give {flag} all"  # fewer than 2 positives are not taken
    else:
        advice = "add samples, take the class out, or give --data.label_column none for one class"
    raise UserError(
        f"{flag} {needed}: class {name!r} of {dataset.name} has {count} samples{others}; {advice}"
    )
