"""How much the raw sample varies in each of its parts: local contrast.

    phi(x) = sqrt(variance of x + 1e-4) in every window of a grid of at most 8 x 8

A speck in an empty corner moves a picture of 784 pixels hardly at all, and a grid of 49 windows,
whose corner no real picture touches, very much. Beside the raw sample it is
`--encoder.name none+contrast`; alone it knows nothing of shapes. It takes no weights.
"""

from typing import Any

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from models.encoders.contract import FrozenEncoder
from utils.errors import UserError

MOST_WINDOWS = 8  # along a side
SMALLEST_VARIANCE = 1e-4  # added; the gradient of the root is infinite at 0


def load(name: str, source: str, bf16: bool | None, sha256: str) -> FrozenEncoder:
    return load_shapes(name, source, bf16)


def load_shapes(name: str, source: str, bf16: bool | None) -> FrozenEncoder:
    if source:
        raise UserError(
            f"--encoder.path {source}: {name} is computed from the sample and has no weights; "
            "leave the path out"
        )
    return FrozenEncoder(
        maps=contrast,
        params={},
        channels=None,
        image_size=None,
        names=("*",),
        statistics=("map",),
        patch_sizes=(),
    )


def window_side(side: int) -> int:
    """Returns the smallest divisor of a side, of 2 pixels at least, with 8 windows at most.

    A prime side, such as 3 or 31, is one window, and one of 34 two.
    """
    sizes = range(2, side + 1)
    return next((s for s in sizes if side % s == 0 and side // s <= MOST_WINDOWS), side)


def contrast(params: Any, images: Float[Array, "B H W C"]) -> dict[str, Float[Array, "B 1 K"]]:
    """Returns {"contrast": [B, 1, K]} with K = windows times channels.

    Raises:
        UserError: samples of a single place, which cannot vary.
    """
    if images.shape[1] * images.shape[2] == 1:
        raise UserError(
            "--encoder.name contrast: a sample has a single place, in which nothing varies; leave "
            "it out"
        )
    height, width = (window_side(side) for side in images.shape[1:3])
    windows = rearrange(images, "b (h p) (w q) c -> b h w (p q) c", p=height, q=width)
    variance = jnp.var(windows, axis=3)
    deviation = jnp.sqrt(variance + SMALLEST_VARIANCE)
    return {"contrast": rearrange(deviation, "b h w c -> b 1 (h w c)")}
