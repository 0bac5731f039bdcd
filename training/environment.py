"""Where and how a run was made: `environment.jsonl` of its folder, a line for each start and end.

A run that was resumed elsewhere has lines of both machines. Nothing reads the file but people and
the report.
"""

import importlib.metadata
import json
import pathlib
import platform
import subprocess
import sys
import time
from typing import Any

import jax

from utils import processes, storage

FILE = "environment.jsonl"
ROOT = pathlib.Path(__file__).resolve().parent.parent
GIT_SECONDS = 10  # that git may take, on a slow disk
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def note_start(folder: pathlib.Path, step: int) -> None:
    """Writes the command, the devices and the versions; step: behind which the run goes on.

    In a git checkout also the commit of the code.
    """
    commit = commit_of(ROOT) if processes.is_first() else ""
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
        }
        | ({"commit": commit} if commit else {}),
    )


def note_end(folder: pathlib.Path, step: int) -> None:
    """Writes that the run stopped after a step, at its end or by a signal."""
    _append(folder, {"event": "end", "step": step})


def note_rollback(folder: pathlib.Path, step: int, back_to: int) -> None:
    """Writes that step was not finite, and from where the run goes on."""
    _append(folder, {"event": "rollback", "step": step, "back_to": back_to})


def commit_of(folder: pathlib.Path) -> str:
    """Returns the commit of a git checkout, with "-dirty" behind it where files have changed since.

    "" where the folder is none, or git is missing or takes too long.
    """
    if not (folder / ".git").exists():
        return ""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(
            [*command, "--abbrev=40"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _append(folder: pathlib.Path, record: dict[str, Any]) -> None:
    """Adds a line with the time, in seconds since 1970; only the first process writes."""
    if not processes.is_first():
        return
    line = json.dumps({"time": round(time.time(), 3)} | record)
    storage.append(folder / FILE, line + "\n")
