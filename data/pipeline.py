"""From a data set to the bank: an endless shuffled stream that can start at any position, and the filling of the bank before the first step."""

import atexit
import logging

import grain
import numpy as np
from absl import flags

from data.images import Corrupt
from utils.errors import UserError

log = logging.getLogger(__name__)

LOOKED_AT = 1000  # samples by which the share of unreadable ones is judged at the least


class Readable:
    """The samples of a data set; where one is unreadable, the next one stands in for it, so that positions in the stream mean the same with and without.

    Unreadable samples are named in the log, once each; they are `bad`. Raises UserError when they are more than the data set's max_corrupt of the samples read so
    far, by this process; and for a label that is no class: not every source can tell without reading everything.
    """

    def __init__(self, dataset):
        self.source, self.name, self.max_corrupt, self.n_classes = (
            dataset.samples,
            dataset.name,
            dataset.max_corrupt,
            dataset.n_classes,
        )
        self.bad, self.reads = {}, 0

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        n = len(self.source)
        for i in range(int(index), int(index) + n):
            sample = self.get(i % n)
            if sample is not None:
                return sample
        raise UserError(f"{self.name}: none of its {n} samples can be read")

    def get(self, index):
        """The sample, or None if it cannot be read."""
        self.reads = reads = self.reads + 1
        try:
            sample = self.source[index]
            if not 0 <= sample["label"] < self.n_classes:
                raise UserError(
                    f"{self.name}: sample {index} has the label {sample['label']}, expected 0 to {self.n_classes - 1}; this split may have none (--data.split)"
                )
            return sample
        except Corrupt as error:
            if index not in self.bad:
                self.bad[index] = str(error)
                log.warning(
                    "%s: skipped %s, unreadable; %d so far", self.name, error, len(self.bad)
                )
        judged = min(max(reads, LOOKED_AT), len(self.source))
        if len(self.bad) > self.max_corrupt * judged:
            raise UserError(
                f"{self.name}: {len(self.bad)} unreadable images among {min(reads, judged)} read, more than --data.max_corrupt {self.max_corrupt} of {judged}; "
                f"the last is {self.bad[index]}. Repair or remove them, or raise --data.max_corrupt"
            )
        return None


def ordered(dataset, seed: int, start: int = 0, ranks: int = 1):
    """The endless shuffled order, as a Grain data set: element i depends on (seed, i) alone; n successive ones from a multiple of n are each sample once.

    start, ranks: every ranks-th element from `start` on will be taken, for a data set that reads ahead.
    """
    source = Readable(dataset)
    if dataset.order:
        samples = grain.MapDataset.source(dataset.order(source, seed, start, ranks)).seed(seed)
    else:
        samples = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    return samples.random_map(dataset.augment) if dataset.augment else samples


def stream(
    dataset,
    seed: int,
    batch_size: int,
    position: int = 0,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
):
    """Batches (images [S,H,W,C], labels [S]) of the shuffled, repeated data set, from global sample `position` on.

    The order depends on `seed` alone, so a resumed run continues with the very next sample. Rank r of R takes the samples r, r + R, ... of the order, so together
    they take each once, also after R has changed. workers: processes that read and decode, 0 = threads of this one; the batches are the same. A data set with an
    order of its own is read once, so by threads, as many as `workers` if they are more than four.
    """
    start = position + rank
    batches = ordered(dataset, seed, start, ranks)[start::ranks].batch(batch_size)
    return _batches(batches, 0, max(4, workers)) if dataset.order else _batches(batches, workers)


def in_order(dataset, batch_size: int, position: int, workers: int):
    """Batches of each sample once in the order of the data set, from sample `position` on; the last may be smaller."""
    return _batches(
        grain.MapDataset.source(Readable(dataset))[position:].batch(batch_size), workers
    )


def _batches(batches, workers, threads=4):
    """The batches as (images, labels), read ahead."""
    if workers:
        batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
        if (
            not flags.FLAGS.is_parsed()
        ):  # Grain reads its own flags, which programs without flags never parse
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=4)
        )
    else:
        batches = batches.to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=64)
        )
    iterator = iter(batches)
    atexit.register(
        iterator.close
    )  # without it, processes and threads complain about the end of the program
    try:
        for batch in iterator:
            yield batch["image"], batch["label"].astype(np.int32)
    except RuntimeError as error:  # what a worker process raised arrives as text
        _, found, message = str(error).rpartition("UserError: ")
        if not found:
            raise
        raise UserError(message.splitlines()[0]) from None
    finally:
        iterator.close()
        atexit.unregister(iterator.close)


def everything(dataset):
    """All samples that can be read, in the order of the data set: images [S,H,W,C], labels [S]."""
    source = Readable(dataset)
    samples = [s for s in map(source.get, range(len(source))) if s is not None]
    if dataset.augment:
        samples = [dataset.augment(s, np.random.default_rng(i)) for i, s in enumerate(samples)]
    return np.stack([s["image"] for s in samples]), np.array(
        [s["label"] for s in samples], np.int32
    )


def check_counts(dataset, filled, needed: int, flag: str):
    """Every class must hold `needed` samples."""
    few = [(name, int(n)) for name, n in zip(dataset.class_names, filled) if n < needed]
    if few:
        name, n = few[0]
        raise UserError(
            f"{flag} {needed}: class {name!r} of {dataset.name} has {n} samples{f', {len(few) - 1} more classes have too few' if few[1:] else ''}; "
            f"give {flag} {min(n for _, n in few)} or less, or all."
        )
