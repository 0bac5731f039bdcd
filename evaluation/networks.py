"""The networks that images are compared by: the names that --features takes.

A new network is a function (source, resize mode) -> `metrics.networks.Network`, and one line in
NETWORKS.
"""

import logging
import pathlib
from collections.abc import Callable

from metrics import networks
from metrics.networks import Network
from metrics.resize import MODES
from models.encoders import load_encoder
from utils.errors import UserError
from utils.words import did_you_mean

log = logging.getLogger("eval")


def dinov2(source: str, resize_mode: str) -> Network:
    """Returns the class token of DINOv2, of images brought to 224 x 224.

    Its Frechet distance is FD-DINOv2 (Stein et al. 2023, arXiv 2306.04675, with the large network).

    Args:
        source: small, base, large or giant, a file, or a hub id; "" = large.
        resize_mode: must be "".
    Raises:
        UserError: a resize mode is given, or the weights cannot be read.
    """
    if resize_mode:
        raise UserError(
            f"--resize {resize_mode}: DINOv2 has one way, Pillow's bicubic to 224; leave it out"
        )
    name = source or "large"
    encode, params, _ = load_encoder(
        f"dinov2:{name}", names=("cls",), statistics=("map",), patch_sizes=()
    )
    weights = networks.sha256(source) if pathlib.Path(source).is_file() else name
    return networks.encoder("dinov2", encode, params, "cls", 224, weights)


NETWORKS: dict[str, Callable[[str, str], Network]] = {
    "inception": networks.inception,
    "dinov2": dinov2,
    "pixels": networks.pixels,
}


def load_network(features: str, resize: str, inception_weights: str) -> Network:
    """Returns the network of --features, with its weights.

    Args:
        features: NAME or NAME:SOURCE, of NETWORKS.
        resize: how Inception's input is resized, of `metrics.resize.MODES`; "" = the usual way.
        inception_weights: where Inception's weights are, if `features` does not say; "" = the
            standard ones.
    Raises:
        UserError: there is no such network or resize mode, or the weights cannot be read.
    """
    name, _, source = features.partition(":")
    if name not in NETWORKS:
        raise UserError(
            f"--features {features}: unknown network{did_you_mean(name, NETWORKS)} "
            f"(known: {', '.join(NETWORKS)})"
        )
    if resize and resize not in MODES:
        raise UserError(f"--resize {resize}: expected one of {', '.join(MODES)}")
    if name == "inception":
        source = source or inception_weights
    network = NETWORKS[name](source, resize)
    # Weights are told apart by the start of their SHA-256.
    if name == "inception" and network.facts["weights"] != networks.STANDARD_WEIGHTS:
        log.warning(
            "the Inception weights %s are not the standard ones: "
            "scores do not compare with published figures",
            network.facts["weights"],
        )
    return network
