"""Lists of names in messages: those that a mistyped one may have meant, and what is there."""

import difflib
import re
from collections.abc import Iterable

LIKENESS = 0.75  # of difflib; 1 for equal names
MOST_SHOWN = 6  # names that a message lists
LONGEST_SHOWN = 40  # characters of one of them


def did_you_mean(name: str, names: Iterable[str], dashes: str = "") -> str:
    """Returns "; did you mean a, b or c?" for the names close to `name`, or "".

    The group may be missing or wrong, and initials do: for lr, optim.learning_rate. Where a name
    differs in case, "-" and "_" alone, it is the answer: for CIFAR-10, cifar10.

    Args:
        name: what was given.
        names: what there is.
        dashes: put before each name, such as "--".
    """
    names = list(names)
    alike = spelled_alike(name, names)
    if alike:
        return f"; did you mean {dashes}{alike[0]}?"
    same = [full for full in names if name and _last(name) in (_last(full), _initials(full))]
    close = difflib.get_close_matches(name, names, cutoff=LIKENESS)
    if not close:
        close = _close_without_group(name, names)
    return _asked([dashes + full for full in dict.fromkeys(same + close)][:3])


def spelled_alike(name: str, names: Iterable[str]) -> list[str]:
    """Returns the names that differ from `name` in case, "-" and "_" alone."""
    return [full for full in names if _plain(full) == _plain(name)]


def completed(name: str, names: Iterable[str]) -> str:
    """Returns "; did you mean cifar10 or cifar100?" for names that begin with `name`, or "".

    Case, "-" and "_" do not count.
    """
    beginning = _plain(name)
    return _asked([full for full in names if beginning and _plain(full).startswith(beginning)][:3])


def _asked(found: list[str]) -> str:
    """Returns the question that names what was found, or ""."""
    if not found:
        return ""
    *before, last = found
    if not before:
        return f"; did you mean {last}?"
    return f"; did you mean {', '.join(before)} or {last}?"


def a_few(names: Iterable[object]) -> str:
    """Returns the first few of some names, and how many more there are: "a, b and 3 more".

    They may come from a file of anyone: those that are long, or no plain text, are counted alone,
    so that none is cut. Of no names it is "nothing".
    """
    names = list(names)
    plain = [name for name in names if isinstance(name, str) and name.isprintable()]
    shown = [name for name in plain if 0 < len(name) <= LONGEST_SHOWN][:MOST_SHOWN]
    more = len(names) - len(shown)
    if not shown:
        return f"{more} without a plain name" if more else "nothing"
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _plain(name: str) -> str:
    """Returns "cifar10" for "CIFAR-10"."""
    return re.sub("[-_]", "", name).lower()


def _close_without_group(name: str, names: list[str]) -> list[str]:
    """Returns the names whose last part is like that of `name`, the most alike first."""
    close = difflib.get_close_matches(_last(name), map(_last, names), cutoff=LIKENESS)
    return [full for last in close for full in names if _last(full) == last]


def _last(name: str) -> str:
    """Returns "learning_rate" for "optim.learning_rate"."""
    return name.rpartition(".")[2]


def _initials(name: str) -> str:
    """Returns "lr" for "optim.learning_rate"."""
    return "".join(word[:1] for word in _last(name).split("_"))
