"""A stream of images in, a row of scores out."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from evaluation.reference import Reference
from metrics.collect import Collector
from metrics.compare import as_columns, estimate
from metrics.errors import Estimate
from metrics.evidence import Comparison, Evidence
from metrics.networks import count_suffix
from metrics.ratios import mean_estimate, mean_name
from metrics.sliced_wasserstein import DIRECTIONS, SEED
from metrics.table import METRICS
from utils.errors import UserError


class Scored(NamedTuple):
    """The row of an evaluation, and its scores by name with what gives their errors.

    The second is empty where the row was in a table already, or no errors are asked for.
    """

    row: dict
    estimates: dict[str, Estimate]


def score(
    images: Iterable[np.ndarray],
    reference: Reference,
    labels: np.ndarray | None,
    batch_size: int,
    sharding: NamedSharding | None,
    with_errors: bool = True,
) -> Scored:
    """Returns the scores of a stream of images, with the settings that they were made with.

    All processes must call it, and all get the same row.

    Args:
        images: batches [<= batch_size,H,W,C] of this process's images: uint8, or floats in [-1, 1].
        reference: what they are compared with; it also says which metrics are computed.
        labels: [N] of the images of all processes, for class agreement alone; or None. Conditions
            may be in their place, as class agreement is none of one class.
        batch_size: images per call of the network.
        sharding: of the leading axis of a batch over this process's devices; it divides batch_size.
        with_errors: whether the standard errors are wanted.
    Raises:
        UserError: there are too few images, or `metrics.collect.collect` or a metric refuses them.
    """
    found = score_in_networks(images, [reference], labels, batch_size, sharding, with_errors)
    return found[0]


def score_in_networks(
    images: Iterable[np.ndarray],
    references: Sequence[Reference],
    labels: np.ndarray | None,
    batch_size: int,
    sharding: NamedSharding | None,
    with_errors: bool = True,
) -> list[Scored]:
    """Returns what `score` does for each of several references, in one pass over the images.

    All their networks are on the devices at once.
    """
    collectors = []
    for reference in references:
        needs = {METRICS[metric].needs for metric in reference.metrics}
        # Errors are of what each sample contributes, so they need the features too.
        with_features = with_errors or bool(needs & {"features", "classifier", "held_out_features"})
        collectors.append(Collector(reference.network, batch_size, with_features, sharding))
    for batch in images:
        for collector in collectors:
            collector.add(batch)
    pairs = zip(collectors, references, strict=True)
    return [
        _score(collector.result(), reference, labels, with_errors) for collector, reference in pairs
    ]


def _score(
    fake: Evidence, reference: Reference, labels: np.ndarray | None, with_errors: bool
) -> Scored:
    """Returns the scores of the evidence of some images."""
    check_count(fake.count, reference.metrics)
    classifier, held_out = reference.classifier, reference.held_out
    comparison = Comparison(fake, reference.real, classifier, labels, held_out)
    settings = {
        "num_samples": fake.count,
        **reference.settings,
        "reference_count": reference.real.count,
    }
    estimates = estimate(reference.network, comparison, reference.metrics, with_errors)
    if held_out is not None:
        settings["held_out_count"] = held_out.count
    if "swr" in reference.metrics:
        settings |= {"directions": DIRECTIONS, "directions_seed": SEED}
    return with_mean_ratio(settings, estimates)


def with_mean_ratio(settings: dict, estimates: dict[str, Estimate]) -> Scored:
    """Returns scores as a row, with the means of the ratios, if there are any: fdr2_5k of two."""
    for score in ("fdr", "swr"):
        ratios = [estimates[name] for name in estimates if name.startswith(f"{score}_")]
        if ratios:
            name = mean_name(score, len(ratios)) + count_suffix(settings["num_samples"])
            estimates = estimates | {name: mean_estimate(ratios)}
    row = settings | as_columns(estimates)
    return Scored(row, estimates)


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
