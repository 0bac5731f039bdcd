"""The networks that images are compared by: the names that --features takes.

A new network is a function (source, resize mode) -> `metrics.networks.Network`, and one line in
NETWORKS.
"""

import dataclasses
import logging
import pathlib
import re
from collections.abc import Callable, Sequence

from metrics import networks
from metrics.networks import Network
from metrics.resize import MODES
from models.encoders import FrozenEncoder, load_encoder
from models.encoders.table import find_encoder
from models.vit import PUBLIC_MODELS
from utils.errors import UserError
from utils.words import did_you_mean

log = logging.getLogger("eval")


DINOV2 = "large"  # the size that published distances are of
CONVNEXTV2 = "base"


def dinov2(source: str, resize_mode: str) -> Network:
    """Returns the class token of DINOv2, of images brought to 224 x 224.

    Its Frechet distance is FD-DINOv2 (Stein et al. 2023, arXiv 2306.04675, with the large network).

    Args:
        source: small, base or large, a file, or a hub id; "" = large.
        resize_mode: must be "".
    Raises:
        UserError: a resize mode is given, or the weights cannot be read.
    """
    return one_set("dinov2", "cls", source or DINOV2, resize_mode)


def convnextv2(source: str, resize_mode: str) -> Network:
    """Returns the pooled features of ConvNeXt-V2 (arXiv 2301.00808), of images at 224 x 224.

    Args:
        source: base or tiny, a file, or a hub id; "" = base.
        resize_mode: must be "".
    Raises:
        UserError: a resize mode is given, or the weights cannot be read.
    """
    return one_set("convnextv2", "pooled", source or CONVNEXTV2, resize_mode)


def one_set(name: str, feature_set: str, source: str, resize_mode: str) -> Network:
    """Returns one feature set of an encoder of the hub as a network, of images at 224 x 224."""
    refuse_resize(name, resize_mode, "224")
    encode, params, _ = load_encoder(
        f"{name}:{source}", names=(feature_set,), statistics=("map",), patch_sizes=()
    )
    return networks.encoder(name, encode, params, feature_set, 224, weights_fact(source))


def efficientnet(source: str, resize_mode: str) -> Network:
    """Returns the pooled features of an EfficientNet-Lite, which needs no download.

    No figures are published with it. So samples are compared with held-out images, as many, and
    names of scores carry no number.

    Args:
        source: lite0, lite1 or lite2, or a file; "" = lite0.
        resize_mode: must be "".
    Raises:
        UserError: a resize mode is given, or the weights cannot be read.
    """
    encoder = load_pooled("efficientnet", source, resize_mode)
    network = pooled_network("efficientnet", encoder, weights_fact(source or "lite0"))
    return dataclasses.replace(network, counted=False)


def vit(source: str, resize_mode: str) -> Network:
    """Returns the pooled features of a Vision Transformer: MAE, CLIP or SigLIP 2.

    Scores are called after the model: `fd_vit_clip`.

    Args:
        source: a name of `models.vit.PUBLIC_MODELS`, or NAME:PATH with its weights.
        resize_mode: must be "".
    Raises:
        UserError: no model or a resize mode is given, or the weights cannot be read.
    """
    if not source:
        raise UserError(
            f"--features vit: say which, for example vit:mae (known: {', '.join(PUBLIC_MODELS)})"
        )
    encoder = load_pooled("vit", source, resize_mode)
    return pooled_network(f"vit_{encoder.metadata['model']}", encoder, weights_fact(source))


def load_pooled(name: str, source: str, resize_mode: str) -> FrozenEncoder:
    """Returns an encoder with a feature map "pooled"; it has one way to resize images."""
    refuse_resize(name, resize_mode, "its own size")
    return find_encoder(name).load(name, source, None, "")


def refuse_resize(name: str, resize_mode: str, size: str) -> None:
    """Raises UserError where a resize mode is given to a network that has one way alone."""
    if resize_mode:
        raise UserError(
            f"--resize {resize_mode}: {name} has one way, Pillow's bicubic to {size}; leave it out"
        )


def pooled_network(name: str, encoder: FrozenEncoder, weights: str) -> Network:
    """Returns the network of an encoder's feature map "pooled"."""
    assert isinstance(encoder.image_size, int)
    return networks.encoder(
        name, encoder.maps, encoder.params, "pooled", encoder.image_size, weights
    )


def weights_fact(source: str) -> str:
    """Returns what tells weights apart: the start of a file's SHA-256, or else their name."""
    name, _, path = source.rpartition(":")
    file = path if name in PUBLIC_MODELS else source
    return networks.sha256(file) if pathlib.Path(file).expanduser().is_file() else source


NETWORKS: dict[str, Callable[[str, str], Network]] = {
    "inception": networks.inception,
    "dinov2": dinov2,
    "convnextv2": convnextv2,
    "efficientnet": efficientnet,
    "vit": vit,
    "pixels": networks.pixels,
}


# What stands in for Inception, the best first: networks out of packages, and what is always there.
STAND_INS = ("efficientnet:lite0", "efficientnet:lite2", "pixels")
# What --features takes for them, of the published FDr6 (`metrics.ratios.SIX`).
SIX = ("inception", "convnextv2", "dinov2", "vit:mae", "vit:siglip2", "vit:clip")


def split_networks(features: str) -> list[str]:
    """Returns the networks of --features, which joins several by +; [""] = the usual one."""
    next_name = rf"\+(?=(?:{'|'.join(NETWORKS)})(?::|\+|$))"  # paths may have a + too
    return list(dict.fromkeys(re.split(next_name, features)))


def resize_of(features: str, networks: Sequence[str], resize: str) -> str:
    """Returns how the images of one of several networks are resized: --resize is Inception's.

    Raises:
        UserError: there is no such mode, or Inception is not among several networks.
    """
    if resize and resize not in MODES:
        raise UserError(f"--resize {resize}: expected one of {', '.join(MODES)}")
    names = [network_name(name) for name in networks]
    if len(names) == 1:
        return resize
    if resize and "inception" not in names:
        raise UserError(f"--resize {resize}: it is of Inception, which --features lacks")
    return resize if network_name(features) == "inception" else ""


def network_name(features: str) -> str:
    """Returns the name of a network of --features, before its weights are read: vit_mae."""
    name, _, source = features.partition(":")
    model = source.partition(":")[0]
    return f"{name}_{model}" if name == "vit" else name or "inception"


def check_features(features: str) -> None:
    """Raises UserError where --features names no network. "" stands for the usual one."""
    name = features.partition(":")[0]
    if any(f",{other}" in features for other in NETWORKS):
        raise UserError(
            f"--features {features}: several networks are joined by +, as in pixels+efficientnet"
        )
    if features and name not in NETWORKS:
        raise UserError(
            f"--features {features}: unknown network{did_you_mean(name, NETWORKS)} "
            f"(known: {', '.join(NETWORKS)})"
        )


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
    check_features(features)
    name, _, source = features.partition(":")
    if resize and resize not in MODES:
        raise UserError(f"--resize {resize}: expected one of {', '.join(MODES)}")
    if name == "inception":
        source = source or inception_weights
    network = dataclasses.replace(NETWORKS[name](source, resize), asked=features)
    # Weights are told apart by the start of their SHA-256.
    if name == "inception" and network.facts["weights"] != networks.STANDARD_WEIGHTS:
        log.warning(
            "the Inception weights %s are not the standard ones: "
            "scores do not compare with published figures",
            network.facts["weights"],
        )
    return network


def load_usual_network(
    name: str,
    resize: str,
    inception_weights: str,
    is_teacher: Callable[[str], bool] | None = None,
) -> Network:
    """Returns the network that is usual for some images, or else what is at hand.

    Where Inception is usual and its weights cannot be had, that is the first of STAND_INS that can
    be and taught none of the runs, and a warning says so. Nothing stands in for what was asked for.

    Args:
        name: as `metrics.networks.default_network` returns it.
        resize, inception_weights: as of `load_network`.
        is_teacher: says of a network of --features whether a run was trained in its features; None:
            there are no runs.
    Raises:
        UserError: as `load_network`.
    """
    try:
        return load_network(name, resize, inception_weights)
    except UserError as error:
        if name != "inception" or resize or inception_weights:
            raise
        reason = str(error)
    teachers = [features for features in STAND_INS if is_teacher and is_teacher(features)]
    network = first_at_hand([features for features in STAND_INS if features not in teachers])
    why = f", and not of {teachers[0]}, which the run was trained in" if teachers else ""
    log.warning("%s. Until then scores are of %s%s", reason, network.asked, why)
    return network


def first_at_hand(names: Sequence[str]) -> Network:
    """Returns the first network that can be loaded; the last must be one that always can."""
    for features in names[:-1]:
        try:
            return load_network(features, "", "")
        except UserError:
            continue  # its package is not installed
    return load_network(names[-1], "", "")
