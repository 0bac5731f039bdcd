"""The paths that flags name: one function expands and checks every one of them.

A path is a file or folder of this machine or, for the flags whose row in the table of settings says
so, in a bucket (gs://bucket/folder, s3://...). For others that is refused in a line, since it would
mean a folder "gs:" here.
"""

import os
import pathlib
import re
from typing import Any

from utils import storage
from utils.errors import UserError

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# A folder of an object store, also where a program took it for a path and left one slash.
BUCKET = re.compile(r"(?:folder:|latents:|npz:|tfds:|hf:)?(gs|s3):/(/?)")
# A home folder after the first of several paths, or after a scheme: "folder:~/pictures".
HOME = re.compile(r"([,:])~(?=/|$)")


def cache_folder() -> pathlib.Path:
    """Returns the project's part of the user's cache: ~/.cache/jax-drift, or in XDG_CACHE_HOME."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "jax-drift"


def expand(text: str | os.PathLike, buckets: bool = True) -> str:
    """Returns the value of a flag for a path with the home folder in the place of ~.

    It may be several paths with commas, or the path of a data set after its kind, "folder:~/x".
    Names that are no path, such as hf://name or a name of the hub, stay as they are.

    buckets: whether it may be in a bucket.

    Raises:
        ValueError: it cannot be a path; the message says what was expected.
    """
    text = os.fspath(text)
    if "\0" in text or "\n" in text:
        raise ValueError("expected a path in one line")
    bucket = BUCKET.match(text)
    if bucket and not bucket[2]:
        raise ValueError(f"expected two slashes for a bucket, {bucket[1]}://bucket/folder")
    if bucket and (not buckets or text.startswith("tfds:")):
        raise ValueError(
            "expected a path of this machine: a bucket is not read here; copy the files here, or "
            "mount it (gcsfuse, s3fs) and give the folder where it is mounted"
        )
    if text.startswith("~"):
        text = os.path.expanduser(text)
    return HOME.sub(lambda found: found[1] + os.path.expanduser("~"), text)


def to_path(text: Any) -> pathlib.Path:
    """Returns the path that a flag names, with the methods of `pathlib.Path`.

    Raises UserError for an address that is no path, and for a bucket that cannot be reached.
    """
    try:
        text = expand(text)
    except ValueError as error:
        raise UserError(f"{os.fspath(text)!r}: {error}") from None
    scheme = SCHEME.match(text)
    if scheme and not storage.is_bucket(text):
        raise UserError(f"{text}: {scheme[1]}:// is no place for files; give a path")
    return storage.as_path(text)


def to_local(text: Any) -> pathlib.Path:
    """Returns the path of what is read as files of this machine: a copy of what is in a bucket."""
    return storage.local(to_path(text))


def absolute(path: pathlib.Path) -> pathlib.Path:
    """Returns the one spelling of a path by which two of them can be compared."""
    return path if storage.is_bucket(path) else path.resolve()


# ---- a checkpoint in the place of its run ----


def run_of_checkpoint(path: Any) -> tuple[Any, int | None]:
    """Returns the run that a path leads into, and the step where it names a checkpoint.

    RUN/checkpoints gives (RUN, None), and RUN/checkpoints/2000 gives (RUN, 2000). Any other path
    is returned as it is, with None.
    """
    path = to_path(path)
    step = int(path.name) if path.name.isdecimal() else None
    checkpoints = path if step is None else path.parent
    run = checkpoints.parent
    if checkpoints.name == "checkpoints" and (run / "config.json").exists():
        return run, step
    return path, None


def refuse_checkpoint(flag: str, path: Any, step_flag: bool) -> None:
    """Raises UserError where a flag that takes a run names a folder inside of one.

    step_flag: whether the program has a flag --step beside it.
    """
    if not path or str(path).startswith("hf://"):
        return
    run, step = run_of_checkpoint(path)
    if str(run) == str(to_path(path)):
        return
    more = ""
    if step is not None and step_flag:
        more = f" --step {step}"
    raise UserError(f"--{flag} {path} lies inside of a run; give --{flag} {run}{more}")
