"""Programs that show the metrics of a run while it goes on. None is ever required.

`metrics.jsonl` is written in any case (`utils/logging.py`); each tracker gets the same records and
pictures. A tracker is three functions, in a file of its own. A new one is one row of TRACKERS.

    wandb          --wandb.mode online, or offline
    tensorboard    --log tensorboard: files in the run folder
    trackio        --log trackio: on this machine
"""

import contextlib
import importlib
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from utils import storage
from utils.errors import UserError
from utils.packages import need
from utils.words import did_you_mean

log = logging.getLogger(__name__)

REQUIREMENTS = "requirements-log.txt"


class Tracker(Protocol):
    """What shows the metrics of one run. It may raise whatever it wants."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Takes one record of `metrics.jsonl`, which has a "step"."""
        ...

    def image(self, step: int, name: str, path: str | os.PathLike) -> None:
        """Takes a picture file."""
        ...

    def finish(self) -> None:
        """Ends the run there."""
        ...


class RunFacts(NamedTuple):
    """What a tracker is opened with.

    Attributes:
        folder: of the run.
        resume_step: the step that it continues from; 0 for a new run.
        options: `wandb.*` of the configuration.
        config: what is shown as the configuration.
    """

    folder: pathlib.Path
    resume_step: int
    options: Any
    config: Mapping[str, Any]


# Of each --log: the module and the class in it that take RunFacts, and the package they need.
TRACKERS = {
    "tensorboard": ("utils.tensorboard_run", "TensorBoardRun", "tensorboard"),
    "trackio": ("utils.trackio_run", "TrackioRun", "trackio"),
}
WANDB = ("utils.wandb_run", "WandbRun", "wandb")


def names_of(text: str) -> list[str]:
    """Returns the trackers that --log names, separated by commas.

    Raises:
        UserError: there is no such tracker.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name == "wandb":
            raise UserError("--log wandb: give --wandb.mode online or offline")
        if name not in TRACKERS:
            known = ", ".join(TRACKERS)
            raise UserError(f"--log {name}: expected {known}{did_you_mean(name, TRACKERS)}")
    return names


def check_packages(text: str) -> None:
    """Raises UserError where a tracker that --log names needs a package that is missing."""
    for name in names_of(text):
        need(TRACKERS[name][2], f"--log {name} needs it", REQUIREMENTS)


class Trackers:
    """All trackers of a run. The first failure of each is one warning; after that it is left out.

    Args:
        text: --log.
        facts: of the run.
    """

    def __init__(self, text: str, facts: RunFacts):
        self._metrics_path = facts.folder / "metrics.jsonl"
        self._running: dict[str, Tracker] = {}
        wanted = {name: TRACKERS[name] for name in names_of(text)}
        if facts.options.mode != "disabled":
            wanted["wandb"] = WANDB
        for name, (module, kind, _) in wanted.items():
            with self._tolerating(name, "does not start"):
                self._running[name] = getattr(importlib.import_module(module), kind)(facts)

    def log(self, record: Mapping[str, Any]) -> None:
        """Shows one record of `metrics.jsonl`."""
        for name, tracker in list(self._running.items()):
            with self._tolerating(name, "does not log"):
                tracker.log(record)

    def image(self, step: int, name: str, path: str | os.PathLike) -> None:
        """Shows a picture file."""
        for tracker_name, tracker in list(self._running.items()):
            with self._tolerating(tracker_name, "does not take images"):
                tracker.image(step, name, storage.local(path))

    def finish(self) -> None:
        """Ends the run everywhere."""
        for name, tracker in list(self._running.items()):
            with self._tolerating(name, "does not finish"):
                tracker.finish()

    @contextlib.contextmanager
    def _tolerating(self, name: str, trouble: str) -> Iterator[None]:
        """Turns an error within the block into a warning, and ends the use of a tracker."""
        try:
            yield
        except (Exception, SystemExit) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            log.warning(
                "%s %s (%s); going on without it, the metrics are in %s",
                name,
                trouble,
                reason,
                self._metrics_path,
            )
            self._running.pop(name, None)
