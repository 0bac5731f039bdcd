"""What metrics compare: sets of images by their features."""

from typing import Any, NamedTuple

from jaxtyping import Float, Int
from numpy import ndarray


class Evidence(NamedTuple):
    """One set of images, as the metrics see it.

    Attributes:
        count: N, the number of images.
        mu: Mean of their features.
        sigma: Covariance of their features, divided by N - 1.
        features: In the order of the images; None where they were not kept.
        logits: Of a classifier with K classes, in the same order; None of other networks.
    """

    count: int
    mu: Float[ndarray, " D"]
    sigma: Float[ndarray, "D D"]
    features: Float[ndarray, "N D"] | None = None
    logits: Float[ndarray, "N K"] | None = None


class Comparison(NamedTuple):
    """All that a metric of `metrics.table` may look at.

    Attributes:
        fake: The generated images.
        real: The images that they are compared with.
        classifier: Of `metrics.class_agreement.fit_classifier`; None where there is none.
        labels: The classes that were asked for, [N] of the generated images; None without a
            classifier.
        held_out: Real images that are not among those of `real`; None where they are not needed.
    """

    fake: Evidence
    real: Evidence
    classifier: Any = None
    labels: Int[ndarray, " N"] | None = None
    held_out: Evidence | None = None


def needed(array: ndarray | None) -> ndarray:
    """Returns features or logits that a metric needs, as `metrics.table` says of it."""
    if array is None:
        raise ValueError("features or logits were not kept; see `needs` in metrics/table.py")
    return array
