"""Does a sample look like the class that was asked for? The judge is a classifier trained on real samples."""

import numpy as np


def fit_classifier(images: np.ndarray, labels: np.ndarray):
    """A support vector classifier on raw pixels, for small data sets: images [S, H, W, C], labels [S]. Deterministic."""
    from sklearn.svm import SVC

    return SVC(C=10.0, gamma="scale").fit(images.reshape(len(images), -1), labels)


def class_agreement(classifier, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images [S, H, W, C] that the classifier assigns to their labels [S]; on real test samples, its accuracy."""
    return float(np.mean(classifier.predict(images.reshape(len(images), -1)) == labels))
