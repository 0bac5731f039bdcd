"""The networks that images are scored by, by name."""

import logging
import pathlib

from metrics import networks
from metrics.resize import MODES
from utils.errors import UserError
from utils.words import did_you_mean

log = logging.getLogger("eval")


def dinov2(source: str, resize_mode: str) -> networks.Network:
    """The class token of DINOv2, 224 x 224 (FD-DINOv2: Stein et al. 2023, arXiv 2306.04675, who use the large one)."""
    from models.encoders import load_encoder

    if resize_mode:
        raise UserError(
            f"--resize {resize_mode}: DINOv2 has one way, Pillow's bicubic to 224; leave it out"
        )
    encode, params, _ = load_encoder(
        f"dinov2:{source or 'large'}", names=("cls",), statistics=("map",), patch_sizes=()
    )
    weights = networks.sha256(source) if pathlib.Path(source).is_file() else source or "large"
    return networks.encoder("dinov2", encode, params, "cls", 224, weights)


NETWORKS = {"inception": networks.inception, "dinov2": dinov2, "pixels": networks.pixels}


def load_network(features: str, resize: str, inception_weights: str) -> networks.Network:
    """The network of --features, NAME or NAME:SOURCE, with its weights."""
    name, _, source = features.partition(":")
    if name not in NETWORKS:
        raise UserError(
            f"--features {features}: unknown network{did_you_mean(name, NETWORKS)} (known: {', '.join(NETWORKS)})"
        )
    if resize and resize not in MODES:
        raise UserError(f"--resize {resize}: expected one of {', '.join(MODES)}")
    network = NETWORKS[name](source or (inception_weights if name == "inception" else ""), resize)
    if name == "inception" and network.facts["weights"] != networks.WEIGHTS_SHA256[:16]:
        log.warning(
            "the Inception weights %s are not the standard ones: scores do not compare with published figures",
            network.facts["weights"],
        )
    return network
