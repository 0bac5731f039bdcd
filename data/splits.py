"""Which split of a data set is meant by "train" and by "test"."""

import logging
from collections.abc import Iterable, Mapping

from utils.errors import UserError
from utils.words import did_you_mean

log = logging.getLogger(__name__)

# What a held-out split is called, in the order of preference.
HELD_OUT = ("test", "val", "validation", "valid")


def choose_split(
    name: str, names: Iterable[str], split: str, own_names: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """Finds a split by what it is for.

    "test" is whatever is held out. Where nothing is, it is the training split, and a warning says
    so.

    Args:
        name: Of the data set, for messages.
        names: Of the splits that there are.
        split: "train", "test", or one of `names`.
        own_names: What this data set calls "train" and "test", if that is known.

    Returns:
        The set's own name of the split, and the split that it really is.

    Raises:
        UserError: There is no such split.
    """
    names = list(names)
    if split == "train" and len(names) == 1 and names[0] in HELD_OUT:
        raise UserError(
            f"--data.split train: {name} has only the split {names[0]}; to learn from it give "
            f"--data.split {names[0]}"
        )
    for candidate in _candidates(names, split, own_names):
        if candidate in names:
            return candidate, split
    if split == "test":
        warn_nothing_held_out(name)
        own_name, _ = choose_split(name, names, "train", own_names)
        return own_name, "train"
    listed = ", ".join(names)
    guess = did_you_mean(split, names)
    raise UserError(
        f"there is no split {split}: {name} has {listed}{guess or '; give one of them'}"
    )


def _candidates(names: list[str], split: str, own_names: Mapping[str, str] | None) -> list[str]:
    """Returns the names that a split may have, the likeliest first."""
    if split == "train":
        only = names if len(names) == 1 else []
        return [(own_names or {}).get("train", "train"), *only]
    if split != "test":
        return [split]
    if not own_names:
        return list(HELD_OUT)
    known = [own_names["test"]]
    if known == ["valid"]:
        # Without the card of a set, the library `datasets` calls files named valid "validation".
        known.append("validation")
    return [*known, *HELD_OUT]


def warn_nothing_held_out(
    name: str, condition: str = "", names: tuple[str, ...] = HELD_OUT
) -> None:
    """Says that scores will be against training samples.

    Args:
        name: of the data set.
        condition: what a held-out split would have to be besides its name, as in " with the classes
            of train".
        names: that it may have.
    """
    log.warning(
        "%s has no held-out split%s (%s): the training split stands in for it",
        name,
        condition,
        ", ".join(names),
    )
