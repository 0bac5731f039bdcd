"""Does a sample look like the class that was asked for? A classifier of real samples judges it."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int, Num
from numpy import ndarray

from metrics.errors import Estimate, share
from metrics.evidence import Comparison, needed

if TYPE_CHECKING:
    from sklearn.svm import SVC


def fit_classifier(images: Num[ndarray, "S ..."], labels: Int[ndarray, " S"]) -> "SVC":
    """Returns a support vector classifier on raw pixels, for small data sets. Deterministic."""
    from sklearn.svm import SVC

    return SVC(C=10.0, gamma="scale").fit(_flatten(images), labels)


def class_agreement(
    classifier: "SVC", images: Num[ndarray, "S ..."], labels: Int[ndarray, " S"]
) -> float:
    """Returns the fraction of images, in [0, 1], that the classifier assigns to their labels.

    On real test samples it is the classifier's accuracy.
    """
    return float(np.mean(agrees(classifier, images, labels)))


def agrees(
    classifier: "SVC", images: Num[ndarray, "S ..."], labels: Int[ndarray, " S"]
) -> Bool[ndarray, " S"]:
    """Returns which images the classifier assigns to their labels."""
    return classifier.predict(_flatten(images)) == labels


def class_agreement_scores(comparison: Comparison) -> tuple[float]:
    """For `metrics.table`. The features are the images themselves, flattened."""
    images, labels = needed(comparison.fake.features), needed(comparison.labels)
    return (class_agreement(comparison.classifier, images, labels),)


def class_agreement_estimates(comparison: Comparison) -> dict[str, Estimate]:
    """For `metrics.table`."""
    images, labels = needed(comparison.fake.features), needed(comparison.labels)
    return {"class_agreement": share(agrees(comparison.classifier, images, labels))}


def _flatten(images: ndarray) -> ndarray:
    return images.reshape(len(images), -1)
