"""What encoders with public ImageNet weights have in common: their files and their images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from models.encoders.contract import FrozenEncoder
from models.frozen_layers import IMAGENET_MEAN, IMAGENET_STD, normalise
from utils.errors import UserError
from utils.weight_files import hub
from utils.weight_files.tensors import Tensors, read_tensors


class Published(NamedTuple):
    """Public weights on the Hugging Face hub.

    Attributes:
        repository: OWNER/REPOSITORY.
        sha256: the start of the checksum of its model.safetensors, as the hub's page of that file
            shows it; "" where it was not seen.
    """

    repository: str
    sha256: str = ""


# ---- files ----


def read_pretrained(
    name: str, published: dict[str, Published], source: str, sha256: str
) -> tuple[Tensors, str]:
    """Returns the tensors of an encoder, and what to call them in messages.

    Args:
        name: of the encoder.
        published: its public weights; the first are taken if `source` is "".
        source: a file, a folder, a key of `published`, or `hf://OWNER/REPOSITORY`.
        sha256: the expected start of the checksum; "" for the published one.
    Raises:
        UserError: weights that are not there, cannot be fetched, or are damaged.
    """
    source = source or next(iter(published))
    if source in published:
        repository, known_sha256 = published[source]
    elif source.startswith("hf://"):
        repository, known_sha256 = source.removeprefix("hf://"), ""
    elif Path(source).expanduser().exists():
        return read_tensors(source, sha256), source
    else:
        raise UserError(
            f"no weights at {source} for the encoder {name}: give a file, a folder, "
            f"hf://OWNER/REPOSITORY, or one of {', '.join(published)}"
        )
    path = hub.download_weights(repository, f"{name}:PATH")
    return read_tensors(path, sha256 or known_sha256), f"hf://{repository}"


def published_key(
    name: str, published: dict[str, Published], source: str, sizes: dict[str, Any]
) -> str:
    """Returns the key of `published` that `source` means, without reading anything.

    Args:
        name: of the encoder.
        published: its public weights.
        source: a key, the repository of one, or "" for the first.
        sizes: the sizes that are known, for the message.
    Raises:
        UserError: it is none of these.
    """
    source = source or next(iter(published))
    keys = {weights.repository: key for key, weights in published.items()}
    key = keys.get(source.removeprefix("hf://"), source)
    if key not in published:
        raise UserError(
            f"--encoder.path {source}: the size of this {name} is not known; give one of "
            f"{', '.join(sizes)}"
        )
    return key


def compute_dtype(bf16: bool | None) -> jnp.dtype | None:
    """Returns the dtype of the computation; None for that of the images."""
    return jnp.dtype(jnp.bfloat16) if bf16 else None


# ---- images ----


def _unchanged(maps: dict[str, Array]) -> dict[str, Array]:
    return maps


def imagenet_encoder(
    model: nn.Module,
    params: Any,
    names: tuple[str, ...],
    statistics: tuple[str, ...],
    patch_sizes: tuple[int, ...],
    finish: Callable[[dict[str, Array]], dict[str, Array]] = _unchanged,
) -> FrozenEncoder:
    """Returns an encoder of 224 x 224 RGB images under ImageNet's normalisation.

    Grey images serve as three equal channels.

    Args:
        model: normalised images [B, H, W, 3] -> feature maps.
        params: its weights, or their shapes.
        names, statistics, patch_sizes: as in `FrozenEncoder`.
        finish: applied to the maps.
    """

    def maps(params: Any, images: Array) -> dict[str, Array]:
        x = normalise(images, IMAGENET_MEAN, IMAGENET_STD)
        found: Any = model.apply({"params": params}, x)
        return finish(found)

    return FrozenEncoder(maps, params, 3, 224, names, statistics, patch_sizes)
