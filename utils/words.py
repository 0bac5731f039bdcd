"""The names that a mistyped one may have meant."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, names: Iterable[str], dashes: str = "") -> str:
    """ "; did you mean a, b or c?" for the names close to `name`, or "".

    The group may be missing or wrong, and initials do: for lr, optim.learning_rate.
    """

    def tail(full):
        return full.rpartition(".")[2]

    def initials(full):
        return "".join(word[:1] for word in tail(full).split("_"))

    names = list(names)
    same = [full for full in names if name and tail(name) in (tail(full), initials(full))]
    close = difflib.get_close_matches(name, names, cutoff=0.75) or [
        full
        for part in difflib.get_close_matches(tail(name), map(tail, names), cutoff=0.75)
        for full in names
        if tail(full) == part
    ]
    found = [dashes + full for full in dict.fromkeys(same + close)][:3]
    if not found:
        return ""
    return f"; did you mean {' or '.join(filter(None, [', '.join(found[:-1]), found[-1]]))}?"
