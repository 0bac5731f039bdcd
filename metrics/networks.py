"""Feature networks: what an image becomes before sets of images are compared.

A new one is a function (source, resize mode) -> Network and one line in `evaluation/networks.py`.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num
from numpy import ndarray

from metrics.inception import load_inception
from metrics.inception_weights import WEIGHTS_SHA256
from metrics.resize import resize
from utils.errors import UserError

STANDARD_WEIGHTS = WEIGHTS_SHA256[:16]  # as in the facts of Inception
SMALLEST = 32  # side in pixels; smaller images are enlarged before Inception
ERROR = "_error"  # how the name of a standard error ends; before it is the name of its score
SLOPE, RESIDUAL = "_slope", "_residual"  # the same of the line through distances, before it `inf`
STANDARD_COUNT = 50_000  # samples of published figures


@dataclasses.dataclass(frozen=True)
class Network:
    """A feature network.

    Attributes:
        name: As in --features.
        features: (params, images [B,H,W,C]) -> {"features": [B,D]} and, of a classifier,
            {"logits": [B,K]}. It runs sharded where images are, and takes them as uint8; a network
            on the host takes them in [-1, 1], as the generator makes them.
        params: Its parameters; None of a network on the host.
        facts: What statistics must agree on to be compared: `network`, `resize`, and `weights`
            (the start of a SHA-256, or a name).
        names: {score: its name} of scores that have a name of their own with this network.
        suffix: Of the names of all others.
        counted: Whether a name carries a number of samples other than 50,000. False where no
            figures are published: then samples are compared with held-out images, as many.
        asked: What --features must be for this network and these weights; "" where nobody asked.
    """

    name: str
    features: Callable[[Any, Any], dict[str, Any]]
    params: Any
    facts: dict[str, str]
    names: dict[str, str]
    suffix: str = ""
    counted: bool = True
    asked: str = ""

    def score_name(self, score: str, count: int) -> str:
        """Returns the name of a score of `count` samples: of "fd" fid, fid_5k, fid_clean_5k, ...

        No figure has the name of one that it does not compare with.
        """
        for ending in (ERROR, SLOPE, RESIDUAL):
            if score.endswith(ending):
                return self.score_name(score.removesuffix(ending), count) + ending
        name = self.names.get(score, score + self.suffix)
        if self.facts["resize"] not in ("", "tf"):
            name += f"_{self.facts['resize']}"
        return name + count_suffix(count) if self.counted else name


def count_suffix(count: int) -> str:
    """Returns what a name of a score says of the number of samples: "" of 50,000, or _5k, _540."""
    if count == STANDARD_COUNT:
        return ""
    return f"_{count // 1000}k" if count % 1000 == 0 else f"_{count}"


def default_network(shape: tuple[int, ...] | None) -> str:
    """Returns the usual network for images (H, W, C).

    It is Inception for RGB from 32 pixels on, and where nothing is known of the images.
    """
    if not shape or (shape[-1] == 3 and min(shape[:2]) >= SMALLEST):
        return "inception"
    return "pixels"


# ---------------------------------------------------------------- the networks


def inception(source: str = "", resize_mode: str = "") -> Network:
    """Returns the FID network.

    Grey images become RGB. Sides under 32 are enlarged by a whole number, each pixel to a square.

    Args:
        source: File of the weights; "" for the standard public one.
        resize_mode: One of `metrics.resize.MODES`; "" for "tf".
    """
    mode = resize_mode or "tf"
    network, params = load_inception(source, mode)
    weights = sha256(source) if source else STANDARD_WEIGHTS

    def features(params: dict, images: Array) -> dict[str, Array]:
        outputs = network(params, enlarge(rgb(images)))
        return {"features": outputs["2048"], "logits": outputs["logits_unbiased"]}

    return Network(
        name="inception",
        features=features,
        params=params,
        facts={"network": "inception", "resize": mode, "weights": weights},
        names={
            "fd": "fid",
            "fd_inf": "fid_inf",
            "kd": "kid",
            "kd_std": "kid_std",
            "fdr": "fdr_inception",
            "swr": "swr_inception",
        },
    )


def pixels(source: str = "", resize_mode: str = "") -> Network:
    """Returns the image itself as a network, for sets too small or too plain for another.

    It is flattened, in [-1, 1] and float64, on the host.
    """
    if source or resize_mode:
        raise UserError(
            "--features pixels: it takes neither weights nor a resize mode, given "
            f"{source or resize_mode}; leave them out"
        )

    def features(params: None, images: ndarray) -> dict[str, ndarray]:
        return {"features": np.clip(images, -1, 1).reshape(len(images), -1)}

    return Network(
        name="pixels",
        features=features,
        params=None,
        facts={"network": "pixels", "resize": "", "weights": ""},
        names={
            "fd": "fd_pixels",
            "fd_inf": "fd_pixels_inf",
            "kd": "kd_pixels",
            "kd_std": "kd_pixels_std",
            "fdr": "fdr_pixels",
            "swr": "swr_pixels",
        },
        counted=False,
    )


def encoder(
    name: str,
    encode: Callable[[Any, Array], dict[str, Array]],
    params: Any,
    feature_set: str,
    size: int,
    weights: str,
) -> Network:
    """Returns an encoder of `models/` as a network.

    Args:
        name: Of the network.
        encode: (params, images [B,size,size,3] in [-1, 1]) -> {feature_set: [B,1,D], ...}.
        params: Its parameters.
        feature_set: Which of its outputs is compared.
        size: Side that images are brought to, by Pillow's bicubic.
        weights: What tells the weights apart, for `Network.facts`.
    """

    @jax.jit
    def features(params: Any, images: Array) -> dict[str, Array]:
        x = resize(rgb(images), size, "clean") / 127.5 - 1
        return {"features": encode(params, x)[feature_set][:, 0]}

    return Network(
        name=name,
        features=features,
        params=params,
        facts={"network": name, "resize": "", "weights": weights},
        names={},
        suffix=f"_{name}",
    )


# ---------------------------------------------------------------- images and weights


def rgb(images: Num[Array, "B H W C"]) -> Num[Array, "B H W 3"]:
    """Returns colour images as they are, and the channel of grey ones three times."""
    if images.shape[-1] == 1:
        return jnp.repeat(images, 3, -1)
    return images


def enlarge(images: Num[Array, "B H W C"]) -> Num[Array, "B h w C"]:
    """Returns images whose sides are at least 32, each pixel a square.

    The network's own resize would blur 8 x 8 pixels to nothing that it knows.
    """
    factor = -(-SMALLEST // min(images.shape[1:3]))
    if factor == 1:
        return images
    return jnp.repeat(jnp.repeat(images, factor, 1), factor, 2)


def sha256(path: str | os.PathLike) -> str:
    """Returns the first 16 digits of a file's SHA-256."""
    with open(Path(path).expanduser(), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
