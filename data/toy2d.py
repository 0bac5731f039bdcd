"""Distributions in the plane with known modes of equal mass, for scripts/toy2d.py.

Their samples lie within about [-2, 2]^2 and are drawn on the device.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# The distributions, and how many modes each has.
TOYS = {"bimodal": 2, "ring": 8, "checkerboard": 8, "swiss_roll": 8}

# Normal distributions about these centres [modes, 2].
RING_ANGLES = np.arange(8) * np.pi / 4
CENTRES = {
    "bimodal": np.array([[-1.5, 0.0], [1.5, 0.0]]),
    "ring": 2 * np.stack([np.cos(RING_ANGLES), np.sin(RING_ANGLES)], 1),
}

# Standard deviation about a centre, or about the curve of the roll.
STD = {"bimodal": 0.2, "ring": 0.1, "swiss_roll": 0.05}

# Lower corners of the cells of the checkerboard, each 1 x 1, on a board from 0 to 4.
CELLS = np.array([(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0])

# First and last angle of the roll, whose radius is the angle. Equal parts of it are the modes.
TURNS = (1.5 * np.pi, 4.5 * np.pi)


def roll(angle: Float[Array | np.ndarray | float, "*shape"]) -> Float[Array, "*shape 2"]:
    """Returns the points of the roll at these angles of TURNS."""
    return 2 / TURNS[1] * jnp.stack([angle * jnp.cos(angle), angle * jnp.sin(angle)], -1)


def draw(name: str, key: Array, n: int) -> Float[Array, "n 2"]:
    """Returns n independent samples of the distribution `name` of TOYS."""
    n_modes = TOYS[name]
    mode_key, place_key = jax.random.split(key)
    mode = jax.random.randint(mode_key, (n,), 0, n_modes)
    if name in CENTRES:
        centre_of_each = jnp.float32(CENTRES[name])[mode]
        return centre_of_each + STD[name] * jax.random.normal(place_key, (n, 2))
    if name == "checkerboard":
        corner = jnp.float32(CELLS)[mode] - 2
        return corner + jax.random.uniform(place_key, (n, 2))
    angle_key, noise_key = jax.random.split(place_key)
    within_mode = jax.random.uniform(angle_key, (n,))
    angle = TURNS[0] + (TURNS[1] - TURNS[0]) * (mode + within_mode) / n_modes
    return roll(angle) + STD[name] * jax.random.normal(noise_key, (n, 2))


def centre(name: str, mode: int) -> np.ndarray:
    """Returns a point [2] in the middle of a mode."""
    if name in CENTRES:
        return CENTRES[name][mode]
    if name == "checkerboard":
        return CELLS[mode] - 1.5
    angle = TURNS[0] + (TURNS[1] - TURNS[0]) * (mode + 0.5) / TOYS[name]
    return np.asarray(roll(angle))


def mode_of(name: str, x: Float[np.ndarray, "n 2"]) -> Int[np.ndarray, " n"]:
    """Returns the mode that each point belongs to; -1 for a point of none.

    Such a point is off the board, or more than four standard deviations away from every mode.
    """
    if name == "checkerboard":
        cells = np.floor(x + 2).astype(int)
        index_of_cell = {tuple(cell): index for index, cell in enumerate(CELLS)}
        return np.array([index_of_cell.get(tuple(cell), -1) for cell in cells])
    if name in CENTRES:
        points, modes = CENTRES[name], np.arange(TOYS[name])
    else:
        # The distance to a curve is about that to the nearest of many points on it.
        fraction = (np.arange(2000) + 0.5) / 2000
        points = np.asarray(roll(TURNS[0] + (TURNS[1] - TURNS[0]) * fraction))
        modes = (fraction * TOYS[name]).astype(int)
    distance = np.linalg.norm(x[:, None] - points, axis=-1)  # [n, points]
    is_near = distance.min(1) < 4 * STD[name]
    return np.where(is_near, modes[distance.argmin(1)], -1)
