"""The moments of the reals from a file, in the place of those of the data (--drift.moments_file).

It is for the field `frechet`. The file is one that `eval_fid.py --fid_stats` reads.
"""

import logging
from typing import Any, NamedTuple

import jax
import numpy as np

import data
from evaluation.judge import TEACHERS, weights_identity
from evaluation.load_reference import read_fid_stats
from models.encoders import encoder_of_set
from training.resolve_encoder import Encoder
from utils.errors import UserError
from utils.paths import to_path

log = logging.getLogger("train")

# The feature sets of encoders that are features of networks of scores, and what these are called.
NETWORKS = {
    ("none", "global"): "pixels",
    ("dinov2", "cls"): "dinov2",
    ("efficientnet", "pooled"): "efficientnet",
    ("vit", "pooled"): "vit",
}


class RealMoments(NamedTuple):
    """The moments of one feature set, float64."""

    feature_set: str
    mean: np.ndarray  # [D]
    covariance: np.ndarray  # [D, D]


def read_moments(config: Any, dataset: data.Dataset, encoder: Encoder) -> RealMoments | None:
    """Returns the moments in the file of --drift.moments_file; None without one, or in a dry run.

    Args:
        config: the configuration of the run.
        dataset: the data as the generator sees it.
        encoder: whose features have these moments.
    Raises:
        UserError: the file is not of the one feature set of the encoder.
    """
    file = config.drift.moments_file
    if not file or encoder.encode is None:
        return None
    told = f"--drift.moments_file {file}"
    if not to_path(file).is_file():
        raise UserError(
            f"{told}: there is no such file; expected statistics, as "
            "scripts/compute_fid_stats.py writes them"
        )
    sample = jax.ShapeDtypeStruct((1, *dataset.shape), np.float32)
    sets: Any = jax.eval_shape(encoder.encode, encoder.params, sample)
    if len(sets) > 1:
        raise UserError(
            f"{told}: it has the moments of one feature set, but the encoder gives {len(sets)}, "
            f"{', '.join(sets)}; choose one by --encoder.name, --encoder.layers and "
            "--encoder.statistics"
        )
    ((name, features),) = sets.items()
    _, locations, width = features.shape
    if locations > 1:
        raise UserError(
            f"{told}: it has the moments of one vector per image, but {name} has {locations}; "
            "choose another feature set by --encoder.layers and --encoder.statistics"
        )

    owner = encoder_of_set(name, {"encoders": config.encoder.name.split("+")})
    network = NETWORKS.get((owner, name), "")
    if owner == "none" and dataset.latents:
        network = ""  # raw latents are no pixels
    statistics, _ = read_fid_stats(file, network)
    if statistics is None:
        raise UserError(f"{told}: it holds images; expected their statistics, mu and sigma")
    evidence, given = statistics
    if len(evidence.mu) != width:
        raise UserError(
            f"{told}: it has the moments of {len(evidence.mu)} features, but {name} of the "
            f"encoder {owner} has {width}; they are of another network or layer"
        )
    if given:
        check_origin(told, given, owner, name, network)
        check_weights(told, given, owner, config.encoder.path)
    else:
        log.warning(
            "%s: it does not say where it comes from; that it is of %s of the encoder %s, and of "
            "the right images, is taken on trust",
            told,
            name,
            owner,
        )
    return RealMoments(name, evidence.mu, evidence.sigma)


def check_origin(told: str, given: dict[str, Any], owner: str, name: str, network: str) -> None:
    """Raises UserError for the moments of another network than the encoder.

    Args:
        told: the flag, for messages.
        given: the provenance of the moments.
        owner: the encoder.
        name: its feature set.
        network: which network of scores has these features; "" for none.
    """
    # A Vision Transformer is called after its model, such as vit_clip.
    found = str(given.get("network", ""))
    if network and found.partition("_")[0] == network:
        return
    advice = "leave it out, for the moments of the data"
    if network:
        advice = f"make them by scripts/compute_fid_stats.py --features {network}"
    raise UserError(
        f"{told}: its moments are of the network {found}, but samples are compared in {name} of "
        f"the encoder {owner}; {advice}"
    )


def check_weights(told: str, given: dict[str, Any], owner: str, path: str) -> None:
    """Warns of the moments of other weights than the encoder's."""
    if owner not in TEACHERS:
        return
    theirs = weights_identity(owner, str(given.get("weights", "")))
    ours = weights_identity(owner, path.strip(",") or TEACHERS[owner])
    if theirs != ours:
        log.warning("%s: made with the weights %s; the encoder has %s", told, theirs, ours)
