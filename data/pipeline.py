"""From a data set to the bank: an endless shuffled stream that can start at any position, and the filling of the bank before the first step."""

import grain
import numpy as np

from utils.errors import UserError


def stream(dataset, seed: int, batch_size: int, position: int = 0, rank: int = 0, ranks: int = 1):
    """Batches (images [S,H,W,C], labels [S]) of the shuffled, repeated data set, from global sample `position` on.

    The order depends on `seed` alone, so a resumed run continues with the very next sample. Rank r of R takes the samples r, r + R, ... of the order.
    """
    samples = grain.MapDataset.source(dataset.source).seed(seed).shuffle().repeat()
    batches = samples[position + rank :: ranks].batch(batch_size)
    for batch in batches.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=64)):
        yield batch["image"], batch["label"].astype(np.int32)


def everything(dataset):
    """All samples in the order of the data set: images [S,H,W,C], labels [S]."""
    samples = [dataset.source[i] for i in range(len(dataset.source))]
    return np.stack([s["image"] for s in samples]), np.array([s["label"] for s in samples], np.int32)


def check_counts(dataset, filled, needed: int, flag: str):
    """Every class must hold `needed` samples."""
    few = [(name, int(n)) for name, n in zip(dataset.class_names, filled) if n < needed]
    if few:
        name, n = few[0]
        raise UserError(f"{flag} {needed}: class {name!r} of {dataset.name} has {n} samples{f', {len(few) - 1} more classes have too few' if few[1:] else ''}; "
                        f"give {flag} {min(n for _, n in few)} or less, or all.")  # fmt: skip
