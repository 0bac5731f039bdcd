"""Fréchet distances in units of what real images have (FD-loss, 2026, arXiv 2604.28190: FDr).

    ratio = FD(generated, reference) / FD(held-out reals, reference)

so that 1 is as near to the reference as real images are, in any network. Their mean over several
networks is harder to please than one distance.

The held-out reals are drawn as the samples are, so their noise is in the error too. Of two
generators' difference it drops out as far as their ratios are alike.
"""

from collections.abc import Collection, Sequence

import numpy as np

from metrics.errors import Estimate
from metrics.evidence import Comparison, Evidence
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


# The networks of the published FDr6, by their names here, in the order of the paper.
SIX = ("inception", "convnextv2", "dinov2", "vit_mae", "vit_siglip2", "vit_clip")


def mean_name(score: str, networks: Collection[str]) -> str:
    """Returns the name of a mean over networks, which says over how many: fdr1, fdr2, ...

    fdr6 is published, and no other six networks have that name: theirs is fdr6_other.
    """
    name = f"{score}{len(networks)}"
    return f"{name}_other" if len(networks) == len(SIX) and set(networks) != set(SIX) else name


def mean_estimate(ratios: Sequence[Estimate]) -> Estimate:
    """Returns the mean of the ratios of the same samples in several networks.

    What a sample contributes is the mean as well, so that what networks agree on does not average
    out.
    """
    value = float(np.mean([ratio.value for ratio in ratios]))
    lengths = {tuple(map(len, ratio.parts)) for ratio in ratios}
    if len(lengths) > 1 or not ratios[0].parts:  # or files have other held-out reals for each
        return Estimate(value)
    parts = zip(*(ratio.parts for ratio in ratios), strict=True)
    return Estimate(value, tuple(np.mean(part, 0) for part in parts))


def ratio_scores(comparison: Comparison) -> tuple[float]:
    """For `metrics.table`."""
    fake, real = comparison.fake, comparison.real
    distance = frechet_distance(fake.mu, fake.sigma, real.mu, real.sigma)
    return (ratio(distance, _distance_of_reals(comparison)),)


def ratio_estimates(comparison: Comparison) -> dict[str, Estimate]:
    """For `metrics.table`.

    Where a file has only the moments of the held-out reals, or they are very few, they are held
    fixed.
    """
    distance = fid_estimates(comparison)["fd"]
    held_out = _held_out(comparison)
    if held_out.features is None:
        of_reals = Estimate(_distance_of_reals(comparison))
    else:
        of_reals = fid_estimates(comparison._replace(fake=held_out))["fd"]
    return {"fdr": ratio_estimate(distance, of_reals)}


def ratio_estimate(distance: Estimate, of_reals: Estimate) -> Estimate:
    """Returns `ratio`, with what both the samples and the held-out reals contribute to it."""
    value = ratio(distance.value, of_reals.value)
    if not distance.parts:
        return Estimate(value)
    parts = [part / of_reals.value for part in distance.parts]
    parts += [-value * part / of_reals.value for part in of_reals.parts]
    return Estimate(value, tuple(parts))


def _held_out(comparison: Comparison) -> Evidence:
    """Returns the evidence of the held-out reals, which must be there."""
    if comparison.held_out is None:
        raise ValueError("held-out reals are missing; see `needs` in metrics/table.py")
    return comparison.held_out


def _distance_of_reals(comparison: Comparison) -> float:
    """Returns the distance of the held-out reals from the reference."""
    real, held_out = comparison.real, _held_out(comparison)
    return frechet_distance(held_out.mu, held_out.sigma, real.mu, real.sigma)
