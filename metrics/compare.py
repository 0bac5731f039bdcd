"""From images to all scores: arrays in, a dict out."""

from collections.abc import Collection, Iterator

import numpy as np
from einops import rearrange
from jaxtyping import Int, Num
from numpy import ndarray

from metrics.class_agreement import fit_classifier
from metrics.collect import collect, to_float
from metrics.errors import Estimate
from metrics.evidence import Comparison, Evidence
from metrics.networks import ERROR, Network, pixels
from metrics.table import METRICS
from utils.errors import UserError


def compare(
    fake: Num[ndarray, "N H W C"],
    real: Num[ndarray, "M H W C"],
    network: Network | None = None,
    metrics: Collection[str] = (),
    *,
    held_out: Num[ndarray, "L H W C"] | None = None,
    labels: Int[ndarray, " N"] | None = None,
    real_labels: Int[ndarray, " M"] | None = None,
    with_errors: bool = True,
    batch_size: int = 256,
) -> dict[str, float]:
    """Returns scores of images by name, each with its standard error as NAME_error.

    The names are those of `eval_fid.py`: they say the network, and the number of samples where
    published figures have another one.

    Args:
        fake: The generated images, uint8 or floats in [-1, 1].
        real: What they are compared with, in the same form.
        network: What images become before they are compared, of `metrics.networks`; None = pixels.
        metrics: Names of `metrics.table.METRICS`; () = all that can be had of what is given.
        held_out: Real images that are not among `real`: for `fdr`, `swr` and `memorisation`, where
            `real` must be what the generator has learned from.
        labels: The classes that were asked for.
        real_labels: Those of the reals. With both, `class_agreement` is computed of pixels.
        with_errors: Whether the standard errors are wanted.
        batch_size: Images per call of the network.

    Raises:
        UserError: A metric is not known, needs what is not given, or refuses the images.
    """
    network = network or pixels()

    def look_at(images: ndarray) -> Evidence:
        if images.ndim != 4 or images.shape[1:] != np.shape(real)[1:]:
            raise UserError(
                f"images of shapes {images.shape} and {np.shape(real)} given; expected arrays "
                "[N, H, W, C] of one size"
            )
        return collect(network, _batches(images, batch_size), batch_size, with_features=True)

    classifier = None
    if labels is not None and real_labels is not None and network.params is None:
        flat = rearrange(to_float(real), "n h w c -> n (h w c)")
        classifier = fit_classifier(flat, real_labels)
    comparison = Comparison(
        fake=look_at(fake),
        real=look_at(real),
        classifier=classifier,
        labels=labels,
        held_out=None if held_out is None else look_at(held_out),
    )
    possible = _possible(comparison)
    impossible = sorted(set(metrics) - set(possible))
    if impossible:
        raise UserError(
            f"metrics {', '.join(impossible)}: not known, or they need what is not given; possible "
            f"here: {', '.join(possible)}"
        )
    return as_columns(estimate(network, comparison, metrics or possible, with_errors))


def estimate(
    network: Network, comparison: Comparison, metrics: Collection[str], with_errors: bool
) -> dict[str, Estimate]:
    """Returns the scores of some metrics by the names that they have with a network."""
    count = comparison.fake.count
    found: dict[str, Estimate] = {}
    for name in metrics:
        metric = METRICS[name]
        if with_errors:
            found |= metric.estimate(comparison)
        else:
            values = map(Estimate, map(float, metric.compute(comparison)))
            found |= zip(metric.scores, values, strict=True)
    return {network.score_name(name, count): found[name] for name in found}


def as_columns(estimates: dict[str, Estimate]) -> dict[str, float]:
    """Returns scores and their standard errors, each beside its score, by the names of columns."""
    columns = {}
    for name, score in estimates.items():
        columns[name] = score.value
        if score.error is not None:
            columns[name + ERROR] = score.error
    return columns


def _possible(comparison: Comparison) -> list[str]:
    """Returns the metrics that can be had."""
    held_out = comparison.held_out is not None
    available = {
        "moments": True,
        "features": True,
        "logits": comparison.fake.logits is not None,
        "classifier": comparison.classifier is not None,
        "held_out": held_out,
        "held_out_features": held_out,
    }
    return [
        name
        for name, metric in METRICS.items()
        if available[metric.needs] and comparison.fake.count >= metric.fewest
    ]


def _batches(images: ndarray, size: int) -> Iterator[ndarray]:
    """Yields the images, a batch at a time."""
    return (images[start : start + size] for start in range(0, len(images), size))
