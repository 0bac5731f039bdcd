"""One evaluation: a stream of images in, a row of scores out."""

import logging
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from evaluation.reference import Reference
from metrics.collect import collect
from metrics.table import METRICS
from utils.errors import UserError

log = logging.getLogger(__name__)


def score(
    images: Iterator[np.ndarray],
    reference: Reference,
    labels: np.ndarray | None,
    batch_size: int,
    sharding,
) -> dict:
    """Scores, with their settings, of a stream of batches: this process's share of the images. labels [N]: of all samples, for class agreement alone.

    All processes must call it and get the same. Raises UserError for too few samples, and as `collect` and the metrics do.
    """
    network = reference.network
    keep = any(METRICS[m].needs in ("features", "classifier") for m in reference.metrics)
    fake = collect(network, images, batch_size, keep, sharding)
    check_count(fake.count, reference.metrics)
    found = {}
    for metric in reference.metrics:
        found |= zip(
            METRICS[metric].scores,
            METRICS[metric].compute(fake, reference.real, reference.classifier, labels),
            strict=True,
        )
    settings = {
        "num_samples": fake.count,
        "features": network.name,
        "resize": network.facts["resize"],
        "weights": network.facts["weights"],
        "reference": reference.name,
        "reference_count": reference.real.count,
    }
    return settings | {network.score_name(k, fake.count): float(v) for k, v in found.items()}


def check_count(n: int, metrics: tuple[str, ...]) -> None:
    """Raises UserError when a metric cannot be computed from n samples, or a process would have none."""
    fewest, why = max(
        [(METRICS[m].fewest, m) for m in metrics]
        + [(jax.process_count(), "the number of processes")]
    )
    if n < fewest:
        raise UserError(f"--num_samples {n}: too few to score; {why} needs at least {fewest}")


class Clock:
    """Passes batches on, shows them to `see`, and takes the time: of the generator, of what happens between batches (features), and of the rest (metrics)."""

    def __init__(self, stream: Iterator[np.ndarray], see: Callable):
        self.stream, self.see, self.waited = stream, see, 0.0
        self.start = self.end = time.perf_counter()

    def __iter__(self):
        while True:
            before = time.perf_counter()
            batch = next(self.stream, None)
            self.end = time.perf_counter()
            self.waited += self.end - before
            if batch is None:
                return
            self.see(batch)
            yield batch

    def shares(self, n: int) -> dict:
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
        ).format(**self.shares(n))


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
