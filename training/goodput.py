"""Where the time of a run goes, over all its starts: `goodput.json` of its folder.

Goodput is the share of the time in which steps were taken that count. The rest is starting (until
the first step is compiled), waiting for data, evaluating, saving, and what was lost: the time from
the last save before a stop to the next start, and the steps from which the run went back.
"""

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator

from utils import processes, storage
from utils.files import write_json_atomic

FILE = "goodput.json"
LOST = "lost"


class Goodput:
    """The account of a run. It begins with this object, behind what the folder has of before.

    Only the first process writes it down.
    """

    def __init__(self, folder: pathlib.Path):
        self.path = folder / FILE
        self.began = time.time()
        self.spent = {"starting": 0.0, "waiting": 0.0, "evaluating": 0.0, "saving": 0.0, LOST: 0.0}
        self.stepping_before = 0.0  # seconds of steps in earlier starts
        before = _read(self.path)
        if before:
            self.stepping_before = before["seconds"].pop("steps")
            self.spent |= before["seconds"]
            if not before["finished"]:
                self.spent[LOST] += max(0.0, self.began - before["time"])
        self.before = sum(self.spent.values())
        self.to_start()
        self.steps_saved = self.stepping_before

    @contextlib.contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Counts what is done within as "starting", "waiting", "evaluating" or "saving"."""
        start = time.perf_counter()
        yield
        self.spent[kind] += time.perf_counter() - start

    def to_start(self) -> None:
        """Says that the run prepares its next step from now on."""
        self.start = self.seconds()["steps"]

    def started(self) -> None:
        """Counts the time since `to_start` as starting, but for what is counted already."""
        self.spent["starting"] += self.seconds()["steps"] - self.start

    def lose(self) -> None:
        """Counts the steps since the last save as lost, because the run went back to it."""
        self.spent[LOST] += max(0.0, self.seconds()["steps"] - self.steps_saved)

    def seconds(self) -> dict[str, float]:
        """Returns {kind: seconds}, of which "steps" is the first."""
        own = time.time() - self.began - (sum(self.spent.values()) - self.before)
        return {"steps": self.stepping_before + max(0.0, own)} | self.spent

    def share(self) -> float:
        """Returns the goodput, in [0, 1]."""
        seconds = self.seconds()
        return seconds["steps"] / max(sum(seconds.values()), 1e-9)

    def save(self, finished: bool = False) -> None:
        """Writes the account; after `finished`, the time until the next start is not lost."""
        self.steps_saved = self.seconds()["steps"]
        if processes.is_first():
            seconds = {kind: round(value, 3) for kind, value in self.seconds().items()}
            facts = {"time": time.time(), "finished": finished, "seconds": seconds}
            write_json_atomic(self.path, facts)

    def in_words(self) -> str:
        """Returns "goodput 91% of 50 s: steps 91%, starting 5%, ...", without what is below 1%."""
        seconds = self.seconds()
        whole = max(sum(seconds.values()), 1e-9)
        parts = [
            f"{kind} {100 * value / whole:.0f}%"
            for kind, value in seconds.items()
            if value >= 0.01 * whole
        ]
        return f"goodput {100 * self.share():.0f}% of {whole:.0f} s: " + ", ".join(parts)


def _read(path: pathlib.Path) -> dict | None:
    """Returns the account of earlier starts; None where there is none that can be read."""
    try:
        with storage.open_text(path) as file:
            facts = json.load(file)
        return {
            "time": float(facts["time"]),
            "finished": bool(facts["finished"]),
            "seconds": {kind: float(value) for kind, value in facts["seconds"].items()},
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
