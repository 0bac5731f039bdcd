"""Metrics by name. A new one is a file with the mathematics and one line in METRICS."""

from typing import NamedTuple

from metrics.class_agreement import class_agreement
from metrics.fid import frechet_distance
from metrics.inception_score import inception_score
from metrics.kid import kid
from metrics.precision_recall import density_coverage, precision_recall

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000  # of published figures
SPLITS = 10  # of the inception score
K_PRECISION, K_DENSITY = 3, 5  # neighbours


class Metric(NamedTuple):
    """compute(fake, real, classifier, labels) -> values of `scores`, in their order; fake and real are `collect.Evidence`.

    needs: what must be there, of moments, features, logits, classifier. fewest: samples that it needs at the least.
    """

    needs: str
    scores: tuple[str, ...]
    compute: object
    fewest: int = 2


def kernel_distance(fake, real, *_):
    return kid(
        fake.features,
        real.features,
        KID_SUBSETS,
        min(KID_SUBSET_SIZE, len(fake.features), len(real.features)),
        seed=0,
    )


METRICS = {
    "fid": Metric(
        "moments",
        ("fd",),
        lambda fake, real, *_: (frechet_distance(fake.mu, fake.sigma, real.mu, real.sigma),),
    ),
    "inception_score": Metric(
        "logits", ("is",), lambda fake, *_: inception_score(fake.logits, SPLITS)[:1], fewest=SPLITS
    ),
    "kid": Metric("features", ("kd", "kd_std"), kernel_distance),
    "precision_recall": Metric(
        "features",
        ("precision", "recall"),
        lambda fake, real, *_: precision_recall(real.features, fake.features, K_PRECISION),
        fewest=K_PRECISION + 1,
    ),
    "density_coverage": Metric(
        "features",
        ("density", "coverage"),
        lambda fake, real, *_: density_coverage(real.features, fake.features, K_DENSITY),
        fewest=K_DENSITY + 1,
    ),
    "class_agreement": Metric(
        "classifier",
        ("class_agreement",),
        lambda fake, real, classifier, labels: (
            class_agreement(classifier, fake.features, labels),
        ),
    ),
}
