"""Reference statistics in files: mean and covariance of the features of real images.

All are `.npz`. They hold

    mu, sigma               pytorch-fid, EDM, jax-flow
    ref_mu, ref_sigma       MeanFlow, the drifting paper's release
    mu, sigma, arr_0        ADM's reference batches: beside the images themselves
    mu, sigma, provenance   ours, which says in JSON what they were made of; with `features`, if
                            those were kept. Others read them as pytorch-fid's.
"""

import json
import logging
import os
from typing import Any, NamedTuple

import numpy as np

from metrics.evidence import Evidence
from metrics.fid import check_moments
from utils.errors import UserError
from utils.files import replacing
from utils.npz import read_npz

log = logging.getLogger(__name__)

# Names of mean and covariance.
PAIRS = (("mu", "sigma"), ("ref_mu", "ref_sigma"))

# Keys of a provenance: a difference makes the comparison wrong, or may be meant.
REFUSED = ("network", "resize", "weights", "image_shape")
WARNED = ("dataset_name",)


class Statistics(NamedTuple):
    """What a file holds.

    provenance, of our own files: network, resize, weights, dataset_name, split, count,
    image_shape. Of others it is empty.
    """

    evidence: Evidence
    provenance: dict[str, Any]


def write_statistics(
    path: str | os.PathLike,
    evidence: Evidence,
    provenance: dict[str, Any],
    features: bool = False,
) -> None:
    """Writes statistics and where they come from.

    features: whether the features go along, for KID and the nearest-neighbour metrics. 50,000 of
    Inception are 400 MB, in float32.
    """
    arrays: dict[str, Any] = {"mu": evidence.mu, "sigma": evidence.sigma}
    arrays["provenance"] = json.dumps(provenance | {"count": evidence.count})
    if features:
        arrays["features"] = evidence.features
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)


def read_statistics(path: str | os.PathLike) -> Statistics | None:
    """Returns the statistics in an .npz; None when it holds images alone.

    Raises:
        UserError: It holds neither, or what is no covariance.
    """
    arrays = read_npz(path)
    present = [pair for pair in PAIRS if set(pair) <= arrays.keys()]
    if not present:
        if any(array.ndim == 4 for array in arrays.values()):
            return None
        listed = ", ".join(arrays) or "nothing"
        raise UserError(
            f"{path} holds {listed}; expected mu and sigma, ref_mu and ref_sigma, or images as "
            "arr_0"
        )
    mu_name, sigma_name = present[0]
    provenance = {}
    try:
        mu, sigma = check_moments("its", arrays[mu_name], arrays[sigma_name])
        if "provenance" in arrays:
            provenance = json.loads(str(arrays["provenance"]))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(provenance, dict):  # It is of another program.
        provenance = {}
    count = provenance.get("count", 0)
    return Statistics(Evidence(count, mu, sigma, arrays.get("features")), provenance)


def check_provenance(
    path: str | os.PathLike, statistics: Statistics, expected: dict[str, Any], dim: int
) -> None:
    """Refuses statistics that cannot be compared; warns where the difference may be meant.

    Args:
        path: Of the file, for messages.
        statistics: What it holds.
        expected: Facts of this evaluation, by the keys of a provenance.
        dim: Number of features of this evaluation's network.

    Raises:
        UserError: They are of another network, resize mode, weights or size of images.
    """
    found = len(statistics.evidence.mu)
    if found != dim:
        raise UserError(
            f"--fid_stats {path}: statistics of {found} features, but {expected['network']} gives "
            f"{dim}; they are of another network or layer"
        )
    given = statistics.provenance
    if not given:
        log.warning(
            "%s does not say where it comes from: that it is of %s with the resize %r, and of the "
            "right images, is taken on trust",
            path,
            expected["network"],
            expected["resize"],
        )
    if 0 < statistics.evidence.count <= found:
        log.warning(
            "%s: %d images for %d features: the covariance of the reals has not full rank, so the "
            "distance is biased",
            path,
            statistics.evidence.count,
            found,
        )
    for key in (*REFUSED, *WARNED):
        if key not in given or key not in expected or given[key] == expected[key]:
            continue
        message = (
            f"--fid_stats {path}: made with {key} {given[key]}, but this evaluation has "
            f"{expected[key]}"
        )
        if key in REFUSED:
            raise UserError(f"{message}; compute them again with scripts/compute_fid_stats.py")
        log.warning(message)
