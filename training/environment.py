"""Where and how a run was made: `environment.jsonl` of its folder, a line for each start and end.

A run that was resumed elsewhere has lines of both machines. Nothing reads the file but people and
the report.
"""

import importlib.metadata
import json
import pathlib
import platform
import sys
import time
from typing import Any

import jax

from utils import processes, storage

FILE = "environment.jsonl"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def note_start(folder: pathlib.Path, step: int) -> None:
    """Writes the command, the devices and the versions; step: behind which the run goes on."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    _append(
        folder,
        {
            "event": "start",
            "step": step,
            "command": ["python", *sys.argv],
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "processes": jax.process_count(),
            "system": platform.platform(),
            "versions": {"python": platform.python_version()} | versions,
        },
    )


def note_end(folder: pathlib.Path, step: int) -> None:
    """Writes that the run stopped after a step, at its end or by a signal."""
    _append(folder, {"event": "end", "step": step})


def note_rollback(folder: pathlib.Path, step: int, back_to: int) -> None:
    """Writes that step was not finite, and from where the run goes on."""
    _append(folder, {"event": "rollback", "step": step, "back_to": back_to})


def _append(folder: pathlib.Path, record: dict[str, Any]) -> None:
    """Adds a line with the time, in seconds since 1970; only the first process writes."""
    if not processes.is_first():
        return
    line = json.dumps({"time": round(time.time(), 3)} | record)
    storage.append(folder / FILE, line + "\n")
