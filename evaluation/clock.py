"""How long the parts of an evaluation take."""

import time
from collections.abc import Callable, Iterator

import numpy as np


class Clock:
    """Passes batches on, shows them to `see`, and takes the time: of the generator, of what happens between batches (features), and of the rest (metrics)."""

    def __init__(self, stream: Iterator[np.ndarray], on_batch: Callable):
        self.stream, self.on_batch, self.waited = stream, on_batch, 0.0
        self.start = self.end = time.perf_counter()

    def __iter__(self):
        while True:
            before = time.perf_counter()
            batch = next(self.stream, None)
            self.end = time.perf_counter()
            self.waited += self.end - before
            if batch is None:
                return
            self.on_batch(batch)
            yield batch

    def timings(self, n: int) -> dict:
        """Of n samples, until now: seconds, rates per second and shares of the time. With compilation, where there was any."""
        total, features = time.perf_counter() - self.start, self.end - self.start - self.waited
        return {
            "seconds": total,
            "generation_per_s": n / self.waited,
            "generation_share": self.waited / total,
            "features_per_s": n / features,
            "features_share": features / total,
            "metrics_seconds": total - self.waited - features,
        }

    def report(self, n: int) -> str:
        return (
            "{seconds:.1f} s with compilation; generation {generation_per_s:,.0f}/s, {generation_share:.0%} of the time; "
            "features {features_per_s:,.1f}/s, {features_share:.0%}; metrics {metrics_seconds:.1f} s"
        ).format(**self.timings(n))
