"""Trackio as a tracker, see `utils/trackers.py`: a data base on this machine.

trackio show --project drift
"""

import contextlib
import io
import logging
import os
import secrets
from collections.abc import Mapping
from typing import Any

from utils.packages import need
from utils.trackers import REQUIREMENTS, RunFacts

log = logging.getLogger(__name__)


class TrackioRun:
    """A run in Trackio, of the project --wandb.project.

    `trackio_name.txt` in the run folder lets a resumed run go on in the same run of Trackio. What
    that has of a step already, from before a kill, is not logged again: it would be the same.
    """

    def __init__(self, facts: RunFacts):
        trackio = self._trackio = need("trackio", "--log trackio needs it", REQUIREMENTS)
        folder, options = facts.folder, facts.options
        name_file = folder / "trackio_name.txt"
        resumes = facts.resume_step > 0 and name_file.exists()
        if not resumes:
            name = options.name or folder.absolute().name
            name_file.write_text(f"{name}-{secrets.token_hex(2)}")
        name = name_file.read_text().strip()
        with contextlib.redirect_stdout(io.StringIO()):  # ten lines of advice
            self._run = trackio.init(
                project=options.project,
                name=name,
                config=dict(facts.config),
                resume="allow" if resumes else "never",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        self._known: dict[int, set[str]] = {}
        if resumes:
            storage = need("trackio.sqlite_storage", "--log trackio needs it", REQUIREMENTS)
            for record in storage.SQLiteStorage.get_logs(options.project, name):
                self._known.setdefault(record["step"], set()).update(record)
        log.info("trackio show --project %s (run %s)", options.project, name)

    def log(self, record: Mapping[str, Any]) -> None:
        """Logs what is not known yet of one record."""
        step = record["step"]
        known = self._known.get(step, set()) | {"step"}
        new = {name: value for name, value in record.items() if name not in known}
        if new:
            self._run.log(new, step=step)

    def image(self, step: int, name: str, path: str | os.PathLike) -> None:
        """Shows a picture file."""
        if name not in self._known.get(step, set()):
            self._run.log({name: self._trackio.Image(str(path))}, step=step)

    def finish(self) -> None:
        """Ends the run there."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio.finish()
