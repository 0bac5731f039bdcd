"""Reference statistics in files: mean and covariance of the features of real images.

Most are `.npz`. They hold

    mu, sigma               pytorch-fid, clean-fid, torch-fidelity, JiT, EDM, jax-flow
    ref_mu, ref_sigma       MeanFlow, the drifting paper's release
    mu, sigma, arr_0        ADM's reference batches, which REPA takes too: beside the images
    mu, sigma, avg_mu, avg_sigma
                            FD-loss. The first two are read.
    mu, sigma, provenance   ours, which says in JSON what they were made of; with `features`, if
                            those were kept. Others read them as pytorch-fid's.

Two kinds are `.pkl`:

    num_images, NETWORK: {mu, sigma}
                            EDM2, with an entry for each network
    raw_mean, raw_cov, num_items
                            StyleGAN's cache of its fid metric: the sums of x and of x xᵀ over so
                            many images, and further attributes
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
from utils.words import a_few

log = logging.getLogger(__name__)

# Names of mean and covariance.
PAIRS = (("mu", "sigma"), ("ref_mu", "ref_sigma"))

# What EDM2's files call the statistics of each of our networks.
EDM2_NAMES = {"inception": "fid", "dinov2": "fd_dinov2"}

STYLEGAN_NAMES = ("raw_mean", "raw_cov", "num_items")

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
        path: An .npz, or EDM2's or StyleGAN's .pkl.
        network: Whose statistics are wanted, where a file has those of several.

    Raises:
        UserError: It holds neither, or what is no covariance.
    """
    path = to_local(path)
    if path.suffix == ".pkl":
        return read_pickled_statistics(path, network)
    arrays = read_npz(path)
    present = [pair for pair in PAIRS if set(pair) <= arrays.keys()]
    if not present:
        if any(array.ndim == 4 for array in arrays.values()):
            return None
        raise UserError(
            f"{path} holds {a_few(arrays)}; expected mu and sigma, ref_mu and ref_sigma, or images "
            "as arr_0; scripts/compute_fid_stats.py makes such a file of images"
        )
    mu_name, sigma_name = present[0]
    provenance = {}
    try:
        mu, sigma = check_moments("its", arrays[mu_name], arrays[sigma_name])
        check_spread("its", np.linalg.eigvalsh(sigma))
        if "provenance" in arrays:
            provenance = json.loads(str(arrays["provenance"]))
    except RecursionError:
        raise UserError(f"{path}: a provenance that is too deep; expected a flat one") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(provenance, dict):  # It is of another program.
        provenance = {}
    count = provenance.get("count", 0)
    features = arrays.get("features")
    if type(count) is not int or not 0 <= count < 2**63:
        raise UserError(f"{path}: a count of {str(count)[:40]!r}; expected a number of images")
    if features is not None and (features.dtype.kind != "f" or features.shape[1:] != mu.shape):
        raise UserError(
            f"{path}: features {features.dtype} {list(features.shape)}; expected floats "
            f"[N, {mu.size}]"
        )
    if features is not None and count not in (0, len(features)):
        raise UserError(f"{path}: features of {len(features)} images, a count of {count}")
    if features is not None and not np.isfinite(features).all():
        raise UserError(f"{path}: features that are not finite; compute them again")
    return Statistics(Evidence(count, mu, sigma, features), provenance)


def read_pickled_statistics(path: pathlib.Path, network: str) -> Statistics:
    """Returns the statistics of one network in a .pkl. Nothing in it is executed.

    StyleGAN's do not say of which network they are, as most .npz do not.

    Raises:
        UserError: They are not there, or are no covariance.
    """
    holds = read_pickled_arrays(path)
    entries = holds if isinstance(holds, dict) else {}
    wanted = EDM2_NAMES.get(network, network)
    try:
        if set(STYLEGAN_NAMES) <= entries.keys():
            evidence = stylegan_evidence(entries)
        elif isinstance(entries.get(wanted), dict):
            evidence = edm2_evidence(entries, wanted)
        else:
            listed = a_few(holds) if isinstance(holds, dict) else f"a {type(holds).__name__}"
            raise UserError(
                f"it holds {listed}; expected {{{wanted}: {{mu, sigma}}}} for --features "
                f"{network}, as EDM2's files have it, or {', '.join(STYLEGAN_NAMES)}, as "
                "StyleGAN's; scripts/compute_fid_stats.py makes statistics of images"
            )
        check_spread("its", np.linalg.eigvalsh(evidence.sigma))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Statistics(evidence, {})


def edm2_evidence(entries: dict[str, Any], name: str) -> Evidence:
    """Returns what EDM2's file has for a network, by its name there; errors as above."""
    mu, sigma = array_of(entries[name].get("mu")), array_of(entries[name].get("sigma"))
    if mu is None or sigma is None:
        raise UserError(f"{name} lacks the arrays mu and sigma; get the file again")
    count = entries.get("num_images", 0)
    return Evidence(count if type(count) is int else 0, *check_moments("its", mu, sigma))


def stylegan_evidence(entries: dict[str, Any]) -> Evidence:
    """Returns mean and covariance, divided by N as StyleGAN does, of its sums; errors as above."""
    first, second = array_of(entries["raw_mean"]), array_of(entries["raw_cov"])
    if first is None or second is None:
        raise UserError(
            "raw_mean and raw_cov are no arrays, as where StyleGAN keeps features alone (for kid "
            "or pr); give the file of its fid metric"
        )
    count = entries["num_items"]
    if type(count) is not int or not 2 <= count < 2**63:
        raise UserError("num_items is no number of images from 2 on; get the file again")
    first, second = check_moments("its", first, second)
    mu = first / count
    return Evidence(count, mu, second / count - np.outer(mu, mu))


def check_provenance(
    path: str | os.PathLike,
    statistics: Statistics,
    expected: dict[str, Any],
    dim: int,
    flag: str = "fid_stats",
) -> None:
    """Refuses statistics that cannot be compared; warns where the difference may be meant.

    Args:
        path: Of the file, for messages.
        statistics: What it holds.
        expected: Facts of this evaluation, by the keys of a provenance.
        dim: Number of features of this evaluation's network.
        flag: That has named the file, for messages.

    Raises:
        UserError: They are of another network, resize mode, weights or size of images.
    """
    found = len(statistics.evidence.mu)
    if found != dim:
        raise UserError(
            f"--{flag} {path}: statistics of {found} features, but {expected['network']} gives "
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
        said = " ".join(str(given[key]).split())[:60]
        message = (
            f"--{flag} {path}: made with {key} {said}, but this evaluation has {expected[key]}"
        )
        if key in REFUSED:
            raise UserError(f"{message}; compute them again with scripts/compute_fid_stats.py")
        log.warning(message)
