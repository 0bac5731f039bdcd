"""Files that appear whole or not at all."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from utils import storage
from utils.errors import UserError


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a temporary path to write to, and puts it at `path` when the block ends well.

    Readers see the old file or the new one, never a part of it. The temporary file is in the same
    folder, which is made if needed (for one in a bucket, it is on this machine), and has the same
    suffix. It is removed when the block fails.

    Raises:
        UserError: the file cannot be written.
    """
    path = storage.as_path(path)
    temporary = storage.temporary_for(path)
    try:
        if not storage.is_bucket(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        storage.publish(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json_atomic(path: str | os.PathLike, obj: Any) -> None:
    """Writes strict, indented JSON.

    Raises:
        ValueError: the object holds a number that is not finite.
        UserError: the file cannot be written.
    """
    text = json.dumps(obj, indent=2, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n")


def cannot_write(path: pathlib.Path, error: Exception) -> UserError:
    """Returns the error to raise when the system refuses to write `path`."""
    reason = getattr(error, "strerror", None) or error
    return UserError(
        f"could not write {path}: {reason}; make the folder writable or free some space, then run "
        "the command again"
    )
