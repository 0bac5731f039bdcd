"""Fréchet distance between two sets of features (Heusel et al. 2017, arXiv 1706.08500, eq. 6).

    d² = |mu1 - mu2|² + Tr(S1) + Tr(S2) - 2 Tr((S1 S2)^(1/2))

in float64. With 2048-dimensional Inception features it is the FID.
"""

import logging

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from metrics.evidence import Comparison
from utils.errors import UserError

log = logging.getLogger(__name__)

# Largest |sigma - sigma^T| of a covariance, relative to the largest value: files that were made in
# float32 are off by 1e-7.
ASYMMETRY = 1e-4

# Most negative eigenvalue of a covariance, relative to the largest, for the same reason.
NEGATIVE = 1e-4


# ---------------------------------------------------------------- the distance


def frechet_distance(
    mu1: Float[ndarray, " D"],
    sigma1: Float[ndarray, "D D"],
    mu2: Float[ndarray, " D"],
    sigma2: Float[ndarray, "D D"],
) -> float:
    """Returns the squared 2-Wasserstein distance of N(mu1, sigma1) and N(mu2, sigma2), at least 0.

    The trace of the root needs no matrix root. With S1 = A Aᵀ and S2 = B Bᵀ, the eigenvalues of
    S1 S2 are the squared singular values of AᵀB, so Tr((S1 S2)^(1/2)) is the sum of those singular
    values. A and B come from symmetric eigendecompositions, which exist for singular covariances
    too (fewer samples than dimensions), and nothing is ever complex. A general `sqrtm(S1 @ S2)`
    fails there, or needs a ridge.

    Raises:
        UserError: Shapes do not agree, values are not finite, or a covariance is none.
    """
    mu1, sigma1 = check_moments("first", mu1, sigma1)
    mu2, sigma2 = check_moments("second", mu2, sigma2)
    if mu1.shape != mu2.shape:
        raise UserError(
            f"statistics of {mu1.size} and of {mu2.size} features cannot be compared; "
            "both must come from the same network and layer"
        )
    product = factor("first", sigma1).T @ factor("second", sigma2)  # AᵀB
    root_trace = np.linalg.svd(product, compute_uv=False).sum()
    distance = np.sum((mu1 - mu2) ** 2) + np.trace(sigma1) + np.trace(sigma2) - 2 * root_trace
    return max(float(distance), 0.0)  # Equal inputs round to about -1e-13.


def factor(which: str, sigma: Float[ndarray, "D D"]) -> Float[ndarray, "D R"]:
    """Returns A with A Aᵀ = sigma, one column for each eigenvalue above rounding.

    An eigenvalue that should be 0 comes out near 1e-16 of the largest. Its root would be 1e-8, and
    a thousand of them would be visible in the result.
    """
    values, vectors = np.linalg.eigh(sigma)
    check_spread(which, values)
    rounding = values[-1] * len(values) * np.finfo(np.float64).eps
    mask = values > rounding
    return vectors[:, mask] * np.sqrt(values[mask])


def check_spread(which: str, eigenvalues: Float[ndarray, " D"]) -> None:
    """Raises UserError if a covariance has a variance below 0 in some direction.

    which: the word for whose it is. eigenvalues: in ascending order.
    """
    smallest, largest = eigenvalues[0], eigenvalues[-1]
    if smallest < -NEGATIVE * max(largest, 0):
        raise UserError(
            f"{which} statistics: sigma has the eigenvalues {smallest:.3g} to {largest:.3g}; "
            "those of a covariance are not negative; check the file"
        )


def check_moments(
    which: str, mu: ndarray, sigma: ndarray
) -> tuple[Float[ndarray, " D"], Float[ndarray, "D D"]]:
    """Returns mean and covariance as float64, the covariance exactly symmetric.

    Raises UserError, with the word `which` for whose they are, if they are none.
    """
    mu, sigma = np.asarray(mu), np.asarray(sigma)
    for name, array in (("mu", mu), ("sigma", sigma)):
        if array.dtype.kind not in "fiu":
            raise UserError(f"{which} statistics: {name} is {array.dtype}; expected real numbers")
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    if mu.size == 0 or mu.ndim != 1 or sigma.shape != (mu.size, mu.size):
        raise UserError(
            f"{which} statistics: mu {mu.shape} and sigma {sigma.shape}; expected [D] and [D, D]"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(f"{which} statistics hold values that are not finite; compute them again")
    if np.abs(sigma - sigma.T).max() > ASYMMETRY * np.abs(sigma).max():
        raise UserError(
            f"{which} statistics: sigma is not symmetric, so it is no covariance; check the file"
        )
    return mu, (sigma + sigma.T) / 2


def fid_scores(comparison: Comparison) -> tuple[float]:
    """For `metrics.table`."""
    fake, real = comparison.fake, comparison.real
    return (frechet_distance(fake.mu, fake.sigma, real.mu, real.sigma),)


# ---------------------------------------------------------------- mean and covariance


class Moments:
    """Mean and covariance of a stream of features, without keeping the features.

        total = Moments(2048)
        total.update(features)      # as often as there are batches
        total.merge(other)          # what another process has seen
        mu, sigma = total.result()

    It holds the count (exact), the mean and the scatter matrix sum (x - mean)(x - mean)ᵀ in
    float64, combined pairwise (Chan, Golub & LeVeque 1979). So the result does not depend on how
    the stream was cut, to about 1e-12. Each process fills its own; `state`, `from_state` and
    `merge` join them.
    """

    def __init__(self, dim: int):
        self.count = 0
        self.mean = np.zeros(dim)
        self.scatter = np.zeros((dim, dim))

    @classmethod
    def from_state(
        cls, count: int, mean: Float[ndarray, " D"], scatter: Float[ndarray, "D D"]
    ) -> "Moments":
        """Returns the moments of a `state`, such as another process sent. Arrays are copied."""
        moments = cls(len(mean))
        moments.count = int(count)
        moments.mean = np.array(mean, np.float64)
        moments.scatter = np.array(scatter, np.float64)
        return moments

    def state(self) -> tuple[int, Float[ndarray, " D"], Float[ndarray, "D D"]]:
        """Returns (count, mean, scatter); the arrays must travel as float64."""
        return self.count, self.mean, self.scatter

    def update(self, features: Float[ndarray, "B D"]) -> None:
        """Adds a batch, from which padding rows were cut off.

        Raises UserError for values that are not finite.
        """
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
        """Returns (mu, sigma), with sigma divided by count - 1.

        Warns when the covariance cannot have full rank. Raises UserError for fewer than two
        samples.
        """
        if self.count < 2:
            raise UserError(f"{self.count} samples given; a covariance needs at least 2")
        if self.count <= self.mean.size:
            log.warning(
                "%d samples of %d features: the covariance has rank %d at most, and the Fréchet "
                "distance is biased upwards; use more than %d samples (50,000 for published "
                "figures)",
                self.count,
                self.mean.size,
                self.count - 1,
                self.mean.size,
            )
        return self.mean.copy(), self.scatter / (self.count - 1)


def moments(features: Float[ndarray, "N D"]) -> tuple[Float[ndarray, " D"], Float[ndarray, "D D"]]:
    """Returns (mu, sigma) of features held in memory, in float64, sigma divided by N - 1.

    Errors and warnings are those of `Moments`.
    """
    total = Moments(np.shape(features)[-1])
    total.update(features)
    return total.result()


def _check_features(features: ndarray, dim: int) -> Float[ndarray, "B D"]:
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
