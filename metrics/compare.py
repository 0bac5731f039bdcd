"""From images to all scores: arrays in, a dict out."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from einops import rearrange
from jaxtyping import Int, Num
from numpy import ndarray

from metrics.class_agreement import fit_classifier
from metrics.collect import collect, to_float
from metrics.errors import Estimate
from metrics.evidence import Comparison, Evidence
from metrics.networks import ERROR, Network, count_suffix, pixels
from metrics.ratios import mean_estimate, mean_name
from metrics.table import METRICS
from utils.errors import UserError


def compare(
    fake: Num[ndarray, "N H W C"],
    real: Num[ndarray, "M H W C"],
    network: Network | Sequence[Network] | None = None,
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
            Of several, scores that two call by one name are left out. The means of their ratios are
            added: fdr2, and fdr1 of one.
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
    networks = [network or pixels()] if isinstance(network, Network | None) else list(network)
    if not networks:
        raise UserError("network: an empty list given; expected some, or None for pixels")

    def look_at(images: ndarray, network: Network) -> Evidence:
        if images.ndim != 4 or images.shape[1:] != np.shape(real)[1:]:
            raise UserError(
                f"images of shapes {images.shape} and {np.shape(real)} given; expected arrays "
                "[N, H, W, C] of one size"
            )
        return collect(network, _batches(images, batch_size), batch_size, with_features=True)

    def compare_in(network: Network) -> Comparison:
        classifier = None
        if labels is not None and real_labels is not None and network.params is None:
            flat = rearrange(to_float(real), "n h w c -> n (h w c)")
            classifier = fit_classifier(flat, real_labels)
        return Comparison(
            fake=look_at(fake, network),
            real=look_at(real, network),
            classifier=classifier,
            labels=labels,
            held_out=None if held_out is None else look_at(held_out, network),
        )

    comparisons = [compare_in(network) for network in networks]
    possible = [_possible(comparison) for comparison in comparisons]
    somewhere = list(dict.fromkeys(itertools.chain(*possible)))
    impossible = sorted(set(metrics) - set(somewhere))
    if impossible:
        raise UserError(
            f"metrics {', '.join(impossible)}: not known, or they need what is not given; possible "
            f"here: {', '.join(somewhere)}"
        )
    found = [
        estimate(network, comparison, [m for m in metrics or here if m in here], with_errors)
        for network, comparison, here in zip(networks, comparisons, possible, strict=True)
    ]
    return as_columns(join_networks(networks, found, len(fake)))


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


def join_networks(
    networks: Sequence[Network], found: Sequence[dict[str, Estimate]], count: int
) -> dict[str, Estimate]:
    """Returns the scores of the same images in several networks, and the means of their ratios.

    Scores that two networks call by one name, such as precision, are left out. A mean is called
    after the number of networks, and after a resize of Inception that is not the usual one: fdr2,
    fdr2_clean_5k.

    Args:
        networks: The networks.
        found: The scores in each of them, by the names of `estimate`.
        count: Number of generated images.
    """
    times = Counter(itertools.chain(*found))
    joined = {name: value for scores in found for name, value in scores.items() if times[name] == 1}
    modes = sorted({network.facts["resize"] for network in networks} - {"", "tf"})
    for score in ("fdr", "swr"):
        names = [network.score_name(score, count) for network in networks]
        if all(name in joined for name in names):
            name = mean_name(score, [network.name for network in networks])
            name = "_".join([name, *modes]) + count_suffix(count)
            joined[name] = mean_estimate([joined[name_in_one] for name_in_one in names])
    return joined


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
