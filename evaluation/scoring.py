"""A stream of images in, a row of scores out."""

from collections.abc import Iterable

import jax
import numpy as np
from jax.sharding import NamedSharding

from evaluation.reference import Reference
from metrics.collect import collect
from metrics.evidence import Comparison
from metrics.networks import count_suffix
from metrics.ratios import mean_ratio
from metrics.table import METRICS
from utils.errors import UserError


def score(
    images: Iterable[np.ndarray],
    reference: Reference,
    labels: np.ndarray | None,
    batch_size: int,
    sharding: NamedSharding | None,
) -> dict:
    """Returns the scores of a stream of images, with the settings that they were made with.

    All processes must call it, and all get the same row.

    Args:
        images: batches [<= batch_size,H,W,C] of this process's images: uint8, or floats in [-1, 1].
        reference: what they are compared with; it also says which metrics are computed.
        labels: [N] of the images of all processes, for class agreement alone; or None.
        batch_size: images per call of the network.
        sharding: of the leading axis of a batch over this process's devices; it divides batch_size.
    Raises:
        UserError: there are too few images, or `metrics.collect.collect` or a metric refuses them.
    """
    network = reference.network
    needs = {METRICS[metric].needs for metric in reference.metrics}
    with_features = bool(needs & {"features", "classifier", "held_out_features"})
    fake = collect(network, images, batch_size, with_features, sharding)
    check_count(fake.count, reference.metrics)
    classifier, held_out = reference.classifier, reference.held_out
    comparison = Comparison(fake, reference.real, classifier, labels, held_out)
    found = {}
    for name in reference.metrics:
        metric = METRICS[name]
        values = metric.compute(comparison)
        found |= zip(metric.scores, values, strict=True)
    settings = {
        "num_samples": fake.count,
        **reference.settings,
        "reference_count": reference.real.count,
    }
    scores = {network.score_name(name, fake.count): float(value) for name, value in found.items()}
    if held_out is not None:
        settings["held_out_count"] = held_out.count
    return with_mean_ratio(settings | scores)


def with_mean_ratio(row: dict) -> dict:
    """Returns the row with the mean of its ratios, if it has any: fdr2_5k of two networks."""
    ratios = {name: value for name, value in row.items() if name.startswith("fdr_")}
    if not ratios:
        return row
    name, value = mean_ratio(ratios)
    return row | {name + count_suffix(row["num_samples"]): value}


def check_count(n: int, metrics: tuple[str, ...]) -> None:
    """Refuses a number of samples of which a metric cannot be computed.

    Raises:
        UserError: a metric needs more than `n`, or a process would have none.
    """
    limits = [(METRICS[metric].fewest, metric) for metric in metrics]
    limits.append((jax.process_count(), "the number of processes"))
    fewest, reason = max(limits)
    if n < fewest:
        raise UserError(f"--num_samples {n}: too few to score; {reason} needs at least {fewest}")
