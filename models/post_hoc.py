"""The average of a width that was chosen after the training, made of the snapshots of a run.

A run with --optim.ema_snapshots tracks two power-function averages (drifting/averages.py), and
keeps both at a few steps in the folder `averages/`, in the form of checkpoints.
"""

import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from drifting.averages import POWER, WIDTHS, combine, gamma_of_width, power_name, width_of
from utils.checkpoint import Checkpoints
from utils.errors import UserError

log = logging.getLogger(__name__)

SNAPSHOTS = "averages"  # the folder of a run's snapshots
LARGE_ERROR = 0.1  # of a profile, as a share of its norm


def name_of_width(ema: str, kept: Sequence[str]) -> str | None:
    """Returns the name of the average that a number such as "0.12" asks for; None for no width.

    ema: what the user gave as --ema.
    kept: the names of the averages that the run keeps; without power-function averages there are
        no widths to choose.
    """
    try:
        width = float(ema)
    except ValueError:
        return None
    least, greatest = WIDTHS
    if tracked(kept) and least <= width <= greatest:
        return power_name(width)
    return None


def tracked(kept: Sequence[str]) -> list[str]:
    """Returns the names of the power-function averages among those that a run keeps."""
    return [name for name in kept if name.startswith(POWER)]


def choices(kept: Sequence[str]) -> str:
    """Returns in words which averages --ema can name."""
    names = f"{', '.join(kept)} and raw; choose one of them"
    if tracked(kept):
        least, greatest = WIDTHS
        return f"{names}, or a width from {least:g} to {greatest:g}"
    return names


def read_average(
    folder: pathlib.Path, name: str, step: int, items: Sequence[str], shapes: Any
) -> Any:
    """Returns the average called `name` after `step` steps, a tree of float32 NumPy arrays.

    Args:
        folder: of the run.
        name: such as "power_0.12".
        step: of a checkpoint, which is the last of the snapshots.
        items: of the averages that are tracked, as "ema_power_0.05".
        shapes: of the parameters.
    Raises:
        UserError: the checkpoint is damaged. Damaged snapshots are left out with a warning.
    """
    snapshots = Checkpoints(folder / SNAPSHOTS)
    earlier = [s for s in snapshots.steps() if s < step and _is_whole(snapshots, s, items)]
    sources = [(snapshots, s) for s in earlier] + [(Checkpoints(folder / "checkpoints"), step)]
    parts = [(source, s, item) for source, s in sources for item in items]

    profiles = [(s, gamma_of_width(_width_of_item(item))) for _, s, item in parts]
    weights, error = combine(profiles, (step, gamma_of_width(width_of(name))))
    text = f"{folder}: {name} of step {step} from {len(sources)} snapshots, {error:.1%} off"
    if error > LARGE_ERROR:
        log.warning("%s its profile; it takes more --optim.ema_snapshots", text)
    else:
        log.info("%s its profile", text)

    as_numpy = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes)
    total = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    for (source, s, item), weight in zip(parts, weights, strict=True):
        tree, _, _ = source.restore({item: as_numpy}, s)
        total = _add(total, np.float32(weight), tree[item])
    return total


def _add(total: Any, weight: np.float32, tree: Any) -> Any:
    return jax.tree.map(lambda a, b: a + weight * b, total, tree)


def _is_whole(snapshots: Checkpoints, step: int, items: Sequence[str]) -> bool:
    try:
        snapshots.look(step, lambda metadata: list(items))
    except UserError as error:
        log.warning("left out a snapshot: %s", error)
        return False
    return True


def width_in(name: str) -> float | None:
    """Returns the relative width in the name of an average, "power_0.12"; None of other names."""
    return width_of(name) if name.startswith(POWER) else None


def _width_of_item(item: str) -> float:
    return width_of(item[item.index(POWER) :])
