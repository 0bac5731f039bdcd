"""One program at a time writes into a run folder.

On this machine that is a lock of the file system, which ends with the process. In a bucket it is an
object, `.lock`, that says who holds it:

    {"host": "worker-0", "processes": "pid:[4026531836]", "process": "1234", "beat": 1795682139.5}

It is made only where there is none (a generation match of Google Cloud Storage, If-None-Match of
S3), and its holder writes it again every 15 s, only over its own last one. Without such a sign of
life for 60 s it has expired, and so has that of a process of this machine that is gone.
"""

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from utils import storage
from utils.errors import UserError

log = logging.getLogger("train")

BEAT = 15.0  # seconds between two signs of life
EXPIRY = 60.0  # seconds without one after which the folder is free
TRIES = 5  # to make a lock where none is seen
PATIENCE = 20.0  # seconds for which a lock that looks expired is watched; clocks may differ


class Hold:
    """A folder that is held. On a file system nothing can take it away."""

    def confirm(self) -> None:
        """Raises UserError where another program has taken the folder over."""


@contextlib.contextmanager
def hold(folder: pathlib.Path) -> Iterator[Hold]:
    """Holds a run folder: the metrics and checkpoints of two programs would mix.

    Raises:
        UserError: another program holds it.
    """
    if not storage.is_bucket(folder):
        with _file_lock(folder):
            yield Hold()
        return
    lock = BucketLock(folder)
    try:
        yield lock
    finally:
        lock.release()


@contextlib.contextmanager
def _file_lock(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder of this machine.

    The system lets go of the lock with the process, however that ends. Where the file system has no
    locks, that is said and no more.
    """
    with open(folder / ".lock", "w") as file:
        try:
            # Unlike flock, lockf is not passed on to the worker processes that read data.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"{folder}: another program is training there; wait until it ends, "
                "or give another --save_dir"
            ) from None
        except OSError as error:
            log.warning(
                "%s: the file system has no locks (%s): "
                "see that one program at a time trains there",
                folder,
                error.strerror,
            )
        yield


# ---- in a bucket ----


class BucketLock(Hold):
    """The lock of a folder in a bucket, with a thread that gives signs of life.

    A lock that a killed program left is waited for until it expires.

    Raises:
        UserError: another program holds the folder, and is alive.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder, self.path = folder, folder / ".lock"
        self._version: str | None = None  # of the object, as this program wrote it last
        self._seen_alive = time.monotonic()
        self._writing = threading.Lock()  # the thread and `confirm` write the same object
        self._take()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lock", daemon=True)
        self._thread.start()

    def confirm(self) -> None:
        """Gives a sign of life. Where the store does not answer, the last one counts for a while.

        Raises:
            UserError: another program took the folder over.
        """
        try:
            self._give_sign()
        except UserError:
            raise
        except Exception as error:  # of the network
            if time.monotonic() - self._seen_alive > EXPIRY:
                raise
            log.warning("%s: no sign of life sent (%s)", self.path, storage.reason(error))

    def _give_sign(self) -> None:
        """Writes the object again. Raises UserError, and what the libraries raise."""
        with self._writing:
            if self._write(self._version):
                return
            content, version = storage.read_version(self.path)
            if _is_own(_parse(content)):  # an answer of the store was lost
                self._version = version
                return
        raise UserError(
            f"{self.folder}: {_who(_parse(content))} has taken the folder over, because this "
            "program gave no sign of life for a while; what it saved until then stays"
        )

    def release(self) -> None:
        """Removes the object, unless it is another's."""
        self._released.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # it expires all the same
            if _is_own(_parse(storage.read_version(self.path)[0])):
                self.path.unlink()

    def _take(self) -> None:
        """Makes the object. Raises UserError where another program is alive that holds it."""
        began = time.monotonic()
        first_seen: str | None = None
        missing = 0
        while not self._write(None):
            content, seen = storage.read_version(self.path)
            if seen is None:  # it was released just now, or cannot be made
                missing += 1
                if missing == TRIES:
                    raise UserError(
                        f"{self.path} cannot be made: the store takes no object on the condition "
                        "that there is none; give a store that has conditional writes"
                    )
                time.sleep(min(1.0, BEAT))
                continue
            holder = _parse(content)
            watched = time.monotonic() - began
            silent = time.time() - holder["beat"] > EXPIRY and watched > PATIENCE
            if silent or _is_gone(holder) or watched > 2 * EXPIRY:
                if self._write(seen):
                    log.info("%s: took the lock of %s, which is gone", self.folder, _who(holder))
                    return
                continue
            if first_seen is None:
                log.info(
                    "%s: held by %s; waiting up to %.0f s for a sign of its life",
                    self.folder,
                    _who(holder),
                    EXPIRY + BEAT,
                )
            first_seen = first_seen or seen
            if seen != first_seen:
                raise UserError(
                    f"{self.folder}: another program is training there, {_who(holder)}; wait until "
                    "it ends, or give another --save_dir"
                )
            time.sleep(min(1.0, BEAT))

    def _write(self, version: str | None) -> bool:
        """Writes the object over one version of it. Returns whether it is ours then."""
        content = json.dumps(own_facts() | {"beat": time.time()}).encode()
        written = storage.write_if(self.path, content, version)
        if written is None:
            # A request that was answered too late, and sent again, finds its own first try.
            there, seen = storage.read_version(self.path)
            if there != content:
                return False
            written = seen
        self._version, self._seen_alive = written, time.monotonic()
        return True

    def _keep(self) -> None:
        """Gives signs of life until the lock is released. A lost lock ends the program."""
        while not self._released.wait(BEAT):
            try:
                self._give_sign()
            except UserError as error:
                log.error("%s", error)
                os._exit(2)  # before anything else is written into what is another's now
            except Exception as error:  # of the network: the next one may come through
                log.warning("%s: no sign of life sent (%s)", self.path, storage.reason(error))


def own_facts() -> dict[str, str]:
    """Returns what names this process. The same number may be another process in a container."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return {"host": socket.gethostname(), "processes": space, "process": str(os.getpid())}


def _parse(content: bytes) -> dict[str, Any]:
    """Returns the holder that an object names; one that is long gone if it names none."""
    nobody = {"host": "", "processes": "", "process": "", "beat": 0.0}
    try:
        found = nobody | json.loads(content)
        return found | {"beat": float(found["beat"])}
    except (ValueError, TypeError):
        return nobody


def _who(holder: dict[str, Any]) -> str:
    """Returns the holder of a lock for a message."""
    seconds = max(0.0, time.time() - holder["beat"])
    return f"process {holder['process']} of {holder['host']} ({seconds:.0f} s ago)"


def _is_own(holder: dict[str, Any]) -> bool:
    """Returns whether this process holds the lock."""
    return all(holder[name] == value for name, value in own_facts().items())


def _is_gone(holder: dict[str, Any]) -> bool:
    """Returns whether the holder was a process of this machine that is no more."""
    own = own_facts()
    if any(holder[name] != own[name] for name in ("host", "processes")) or not own["processes"]:
        return False
    return holder["process"] != own["process"] and not os.path.exists(f"/proc/{holder['process']}")
