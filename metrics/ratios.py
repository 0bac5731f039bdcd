"""Fréchet distances in units of what real images have (FD-loss, 2026, arXiv 2604.28190: FDr).

    ratio = FD(generated, reference) / FD(held-out reals, reference)

so that 1 is as near to the reference as real images are, in any network. Their mean over several
networks is harder to please than one distance.
"""

from collections.abc import Mapping

import numpy as np

from metrics.evidence import Comparison
from metrics.fid import frechet_distance
from utils.errors import UserError


def ratio(distance: float, of_reals: float) -> float:
    """Returns the distance of generated images over that of held-out reals.

    Raises:
        UserError: The reals are at no distance, so they are those of the reference.
    """
    if of_reals <= 0:
        raise UserError(
            "--metrics fdr: the held-out reals are the reference itself; give another "
            "--reference_split or --fid_stats"
        )
    return distance / of_reals


def mean_ratio(ratios: Mapping[str, float]) -> tuple[str, float]:
    """Returns the mean over networks with its name, which says over how many: fdr1, fdr2, ...

    ratios: by network; at least one.
    """
    return f"fdr{len(ratios)}", float(np.mean(list(ratios.values())))


def ratio_scores(comparison: Comparison) -> tuple[float]:
    """For `metrics.table`."""
    fake, real, held_out = comparison.fake, comparison.real, comparison.held_out
    if held_out is None:
        raise ValueError("held-out reals are missing; see `needs` in metrics/table.py")
    distance = frechet_distance(fake.mu, fake.sigma, real.mu, real.sigma)
    return (ratio(distance, frechet_distance(held_out.mu, held_out.sigma, real.mu, real.sigma)),)
