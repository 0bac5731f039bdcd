"""Weights & Biases as a tracker, see `utils/trackers.py`."""

import logging
import os
import secrets
import tempfile
from collections.abc import Mapping
from typing import Any

from utils import storage
from utils.trackers import RunFacts

log = logging.getLogger(__name__)


class WandbRun:
    """A run in Weights & Biases.

    `wandb_id.txt` in the run folder lets a resumed run go on in the same wandb run. The options are
    `mode` ("online" or "offline"), `project`, `name` (empty: that of the folder), and `entity`.
    """

    def __init__(self, facts: RunFacts):
        import wandb

        folder, options = facts.folder, facts.options
        id_file = folder / "wandb_id.txt"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4))
        self._run = wandb.init(
            dir=tempfile.mkdtemp() if storage.is_bucket(folder) else str(folder),
            id=id_file.read_text().strip(),
            mode=options.mode,
            project=options.project,
            name=options.name or folder.absolute().name,
            entity=options.entity or None,
            config=dict(facts.config),
            resume="allow" if options.mode == "online" else None,
            settings=wandb.Settings(silent=True, init_timeout=30),
        )
        # Our own step: that of wandb must never go back, and a resumed run may repeat steps.
        self._run.define_metric("*", step_metric="step")
        if self._run.url:
            log.info("wandb: %s", self._run.url)

    def log(self, record: Mapping[str, Any]) -> None:
        """Logs one record."""
        self._run.log(dict(record))

    def image(self, step: int, name: str, path: str | os.PathLike) -> None:
        """Shows a picture file."""
        import wandb

        self._run.log({"step": step, name: wandb.Image(str(path))})

    def finish(self) -> None:
        """Ends the run there."""
        self._run.finish()
