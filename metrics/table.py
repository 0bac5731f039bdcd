"""The metrics by name. A new metric is one file and one line here (and see CONTRIBUTING.md).

1. Write a file with the mathematics, a function of arrays that can be used alone. Below it go two
   more, from a `metrics.evidence.Comparison` to the values of the metric's scores, and to the same
   with what gives their standard errors (`metrics/errors.py`).
2. Add one line to METRICS, with what it needs and the names of its scores.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from metrics.class_agreement import class_agreement_estimates, class_agreement_scores
from metrics.errors import Estimate
from metrics.evidence import Comparison
from metrics.fid import fid_scores
from metrics.frechet_error import fid_estimates
from metrics.inception_score import SPLITS, inception_estimates, inception_scores
from metrics.kid import kid_estimates, kid_scores
from metrics.memorisation import Memorisation, memorisation_estimates, memorisation_scores
from metrics.precision_recall import (
    K_DENSITY,
    K_PRECISION,
    density_coverage_scores,
    precision_recall_scores,
)
from metrics.precision_recall_error import (
    density_coverage_estimates,
    precision_recall_estimates,
)
from metrics.ratios import ratio_estimates, ratio_scores
from metrics.sliced_wasserstein import swr_estimates, swr_scores
from metrics.vendi import GROUPS, vendi_estimates, vendi_scores

Need = Literal["moments", "features", "logits", "classifier", "held_out", "held_out_features"]


class Metric(NamedTuple):
    """One metric, of one or more scores.

    Attributes:
        needs: What must be there of the images. "moments" are always there; "features" and
            "logits" as in `Evidence`; "classifier" with labels and features that are pixels;
            "held_out" where the reference is another split than the held-out one, and
            "held_out_features" where the features of both are there too.
        scores: The names of its values. A feature network may change them: fd of Inception is fid.
        compute: Gives the values in the order of `scores`.
        estimate: Gives the same values by name, each with what gives its error, and figures that
            only many samples have.
        fewest: The number of generated images that it needs at the least.
    """

    needs: Need
    scores: tuple[str, ...]
    compute: Callable[[Comparison], Sequence[float]]
    estimate: Callable[[Comparison], Mapping[str, Estimate]]
    fewest: int = 2


METRICS = {
    "fid": Metric("moments", ("fd",), fid_scores, fid_estimates),
    "fdr": Metric("held_out", ("fdr",), ratio_scores, ratio_estimates),
    "swr": Metric("held_out_features", ("swr",), swr_scores, swr_estimates),
    "inception_score": Metric("logits", ("is",), inception_scores, inception_estimates, SPLITS),
    "kid": Metric("features", ("kd", "kd_std"), kid_scores, kid_estimates),
    "precision_recall": Metric(
        "features",
        ("precision", "recall"),
        precision_recall_scores,
        precision_recall_estimates,
        K_PRECISION + 1,
    ),
    "density_coverage": Metric(
        "features",
        ("density", "coverage"),
        density_coverage_scores,
        density_coverage_estimates,
        K_DENSITY + 1,
    ),
    "vendi": Metric("features", ("vendi", "vendi_ratio"), vendi_scores, vendi_estimates, GROUPS),
    "memorisation": Metric(
        "held_out_features", Memorisation._fields, memorisation_scores, memorisation_estimates
    ),
    "class_agreement": Metric(
        "classifier", ("class_agreement",), class_agreement_scores, class_agreement_estimates
    ),
}
