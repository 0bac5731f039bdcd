"""A stream of images in, a row of scores out."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from evaluation.reference import Reference
from metrics.collect import Collector
from metrics.compare import as_columns, estimate, join_networks
from metrics.errors import Estimate
from metrics.evidence import Comparison, Evidence
from metrics.sliced_wasserstein import DIRECTIONS, SEED
from metrics.table import METRICS
from utils.errors import UserError


class Scored(NamedTuple):
    """The row of an evaluation, and its scores by name with what gives their errors.

    The second is empty where the row was in a table already, or no errors are asked for. The third
    are the networks that were loaded for it, each as --features asks for it.
    """

    row: dict
    estimates: dict[str, Estimate]
    networks: tuple[str, ...] = ()


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
    return score_in_networks(images, [reference], labels, batch_size, sharding, with_errors)


def score_in_networks(
    images: Iterable[np.ndarray],
    references: Sequence[Reference],
    labels: np.ndarray | None,
    batch_size: int,
    sharding: NamedSharding | None,
    with_errors: bool = True,
    ahead: bool = True,
) -> Scored:
    """Returns what `score` does, in several networks as one row and in one pass over the images.

    All networks are on the devices at once.

    Args:
        references: the same real images in each network.
        ahead: whether the next images are made while the devices work on the last.
    """
    collectors = []
    for reference in references:
        needs = {METRICS[metric].needs for metric in reference.metrics}
        # Errors are of what each sample contributes, so they need the features too.
        with_features = with_errors or bool(needs & {"features", "classifier", "held_out_features"})
        collectors.append(Collector(reference.network, batch_size, with_features, sharding, ahead))
    for batch in images:
        for collector in collectors:
            collector.add(batch)
    evidence = [collector.result() for collector in collectors]
    found = [
        _estimates(fake, reference, labels, with_errors)
        for fake, reference in zip(evidence, references, strict=True)
    ]
    first, count = references[0], evidence[0].count
    settings = {
        "num_samples": count,
        **settings_of(references),
        "reference_count": first.real.count,
    }
    if first.held_out is not None:
        settings["held_out_count"] = first.held_out.count
    if "swr" in first.metrics:
        settings |= {"directions": DIRECTIONS, "directions_seed": SEED}
    networks = [reference.network for reference in references]
    estimates = join_networks(networks, found, count)
    return Scored(settings | as_columns(estimates), estimates)


def settings_of(references: Sequence[Reference]) -> dict[str, str]:
    """Returns what a row says of the networks, joined by +, and of the reference."""
    settings = [reference.settings for reference in references]
    joined = {
        name: "+".join(of_network[name] for of_network in settings if of_network[name])
        for name in ("features", "resize", "weights")
    }
    return settings[0] | joined


def networks_of(references: Sequence[Reference]) -> tuple[str, ...]:
    """Returns the networks of some references, each as --features asks for it."""
    return tuple(reference.network.asked for reference in references)


def score_names(references: Sequence[Reference], count: int) -> list[str]:
    """Returns the names of the scores that a row of `count` samples has at the least."""
    names = Counter(name for one in references for name in one.score_names(count))
    return [name for name, times in names.items() if times == 1]


def _estimates(
    fake: Evidence, reference: Reference, labels: np.ndarray | None, with_errors: bool
) -> dict[str, Estimate]:
    """Returns the scores of some images in the network of a reference."""
    check_count(fake.count, reference.metrics)
    comparison = Comparison(fake, reference.real, reference.classifier, labels, reference.held_out)
    return estimate(reference.network, comparison, reference.metrics, with_errors)


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
