"""Reference statistics in files: mean and covariance of the features of real images, and where they come from.

Read, all as `.npz`: `mu sigma` (pytorch-fid, EDM, jax-flow), `ref_mu ref_sigma` (MeanFlow, the drifting paper's release), and ADM's reference batches
(`mu sigma` beside the images `arr_0`). Ours are `mu sigma`, `provenance` (JSON), and `features` where they were kept: so others read ours.
"""

import json
import logging
from typing import NamedTuple

import numpy as np

from metrics.collect import Evidence
from metrics.fid import check_moments
from utils.errors import UserError
from utils.files import replacing
from utils.npz import read_npz

log = logging.getLogger(__name__)
PAIRS = (("mu", "sigma"), ("ref_mu", "ref_sigma"))
REFUSED = (
    "network",
    "resize",
    "weights",
    "image_shape",
)  # provenance that makes a comparison wrong
WARNED = ("dataset_name",)  # ... that may be meant


class Statistics(NamedTuple):
    evidence: Evidence
    provenance: dict  # of our files: network, resize, weights, dataset_name, split, count, image_shape; {} of others


def write_statistics(path, evidence: Evidence, provenance: dict, features: bool = False) -> None:
    """features: whether they go along, for KID and the nearest-neighbour metrics (400 MB for 50,000 of Inception, in float32)."""
    extra = {"features": evidence.features} if features else {}
    with replacing(path) as temporary:
        np.savez(
            temporary,
            mu=evidence.mu,
            sigma=evidence.sigma,
            provenance=json.dumps(provenance | {"count": evidence.count}),
            **extra,
        )


def read_statistics(path) -> Statistics | None:
    """The statistics in an .npz; None when it holds images alone. Raises UserError when it holds neither, or no covariance."""
    arrays = read_npz(path)
    pair = next((p for p in PAIRS if set(p) <= arrays.keys()), None)
    if pair is None:
        if any(a.ndim == 4 for a in arrays.values()):
            return None
        raise UserError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; expected mu and sigma, ref_mu and ref_sigma, or images as arr_0"
        )
    try:
        mu, sigma = check_moments("its", *(arrays[k] for k in pair))
        provenance = json.loads(str(arrays["provenance"])) if "provenance" in arrays else {}
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    provenance = provenance if isinstance(provenance, dict) else {}  # of another program
    return Statistics(
        Evidence(provenance.get("count", 0), mu, sigma, arrays.get("features")), provenance
    )


def check_provenance(path, statistics: Statistics, expected: dict, dim: int) -> None:
    """expected: facts of this evaluation, by the keys of a provenance. Raises UserError where they cannot be compared; warns where that may be meant."""
    found = len(statistics.evidence.mu)
    if found != dim:
        raise UserError(
            f"--fid_stats {path}: statistics of {found} features, but {expected['network']} gives {dim}; they are of another network or layer"
        )
    given = statistics.provenance
    if not given:
        log.warning(
            "%s does not say where it comes from: that it is of %s with the resize %r, and of the right images, is taken on trust",
            path,
            expected["network"],
            expected["resize"],
        )
    if 0 < statistics.evidence.count <= found:
        log.warning(
            "%s: %d images for %d features: the covariance of the reals has not full rank, so the distance is biased",
            path,
            statistics.evidence.count,
            found,
        )
    for key in (*REFUSED, *WARNED):
        if key in given and key in expected and given[key] != expected[key]:
            message = f"--fid_stats {path}: made with {key} {given[key]}, but this evaluation has {expected[key]}"
            if key in REFUSED:
                raise UserError(f"{message}; compute them again with scripts/compute_fid_stats.py")
            log.warning(message)
