"""One evaluation: a stream of images in, a row of scores out."""

import logging
from collections.abc import Iterator

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


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
