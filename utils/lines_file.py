"""A file that grows by lines, on this machine or in a bucket."""

import pathlib
import time
from collections.abc import Iterable

from utils import storage
from utils.files import cannot_write, replacing

UPLOAD_INTERVAL = 30.0  # seconds


class LinesFile:
    """Writes lines behind those that stay.

    On a file system each line is there for readers at once. An object in a bucket cannot grow: it
    is written again, whole, every 30 s and by `flush`, so lines arrive in chunks. They are kept in
    memory for that: 100,000 lines of metrics are some 50 MB.

    Args:
        path: of the file.
        kept: the lines that it begins with, each with its end.
    Raises:
        UserError: the file cannot be written; also from the other methods.
    """

    def __init__(self, path: pathlib.Path, kept: Iterable[str]):
        self.path = path
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(kept)
        self.in_bucket = storage.is_bucket(path)
        if self.in_bucket:
            self._content = bytearray(path.read_bytes())
            self._is_uploaded = True
            self._uploaded_at = time.monotonic()
        else:
            # Without a buffer each line is there for other readers at once.
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115  closed by `close`

    def write(self, line: str) -> None:
        """Adds a line, given with its end."""
        rest = line.encode()
        if self.in_bucket:
            self._content += rest
            self._is_uploaded = False
            if time.monotonic() - self._uploaded_at > UPLOAD_INTERVAL:
                self.flush()
            return
        try:
            while rest:  # a nearly full disk takes a part first
                written = self._file.write(rest)
                rest = rest[written:]
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def flush(self) -> None:
        """Returns when all lines can be read by others."""
        if not self.in_bucket or self._is_uploaded:
            return
        try:
            storage.write(self.path, bytes(self._content))
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._is_uploaded = True
        self._uploaded_at = time.monotonic()

    def close(self) -> None:
        """Flushes and closes."""
        self.flush()
        if not self.in_bucket:
            self._file.close()
