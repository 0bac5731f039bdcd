"""Feature networks: what an image becomes before sets of images are compared.

A new one is a function (source, resize mode) -> Network and one line in the table of `eval_fid.py`.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from metrics.inception import WEIGHTS_SHA256, load_inception
from metrics.resize import resize
from utils.errors import UserError

SMALLEST = 32  # smaller images are enlarged before Inception
STANDARD_COUNT = 50_000  # of published figures; others carry their count in the name


@dataclasses.dataclass(frozen=True)
class Network:
    """features(params, images [B,H,W,C]) -> {"features": [B,D]} and, of a classifier, {"logits": [B,K]}; runs sharded where images are.

    params: None of a network on the host, which takes images in [-1, 1] as the generator makes them; others take uint8.
    facts: what statistics must agree on to be compared: network, resize, weights (the start of a SHA-256, or a name).
    names: of scores, where they have one of their own; suffix: of the others. counted: whether a name carries a count other than 50,000.
    """

    name: str
    features: Callable
    params: object
    facts: dict
    names: dict
    suffix: str = ""
    counted: bool = True

    def score_name(self, score: str, count: int) -> str:
        """`fd` as fid, fid_5k, fid_clean_5k, fd_dinov2, fd_pixels: no figure has the name of one that it does not compare with."""
        name = self.names.get(score, score + self.suffix)
        if self.facts["resize"] not in ("", "tf"):
            name += f"_{self.facts['resize']}"
        if self.counted and count != STANDARD_COUNT:
            name += f"_{count // 1000}k" if count % 1000 == 0 else f"_{count}"
        return name


def default_network(shape: tuple[int, ...] | None) -> str:
    """By the images: Inception for RGB from 32 pixels on, and where nothing is known of them."""
    return "inception" if not shape or shape[-1] == 3 and min(shape[:2]) >= SMALLEST else "pixels"


def inception(source: str, resize_mode: str) -> Network:
    """The FID network. source: weights, "" for the standard file. Grey becomes RGB; sides under 32 are enlarged by a whole number, nearest neighbour."""
    mode = resize_mode or "tf"
    network, params = load_inception(source, mode)
    weights = sha256(source) if source else WEIGHTS_SHA256[:16]

    def features(params, images):
        out = network(params, enlarge(rgb(images)))
        return {"features": out["2048"], "logits": out["logits_unbiased"]}

    return Network(
        "inception",
        features,
        params,
        {"network": "inception", "resize": mode, "weights": weights},
        {"fd": "fid", "kd": "kid", "kd_std": "kid_std"},
    )


def pixels(source: str, resize_mode: str) -> Network:
    """The image itself, flattened, [-1, 1] in float64 on the host: for sets too small or too plain for a network."""
    if source or resize_mode:
        raise UserError(
            f"--features pixels: it takes neither weights nor a resize mode, given {source or resize_mode}; leave them out"
        )
    features = lambda params, images: {"features": np.clip(images, -1, 1).reshape(len(images), -1)}
    return Network(
        "pixels",
        features,
        None,
        {"network": "pixels", "resize": "", "weights": ""},
        {"fd": "fd_pixels", "kd": "kd_pixels", "kd_std": "kd_pixels_std"},
        counted=False,
    )


def encoder(
    name: str, encode: Callable, params, feature_set: str, size: int, weights: str
) -> Network:
    """A network of ours: encode(params, images in [-1, 1]) -> {feature_set: [B,1,D], ...}, for images brought to `size` by Pillow's bicubic."""

    @jax.jit
    def features(params, images):
        x = resize(rgb(images), size, "clean") / 127.5 - 1
        return {"features": encode(params, x)[feature_set][:, 0]}

    return Network(
        name,
        features,
        params,
        {"network": name, "resize": "", "weights": weights},
        {},
        suffix=f"_{name}",
    )


def rgb(images):
    """Grey images three times."""
    return jnp.repeat(images, 3, -1) if images.shape[-1] == 1 else images


def enlarge(images):
    """Sides under 32 become at least 32, each pixel a square: the network's own resize would blur 8 x 8 to nothing that it knows."""
    factor = -(-SMALLEST // min(images.shape[1:3]))
    return images if factor == 1 else jnp.repeat(jnp.repeat(images, factor, 1), factor, 2)


def sha256(path) -> str:
    """The first 16 digits of a file's SHA-256."""
    with open(Path(path).expanduser(), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
