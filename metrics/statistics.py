"""Reference statistics in files: mean and covariance of the features of real images.

Most are `.npz`. They hold

    mu, sigma               pytorch-fid, EDM, jax-flow
    ref_mu, ref_sigma       MeanFlow, the drifting paper's release
    mu, sigma, arr_0        ADM's reference batches: beside the images themselves
    mu, sigma, avg_mu, avg_sigma
                            FD-loss. The first two are read.
    mu, sigma, provenance   ours, which says in JSON what they were made of; with `features`, if
                            those were kept. Others read them as pytorch-fid's.

EDM2's are `.pkl`, a dict of num_images and, for each network, of {mu, sigma}.
"""

import json
import logging
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from metrics.evidence import Evidence
from metrics.fid import check_moments, check_spread
from utils.errors import UserError
from utils.files import replacing
from utils.npz import read_npz
from utils.paths import to_local
from utils.pickled_arrays import array_of, read_pickled_arrays

log = logging.getLogger(__name__)

# Names of mean and covariance.
PAIRS = (("mu", "sigma"), ("ref_mu", "ref_sigma"))

# What EDM2's files call the statistics of each of our networks.
EDM2_NAMES = {"inception": "fid", "dinov2": "fd_dinov2"}

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


def read_statistics(path: str | os.PathLike, network: str = "inception") -> Statistics | None:
    """Returns the statistics in a file; None when it holds images alone.

    Args:
        path: An .npz, or EDM2's .pkl.
        network: Whose statistics are wanted, where a file has those of several.

    Raises:
        UserError: It holds neither, or what is no covariance.
    """
    path = to_local(path)
    if path.suffix == ".pkl":
        return read_edm2_statistics(path, network)
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
        check_spread("its", np.linalg.eigvalsh(sigma))
        if "provenance" in arrays:
            provenance = json.loads(str(arrays["provenance"]))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(provenance, dict):  # It is of another program.
        provenance = {}
    count = provenance.get("count", 0)
    features = arrays.get("features")
    if type(count) is not int or count < 0:
        raise UserError(f"{path}: a count of {str(count)[:40]!r}; expected a number of images")
    if features is not None and (features.dtype.kind != "f" or features.shape[1:] != mu.shape):
        raise UserError(
            f"{path}: features {features.dtype} {list(features.shape)}; expected floats "
            f"[N, {mu.size}]"
        )
    return Statistics(Evidence(count, mu, sigma, features), provenance)


def read_edm2_statistics(path: pathlib.Path, network: str) -> Statistics:
    """Returns the statistics of one network in a .pkl. Nothing in it is executed.

    Raises:
        UserError: They are not there, or are no covariance.
    """
    holds = read_pickled_arrays(path)
    wanted = EDM2_NAMES.get(network, network)
    entries = holds if isinstance(holds, dict) else {}
    found = entries.get(wanted)
    if not isinstance(found, dict):
        listed = ", ".join(map(str, entries)) or type(holds).__name__
        raise UserError(
            f"{path} holds {listed[:80]}; expected {{{wanted}: {{mu, sigma}}}} for "
            f"--features {network}"
        )
    mu, sigma = array_of(found.get("mu")), array_of(found.get("sigma"))
    if mu is None or sigma is None:
        raise UserError(f"{path}: {wanted} lacks the arrays mu and sigma; get the file again")
    try:
        mu, sigma = check_moments("its", mu, sigma)
        check_spread("its", np.linalg.eigvalsh(sigma))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    count = entries.get("num_images", 0)
    return Statistics(Evidence(count if type(count) is int else 0, mu, sigma), {})


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
