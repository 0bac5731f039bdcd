"""How encoders are named: their sources, joined by "+", and whose a feature set is."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.encoders.table import ENCODERS, OF_ANY_SAMPLES
from utils.errors import UserError


def split_sources(source: str | Path) -> list[tuple[str, str]]:
    """Returns the (encoder, source) pairs of encoders that are joined by "+".

    "dinov2:/a/b+mae" gives ("dinov2", "/a/b"), ("mae", ""). A "+" within a path stays unless the
    name of an encoder or hf:// follows it.

    Raises:
        UserError: an unknown encoder, or one that is named twice.
    """
    names = "|".join(ENCODERS)
    pairs = []
    for item in re.split(rf"\+(?=(?:{names})(?:[:+]|$)|hf://)", str(source)):
        name, _, path = item.partition(":")
        if name in ENCODERS:
            pairs.append((name, path))
        elif item.startswith("hf://") or (item and Path(item).expanduser().is_dir()):
            pairs.append(("mae", item))
        else:
            raise UserError(
                f"encoder {item!r} is neither a name ({', '.join(ENCODERS)}), nor NAME:SOURCE, "
                "nor a folder, nor hf://NAME"
            )
    given = [name for name, _ in pairs]
    repeated = [name for name in given if given.count(name) > 1]
    if repeated:
        raise UserError(
            f"encoder {min(repeated)!r} is given twice in {source}: name each encoder once"
        )
    return pairs


def join_sources(name: str, path: str) -> str:
    """Returns the source that the flags for an encoder's name and path mean.

    ("dinov2+mae", "/a,/b") gives "dinov2:/a+mae:/b".

    Args:
        name: encoders, joined by "+"; options and weights go by these names.
        path: their sources in the same order, separated by commas. An empty one stands for the
            encoder's own weights.
    Raises:
        UserError: an unknown encoder, or more sources than encoders.
    """
    names = name.split("+")
    paths = path.split(",") if path else []
    for given in names:
        if given not in ENCODERS:
            raise UserError(
                f"encoder {given!r} is unknown: give {', '.join(ENCODERS)}, and weights by "
                "--encoder.path"
            )
    if len(paths) > len(names):
        raise UserError(
            f"{len(paths)} paths ({path}) for the encoder {name}: give one for each name"
        )
    items = []
    for i, encoder in enumerate(names):
        has_path = i < len(paths) and paths[i]
        items.append(f"{encoder}:{paths[i]}" if has_path else encoder)
    return "+".join(items)


def takes_pixels(name: str) -> bool:
    """Returns whether one of the encoders that are joined by "+" takes images alone.

    Latents have to be decoded for it. An MAE is of what it was trained on.
    """
    return any(part in ENCODERS and part not in OF_ANY_SAMPLES for part in name.split("+"))


def set_prefix(name: str, encoders: Sequence[str]) -> str:
    """Returns what the feature sets of the encoder `name` begin with.

    encoders: all that are joined. "global" of the raw sample keeps its name, and so do the sets of
    an encoder that is the only one beside it.
    """
    others = set(encoders) - {"none"}
    return "" if name == "none" or len(others) == 1 else f"{name}/"


def encoder_of_set(set_name: str, metadata: dict[str, Any]) -> str:
    """Returns the name of the encoder that a feature set belongs to.

    metadata: as `load_encoder` returned it; its "encoders" are their names.
    """
    encoders = metadata["encoders"]
    if set_name == "global" and "none" in encoders:
        return "none"
    prefix = set_name.split("/")[0]
    if prefix in encoders:
        return prefix
    return next(name for name in encoders if name != "none")
