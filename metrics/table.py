"""Metrics by name. A new one is a file with the mathematics and one line in METRICS."""

from typing import NamedTuple

from metrics.class_agreement import class_agreement
from metrics.fid import frechet_distance
from metrics.inception_score import inception_score
from metrics.kid import kid
from metrics.precision_recall import density_coverage, precision_recall

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000  # of published figures


class Metric(NamedTuple):
    """compute(fake, real, classifier, labels) -> {score: value}, fake and real `collect.Evidence`. needs: what must be there, of moments, features, logits, classifier."""

    needs: str
    compute: object


def kernel_distance(fake, real, classifier, labels):
    size = min(KID_SUBSET_SIZE, fake.count, real.count)
    return dict(zip(("kd", "kd_std"), kid(fake.features, real.features, KID_SUBSETS, size, seed=0)))


METRICS = {
    "fid": Metric("moments", lambda fake, real, *_: {"fd": frechet_distance(fake.mu, fake.sigma, real.mu, real.sigma)}),
    "inception_score": Metric("logits", lambda fake, *_: {"is": inception_score(fake.logits, splits=min(10, fake.count))[0]}),
    "kid": Metric("features", kernel_distance),
    "precision_recall": Metric("features", lambda fake, real, *_: dict(zip(("precision", "recall"), precision_recall(real.features, fake.features, k=3)))),
    "density_coverage": Metric("features", lambda fake, real, *_: dict(zip(("density", "coverage"), density_coverage(real.features, fake.features, k=5)))),
    "class_agreement": Metric("classifier", lambda fake, real, classifier, labels: {"class_agreement": class_agreement(classifier, fake.features, labels)}),
}
