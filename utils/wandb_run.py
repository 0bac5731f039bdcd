"""Weights & Biases, which is never required."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

log = logging.getLogger(__name__)


class WandbRun:
    """A run in Weights & Biases. Its first failure is one warning; after that it does nothing.

    Args:
        folder: of the run; `wandb_id.txt` in it lets a resumed run go on in the same wandb run.
        options: `mode` ("online" or "offline"), `project`, `name` (empty: that of the folder),
            `entity`.
        config: what is shown as the configuration.
        metrics_path: where the metrics are in any case, for the warning.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        options,
        config: Mapping[str, Any] | None,
        metrics_path: pathlib.Path,
    ):
        self._metrics_path = metrics_path
        self._run: Any = None
        with self._tolerating("does not start"):
            self._run = _start(folder, options, config)
            if self._run.url:
                log.info("wandb: %s", self._run.url)

    def log(self, record: Mapping[str, Any]) -> None:
        """Logs one record of `metrics.jsonl`."""
        if self._run is not None:
            with self._tolerating("does not log"):
                self._run.log(record)

    def image(self, step: int, name: str, path: str | os.PathLike) -> None:
        """Shows a picture file."""
        if self._run is not None:
            with self._tolerating("does not take images"):
                import wandb

                self._run.log({"step": step, name: wandb.Image(str(path))})

    def finish(self) -> None:
        """Ends the run there."""
        if self._run is not None:
            with self._tolerating("does not finish"):
                self._run.finish()

    @contextlib.contextmanager
    def _tolerating(self, trouble: str) -> Iterator[None]:
        """Turns an error within the block into a warning, and ends the use of wandb."""
        try:
            yield
        except (Exception, SystemExit) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            log.warning(
                "wandb %s (%s); going on without it, the metrics are in %s",
                trouble,
                reason,
                self._metrics_path,
            )
            self._run = None


def _start(folder: pathlib.Path, options, config: Mapping[str, Any] | None):
    """Returns a new run of wandb, or the one that this folder's run has had before."""
    import wandb

    id_file = folder / "wandb_id.txt"
    if not id_file.exists():
        id_file.write_text(secrets.token_hex(4))
    run = wandb.init(
        dir=str(folder),
        id=id_file.read_text().strip(),
        mode=options.mode,
        project=options.project,
        name=options.name or folder.absolute().name,
        entity=options.entity or None,
        config=dict(config or {}),
        resume="allow" if options.mode == "online" else None,
        settings=wandb.Settings(silent=True, init_timeout=30),
    )
    # Our own step: that of wandb must never go back, and a resumed run may repeat steps.
    run.define_metric("*", step_metric="step")
    return run
