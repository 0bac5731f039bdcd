"""Fréchet distance between two sets of features (Heusel et al. 2017, arXiv 1706.08500, eq. 6), in float64.

    d² = |mu1 - mu2|² + Tr(S1) + Tr(S2) - 2 Tr((S1 S2)^(1/2))

With 2048-dimensional Inception features it is the FID.
"""

import logging

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from utils.errors import UserError

log = logging.getLogger(__name__)


def frechet_distance(
    mu1: Float[ndarray, " D"],
    sigma1: Float[ndarray, "D D"],
    mu2: Float[ndarray, " D"],
    sigma2: Float[ndarray, "D D"],
) -> float:
    """Squared 2-Wasserstein distance of N(mu1, sigma1) and N(mu2, sigma2); at least 0.

    The trace of the root needs no matrix root. With S1 = A Aᵀ and S2 = B Bᵀ, the eigenvalues of S1 S2 are the
    squared singular values of AᵀB, so Tr((S1 S2)^(1/2)) is the sum of those singular values. A and B come
    from symmetric eigendecompositions, which exist for singular covariances too (fewer samples than
    dimensions), and nothing is ever complex. A general `sqrtm(S1 @ S2)` fails or needs a ridge there.

    Raises UserError for shapes that do not agree, values that are not finite, or a covariance that is not
    symmetric.
    """
    mu1, sigma1 = check_moments("first", mu1, sigma1)
    mu2, sigma2 = check_moments("second", mu2, sigma2)
    if mu1.shape != mu2.shape:
        raise UserError(
            f"statistics of {mu1.size} and of {mu2.size} features cannot be compared; "
            "both must come from the same network and layer"
        )
    root_trace = np.linalg.svd(_factor(sigma1).T @ _factor(sigma2), compute_uv=False).sum()
    distance = np.sum((mu1 - mu2) ** 2) + np.trace(sigma1) + np.trace(sigma2) - 2 * root_trace
    return max(float(distance), 0.0)  # equal inputs round to about -1e-13


def _factor(sigma: Float[ndarray, "D D"]) -> Float[ndarray, "D R"]:
    """A with A Aᵀ = sigma, one column per eigenvalue above rounding.

    An eigenvalue that should be 0 comes out near 1e-16 of the largest; its root would be 1e-8, and a thousand
    of them would be visible in the result.
    """
    values, vectors = np.linalg.eigh(sigma)
    keep = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, keep] * np.sqrt(values[keep])


def check_moments(which, mu, sigma):
    mu, sigma = np.asarray(mu, np.float64), np.asarray(sigma, np.float64)
    if mu.ndim != 1 or sigma.shape != (mu.size, mu.size):
        raise UserError(
            f"{which} statistics: mu {mu.shape} and sigma {sigma.shape}; expected [D] and [D, D]"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(f"{which} statistics hold values that are not finite; compute them again")
    if (
        np.abs(sigma - sigma.T).max() > 1e-4 * np.abs(sigma).max()
    ):  # files made in float32 are off by 1e-7
        raise UserError(
            f"{which} statistics: sigma is not symmetric, so it is no covariance; check the file"
        )
    return mu, (sigma + sigma.T) / 2


class Moments:
    """Mean and covariance of a stream of features, without keeping the features.

    Holds the count (exact), the mean and the scatter matrix sum (x - mean)(x - mean)ᵀ in float64, combined
    pairwise (Chan, Golub & LeVeque 1979), so the result does not depend on how the stream was cut (to about
    1e-12). Each process fills its own; then `Moments.from_state(*state)` and `merge` join them.

        total = Moments(2048); total.update(features); total.merge(other); mu, sigma = total.result()
    """

    def __init__(self, dim: int):
        self.count = 0
        self.mean = np.zeros(dim)
        self.scatter = np.zeros((dim, dim))

    @classmethod
    def from_state(
        cls, count: int, mean: Float[ndarray, " D"], scatter: Float[ndarray, "D D"]
    ) -> "Moments":
        """The inverse of `state`, for what another process sent."""
        self = cls(len(mean))
        self.count = int(count)
        self.mean, self.scatter = (
            np.array(mean, np.float64),
            np.array(scatter, np.float64),
        )  # copies
        return self

    def state(self) -> tuple[int, Float[ndarray, " D"], Float[ndarray, "D D"]]:
        """(count, mean, scatter); the arrays must travel as float64."""
        return self.count, self.mean, self.scatter

    def update(self, features: Float[ndarray, "B D"]) -> None:
        """Adds a batch. Cut padding rows off before. Raises UserError for values that are not finite."""
        features = _check_features(features, self.mean.size)
        if len(features) == 0:
            return
        mean = features.mean(0)
        centred = features - mean  # [B, D]
        self.merge(Moments.from_state(len(features), mean, centred.T @ centred))

    def merge(self, other: "Moments") -> None:
        """Adds everything that `other` has seen."""
        count = self.count + other.count
        if count == 0:
            return
        delta = other.mean - self.mean
        self.scatter += other.scatter
        self.scatter += np.outer(delta, delta * (self.count * other.count / count))
        self.mean += delta * (other.count / count)
        self.count = count

    def result(self) -> tuple[Float[ndarray, " D"], Float[ndarray, "D D"]]:
        """(mu, sigma), sigma divided by count - 1. Warns when the covariance cannot have full rank."""
        if self.count < 2:
            raise UserError(f"{self.count} samples given; a covariance needs at least 2")
        if self.count <= self.mean.size:
            log.warning(
                "%d samples of %d features: the covariance has rank %d at most, and the Fréchet "
                "distance is biased upwards; use more than %d samples (50,000 for published figures)",
                self.count,
                self.mean.size,
                self.count - 1,
                self.mean.size,
            )
        return self.mean.copy(), self.scatter / (self.count - 1)


def moments(features: Float[ndarray, "N D"]) -> tuple[Float[ndarray, " D"], Float[ndarray, "D D"]]:
    """(mu, sigma) of features held in memory, float64, sigma with N - 1. Errors, warning: see `Moments`."""
    total = Moments(np.shape(features)[-1])
    total.update(features)
    return total.result()


def _check_features(features, dim):
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or features.shape[1] != dim:
        raise UserError(f"features of shape {features.shape} given; expected [samples, {dim}]")
    bad = len(features) - np.isfinite(features).all(1).sum()
    if bad:
        raise UserError(
            f"{bad} of {len(features)} samples have features that are not finite; look at the "
            "samples before scoring them"
        )
    return features
