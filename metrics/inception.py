"""The FID network: Inception-v3 as in TensorFlow's graph of 2015-12-05. Published FIDs rest on it.

`metrics.inception_network` has its layers, `metrics.inception_weights` its weights.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from numpy import ndarray

from metrics.inception_network import IMAGE_SIZE, TAPS, InceptionV3
from metrics.inception_weights import read_tensors, standard_file, to_params
from metrics.resize import resize
from utils.errors import UserError

Features = Callable[[dict, Array | ndarray], dict[str, Array]]


def load_inception(source: str | Path | None, resize_mode: str = "tf") -> tuple[Features, dict]:
    """Returns (features, params) of the FID network.

    `features(params, images)` takes uint8 images [B,H,W,3] of any size, and gives float32 arrays by
    name. "64", "192", "768" and "2048" are the spatial means after the first and the second max
    pool, Mixed_6e and Mixed_7c, each as wide as its name; "logits_unbiased" is [B, 1008]. It works
    inside jit and on sharded batches, and compiles once for each batch and image size. An image's
    features do not depend on the others of its batch.

    Args:
        source: None or "" for the standard public file (fetched once, 91 MiB); or the path of a
            `.pth`, `.safetensors` or `.npz` with the same tensor names.
        resize_mode: How images become 299 x 299: "tf" (the standard), "pytorch" or "clean", see
            `metrics.resize`. As in pytorch-fid, "pytorch" also scales 0 to 255 to [-1, 1], where
            the others take (x - 128) / 128.

    Raises:
        UserError: The file is missing, damaged or of another network, or cannot be fetched.
    """
    path = Path(source) if source else standard_file()
    params = jax.tree.map(jnp.asarray, to_params(read_tensors(path)))

    @jax.jit
    def network(params, images):
        return InceptionV3().apply({"params": params}, images)

    def features(
        params: dict, images: UInt8[Array | ndarray, "B H W 3"]
    ) -> dict[str, Float[Array, "B _"]]:
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise UserError(
                f"images {images.dtype} {images.shape} given; expected uint8 [B, H, W, 3]; scale "
                "to 0 to 255 and round first, repeat the channel of grey images three times"
            )
        return network(params, prepare(images, resize_mode))

    return features, params


def prepare(
    images: UInt8[Array | ndarray, "B H W 3"], resize_mode: str
) -> Float[Array, "B 299 299 3"]:
    """Returns the network's input, before its own (x - 128) / 128."""
    x = resize(images, IMAGE_SIZE, resize_mode)
    if resize_mode == "pytorch":
        return x * (128 / 127.5)
    return x


def in_batches(
    features: Features,
    params: dict,
    images: UInt8[ndarray, "N H W 3"],
    batch_size: int,
    taps: Sequence[str],
) -> dict[str, Float[ndarray, "N _"]]:
    """Returns some outputs for images on the host, a batch at a time.

    The last batch is filled up and cut, so that each image size compiles once.
    """
    outputs = {tap: np.empty((len(images), TAPS[tap]), np.float32) for tap in taps}
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        filled = np.pad(batch, [(0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)])
        found = features(params, filled)
        for tap in taps:
            outputs[tap][start : start + len(batch)] = np.asarray(found[tap])[: len(batch)]
    return outputs
