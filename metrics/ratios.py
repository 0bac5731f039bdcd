"""Fréchet distances in units of what real images have (FD-loss, 2026, arXiv 2604.28190: FDr).

    ratio = FD(generated, reference) / FD(held-out reals, reference)

so that 1 is as near to the reference as real images are, in any network. Their mean over several
networks is harder to please than one distance.
"""

from collections.abc import Sequence

import numpy as np

from metrics.errors import Estimate
from metrics.evidence import Comparison
from metrics.fid import frechet_distance
from metrics.frechet_error import fid_estimates
from utils.errors import UserError

SAME = 1e-9  # a squared distance in features, below which two sets are the same but for rounding


def ratio(distance: float, of_reals: float) -> float:
    """Returns the distance of generated images over that of held-out reals.

    Raises:
        UserError: The reals are at no distance, so they are those of the reference.
    """
    if of_reals <= SAME:
        raise UserError(
            "--metrics fdr: the held-out reals are the reference itself; give another "
            "--reference_split or --fid_stats"
        )
    return distance / of_reals


def mean_name(score: str, networks: int) -> str:
    """Returns the name of a mean over networks, which says over how many: fdr1, fdr2, ..."""
    return f"{score}{networks}"


def mean_estimate(ratios: Sequence[Estimate]) -> Estimate:
    """Returns the mean of the ratios of the same samples in several networks.

    What a sample contributes is the mean as well, so that what networks agree on does not average
    out.
    """
    value = float(np.mean([ratio.value for ratio in ratios]))
    if not all(ratio.parts for ratio in ratios):
        return Estimate(value)
    parts = zip(*(ratio.parts for ratio in ratios), strict=True)
    return Estimate(value, tuple(np.mean(part, 0) for part in parts))


def ratio_scores(comparison: Comparison) -> tuple[float]:
    """For `metrics.table`."""
    fake, real = comparison.fake, comparison.real
    distance = frechet_distance(fake.mu, fake.sigma, real.mu, real.sigma)
    return (ratio(distance, _distance_of_reals(comparison)),)


def ratio_estimates(comparison: Comparison) -> dict[str, Estimate]:
    """For `metrics.table`. The held-out reals are held fixed too."""
    distance = fid_estimates(comparison)["fd"]
    of_reals = _distance_of_reals(comparison)
    parts = tuple(part / of_reals for part in distance.parts)
    return {"fdr": Estimate(ratio(distance.value, of_reals), parts)}


def _distance_of_reals(comparison: Comparison) -> float:
    """Returns the distance of the held-out reals from the reference."""
    real, held_out = comparison.real, comparison.held_out
    if held_out is None:
        raise ValueError("held-out reals are missing; see `needs` in metrics/table.py")
    return frechet_distance(held_out.mu, held_out.sigma, real.mu, real.sigma)
