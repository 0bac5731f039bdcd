"""A bar that says how far a stream of images is, and the time left."""

import sys
from collections.abc import Iterable, Iterator

import numpy as np

from utils import processes


def with_bar(stream: Iterable[np.ndarray], total: int, what: str) -> Iterator[np.ndarray]:
    """Passes on batches, and draws on a terminal how many images are done, as trainings do.

    The first process draws its own images. Nothing is drawn into a file or a pipe.

    Args:
        stream: the batches.
        total: images of all batches together.
        what: the images are called.
    """
    if not (processes.is_first() and sys.stderr.isatty()):
        yield from stream
        return
    from tqdm import tqdm

    with tqdm(
        total=total, desc=what, unit="image", dynamic_ncols=True, leave=False, file=sys.stderr
    ) as bar:
        for batch in stream:
            yield batch
            bar.update(len(batch))
