"""Distributions in the plane with known modes of equal mass, for scripts/toy2d.py: within about [-2, 2]^2, drawn on the device."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

RING = 2 * np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], 1)
CENTRES = {
    "bimodal": np.array([[-1.5, 0.0], [1.5, 0.0]]),
    "ring": RING,
}  # of normal distributions ...
STD = {
    "bimodal": 0.2,
    "ring": 0.1,
    "swiss_roll": 0.05,
}  # ... and their spread, or that about the roll
CELLS = np.array(
    [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
)  # of the checkerboard, each 1 x 1
TURNS = (
    1.5 * np.pi,
    4.5 * np.pi,
)  # angles of the roll, whose radius is the angle; equal parts of it are the modes
TOYS = {"bimodal": 2, "ring": 8, "checkerboard": 8, "swiss_roll": 8}  # modes


def roll(angle):
    """Points [.., 2] of the roll."""
    return 2 / TURNS[1] * jnp.stack([angle * jnp.cos(angle), angle * jnp.sin(angle)], -1)


def draw(name: str, key: Array, n: int) -> Float[Array, "n 2"]:
    """n independent samples of the distribution `name` of TOYS."""
    mode_key, place_key = jax.random.split(key)
    mode = jax.random.randint(mode_key, (n,), 0, TOYS[name])
    if name in CENTRES:
        return jnp.float32(CENTRES[name])[mode] + STD[name] * jax.random.normal(place_key, (n, 2))
    if name == "checkerboard":
        return jnp.float32(CELLS)[mode] - 2 + jax.random.uniform(place_key, (n, 2))
    angle_key, noise_key = jax.random.split(place_key)
    angle = (
        TURNS[0] + (TURNS[1] - TURNS[0]) * (mode + jax.random.uniform(angle_key, (n,))) / TOYS[name]
    )
    return roll(angle) + STD[name] * jax.random.normal(noise_key, (n, 2))


def centre(name: str, mode: int) -> np.ndarray:
    """A point in the middle of a mode."""
    if name in CENTRES:
        return CENTRES[name][mode]
    if name == "checkerboard":
        return CELLS[mode] - 1.5
    return np.asarray(roll(TURNS[0] + (TURNS[1] - TURNS[0]) * (mode + 0.5) / TOYS[name]))


def mode_of(name: str, x: Float[np.ndarray, "n 2"]) -> Int[np.ndarray, " n"]:
    """The mode that each point belongs to; -1 for a point of none: off the board, or more than four standard deviations away."""
    if name == "checkerboard":
        cell = np.floor(x + 2).astype(int)
        index = {tuple(c): i for i, c in enumerate(CELLS)}
        return np.array([index.get(tuple(c), -1) for c in cell])
    if name in CENTRES:
        points, modes = CENTRES[name], np.arange(TOYS[name])
    else:
        share = (np.arange(2000) + 0.5) / 2000
        points, modes = (
            np.asarray(roll(TURNS[0] + (TURNS[1] - TURNS[0]) * share)),
            (share * TOYS[name]).astype(int),
        )
    distance = np.linalg.norm(x[:, None] - points, axis=-1)  # [n, points]
    return np.where(distance.min(1) < 4 * STD[name], modes[distance.argmin(1)], -1)
