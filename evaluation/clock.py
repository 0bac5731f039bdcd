"""How long the parts of an evaluation take: the generator, the network, the metrics."""

import time
from collections.abc import Callable, Iterator

import numpy as np


class Clock:
    """Passes on a stream of batches and takes the time.

    While the clock waits for a batch, the generator works. Between two batches, the network does.
    What comes after the last batch is the time of the metrics.

    Args:
        stream: the batches.
        on_batch: is shown every batch before it is passed on.
    """

    def __init__(
        self, stream: Iterator[np.ndarray], on_batch: Callable[[np.ndarray], None] | None = None
    ):
        self.stream = stream
        self.on_batch = on_batch
        self.waited = 0.0
        self.start = self.end = time.perf_counter()

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            before = time.perf_counter()
            batch = next(self.stream, None)
            self.end = time.perf_counter()
            self.waited += self.end - before
            if batch is None:
                return
            if self.on_batch:
                self.on_batch(batch)
            yield batch

    def timings(self, n: int) -> dict[str, float]:
        """Returns seconds, samples per second and shares of the time, of n samples until now.

        A first evaluation includes compilation.
        """
        total = time.perf_counter() - self.start
        features = self.end - self.start - self.waited
        return {
            "seconds": total,
            "generation_per_s": n / self.waited,
            "generation_share": self.waited / total,
            "features_per_s": n / features,
            "features_share": features / total,
            "metrics_seconds": total - self.waited - features,
        }

    def report(self, n: int) -> str:
        """Returns the timings of n samples in a line of text."""
        template = (
            "{seconds:.1f} s with compilation; "
            "generation {generation_per_s:,.0f}/s, {generation_share:.0%} of the time; "
            "features {features_per_s:,.1f}/s, {features_share:.0%}; "
            "metrics {metrics_seconds:.1f} s"
        )
        return template.format(**self.timings(n))
