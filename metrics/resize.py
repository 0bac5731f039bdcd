"""How an image becomes 299 x 299 for the Inception network.

FIDs from different ways do not compare. Every way is linear and separable, one matrix for each
axis, so all of them run on the device, inside jit.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num
from numpy import ndarray

from utils.errors import UserError

MODES = ("tf", "pytorch", "clean")


@functools.partial(jax.jit, static_argnames=("size", "mode"))
def resize(
    images: Num[Array | ndarray, "B H W C"], size: int, mode: str
) -> Float[Array, "B S S C"]:
    """Returns images of any size at size x size: float32, values as given (0 to 255), not rounded.

    The modes are

        "tf"       bilinear as in TensorFlow 1, without antialiasing; corners are not aligned:
                   output pixel i looks at i * in / out. The original FID and torch-fidelity.
        "pytorch"  bilinear between pixel centres, without antialiasing, as in
                   torch.nn.functional.interpolate. pytorch-fid.
        "clean"    Pillow's antialiased bicubic on float channels, then clipped to 0 to 255.
                   clean-fid (Parmar et al. 2022, arXiv 2104.11222).

    Raises:
        UserError: The mode is another.
    """
    if mode not in MODES:
        raise UserError(f"resize mode {mode!r} given; expected one of {', '.join(MODES)}")
    x = jnp.asarray(images, jnp.float32)
    height, width = x.shape[1:3]
    rows = jnp.asarray(_matrix(height, size, mode))
    columns = jnp.asarray(_matrix(width, size, mode))
    x = jnp.einsum("bhwc,vw->bhvc", x, columns, precision=jax.lax.Precision.HIGHEST)
    x = jnp.einsum("bhvc,uh->buvc", x, rows, precision=jax.lax.Precision.HIGHEST)
    return jnp.clip(x, 0, 255) if mode == "clean" else x


def _matrix(n: int, size: int, mode: str) -> Float[ndarray, "S N"]:
    """Returns, in row i, the weights of the n input pixels in output pixel i."""
    i = np.arange(size)[:, None]  # [S, 1] output pixels
    j = np.arange(n)[None, :]  # [1, N] input pixels
    if mode == "clean":
        stretch = max(n / size, 1)  # When shrinking, the filter grows with the step.
        weights = _cubic((j + 0.5 - (i + 0.5) * n / size) / stretch)
    else:
        position = i * n / size if mode == "tf" else (i + 0.5) * n / size - 0.5
        distance = np.abs(np.clip(position, 0, n - 1) - j)
        weights = np.maximum(1 - distance, 0)  # a hat around each pixel
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _cubic(x: ndarray) -> ndarray:
    """Returns Keys' cubic convolution with a = -0.5, which is Pillow's BICUBIC."""
    x = np.abs(x)
    within_one = (1.5 * x - 2.5) * x * x + 1
    within_two = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, within_one, np.where(x < 2, within_two, 0))
