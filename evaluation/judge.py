"""Whether the network of the scores is the encoder that the run was trained in.

A generator that matched the features of a network scores well in that network whatever its images
look like. So a judge should be another network than the teacher.
"""

import itertools
import logging
import pathlib
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from evaluation.networks import CONVNEXTV2, DINOV2
from metrics.networks import sha256
from models.efficientnet import VARIANTS, package_file
from models.encoders import convnextv2, dinov2, efficientnet, vit
from models.vit import find_public_model
from utils.errors import UserError
from utils.weight_files.tensors import find_file

log = logging.getLogger("eval")

# The encoders that are networks of scores too: their own weights, of an encoder and of a judge.
TEACHERS = {
    "dinov2": next(iter(dinov2.PUBLISHED)),
    "convnextv2": next(iter(convnextv2.PUBLISHED)),
    "efficientnet": efficientnet.DEFAULT,
    "vit": vit.DEFAULT,
}
JUDGES = {
    "dinov2": DINOV2,
    "convnextv2": CONVNEXTV2,
    "efficientnet": efficientnet.DEFAULT,
    "vit": "",
}


def judge_is_encoder(features: str, run: ConfigDict) -> bool:
    """Returns whether the judge has the same weights as one of the run's own encoders.

    Args:
        features: the network of the scores, as --features takes it.
        run: the configuration of a run.
    """
    judge, _, source = features.partition(":")
    if judge not in JUDGES:
        return False
    encoder: Any = run.encoder
    names, sources = encoder.name.split("+"), encoder.path.split(",")
    for name, path in itertools.zip_longest(names, sources, fillvalue=""):
        if name == judge:
            taught = weights_identity(name, path or TEACHERS[name])
            return taught == weights_identity(judge, source or JUDGES[judge])
    return False


def warn_of_teachers(networks: Iterable[str], run: ConfigDict) -> None:
    """Warns of each network of the scores that is one of the run's own encoders.

    networks: those that are loaded, each as --features takes it.
    """
    for features in networks:
        if judge_is_encoder(features, run):
            log.warning(
                "--features %s: the run was trained in the features of this very network, so its "
                "scores flatter it; score it in another network too",
                features,
            )


def weights_identity(encoder: str, source: str) -> str:
    """Returns what two sources of the same weights have in common.

    That is the start of their SHA-256 where it is known, or else their repository on the hub. A
    file of public weights whose checksum is not known is not recognised.
    """
    name, _, _ = source.removeprefix("hf://").partition(":")
    if encoder == "vit" and (public := find_public_model(name)):
        return public.repository  # NAME:PATH says of a file that it holds the weights of NAME
    try:
        if encoder == "efficientnet" and name in VARIANTS:
            return sha256(package_file(name))
        if pathlib.Path(source).expanduser().exists():
            return sha256(find_file(pathlib.Path(source).expanduser()))
    except UserError:
        return source  # they are not here any more, or not installed
    if encoder in ("dinov2", "convnextv2"):
        published = {"dinov2": dinov2, "convnextv2": convnextv2}[encoder].PUBLISHED
        for key, weights in published.items():
            if name in (key, weights.repository):
                return weights.sha256[:16] or weights.repository
    return name
