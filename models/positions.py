"""Where a token is: a 2-D sin-cos embedding that is added, and rotary positions (RoPE)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Cosine and sine of the angles of each token.
Rotation = tuple[Float[Array, "T 1 half"], Float[Array, "T 1 half"]]


def sincos_positions(
    key: Array | None, rows: int, columns: int, width: int
) -> Float[Array, "1 N D"]:
    """Returns the 2-D sin-cos embedding of a grid, row by row, to initialise a parameter.

    Half of the width encodes the column, the other half the row: each as D/4 sines and D/4
    cosines.

    Args:
        key: not used, as nothing is random; Flax gives every initialiser one.
        rows, columns: of the grid, N = rows * columns.
        width: D, a multiple of 4.
    """
    del key
    frequencies = 10_000.0 ** (-np.arange(width // 4) / (width // 4))
    row, column = np.divmod(np.arange(rows * columns), columns)
    parts = []
    for index in (column, row):
        angles = index[:, None] * frequencies  # [N, D/4]
        parts += [np.sin(angles), np.cos(angles)]
    return jnp.asarray(np.concatenate(parts, axis=-1)[None], jnp.float32)


def rope_rotation(tokens: int, head_width: int) -> Rotation:
    """Returns the rotary angles of a sequence, each as cosine and sine [T, 1, d/2] (RoPE).

    Token t turns pair i by t * 10000^(-2i/d). t counts along the whole sequence: the in-context
    tokens, then the patches row by row.
    """
    frequencies = 10_000.0 ** (-np.arange(0, head_width, 2) / head_width)
    angles = np.arange(tokens)[:, None, None] * frequencies
    return jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)


def rotate(x: Float[Array, "B T heads d"], rotation: Rotation) -> Float[Array, "B T heads d"]:
    """Returns x with each pair (x[i], x[i + d/2]) turned by the angle of its token; float32."""
    cos, sin = rotation
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
