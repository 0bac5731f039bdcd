"""Several processes as one job: how they start, what they agree on, and how they end.

    with all_processes(flags.distributed):  # before the first use of a device
        ...

Every process runs the same program with the same arguments, and arrays live on a mesh over the
devices of all of them. Process 0 writes the files. Who takes part is found in `utils/cluster.py`;
how the processes exchange arrays and text is in `utils/processes.py`.
"""

import atexit
import contextlib
import json
import logging
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn

import jax
import numpy as np

from utils import processes
from utils.cluster import Member, find_member
from utils.errors import UserError
from utils.roll_call import roll_call

log = logging.getLogger(__name__)

# Seconds without a sign of life after which JAX counts a process as gone.
HEARTBEAT = 30
# Seconds that the others wait at the end for the first one, which writes the report alone.
LONGEST_END = 3600
# What JAX says when another process is gone.
GONE = re.compile(
    "heartbeat|unhealthy|task is set to ERROR|coordination service|[Cc]onnection (closed|reset)"
)
# Seconds after which all processes must see a file. File systems on a network remember for a while
# that it was not there.
SEEN_BY_ALL = 60


# ---------------------------------------------------------------- start and end


@contextlib.contextmanager
def all_processes(options) -> Iterator[None]:
    """Joins the other processes, if there are any, and leaves together with them.

    In one of several processes an error within the block ends this process at once, with one line.
    Were it to leave in the usual way, it would wait for the others, and they for its part of the
    next step.

    Args:
        options: the `distributed` group of `configs/default.py`.
    Raises:
        UserError: in a job of one process.
    """
    member = find_member(options)
    if member is None:
        yield
        return
    coordinator, ranks, rank, _ = member
    who = f"process {rank} of {ranks}"
    log.info("%s: waiting for the others at %s, at most %d s", who, coordinator, options.timeout)
    try:
        hosts = roll_call(coordinator, ranks, rank, options.timeout)
    except UserError as error:
        _leave(error, who)

    everybody = ", ".join(f"{r} {host}" for r, host in enumerate(hosts))
    cancel_last_words = _prepare_last_words(
        f"error: {who} ({socket.gethostname()}) was ended from outside, or by JAX because another "
        f"process of the job is gone: the lines above say which ({everybody}). Start all of them "
        "again to resume from the last checkpoint"
    )
    try:
        _start_jax(member, hosts, options.timeout)
        yield
    except Exception as error:
        if GONE.search(str(error)):
            # Whatever waited for the process that is gone is not what went wrong: no traceback. The
            # last words follow.
            _write_error_line(" ".join(str(error).split())[:500])
            os._exit(1)
        cancel_last_words()
        _leave(error, who)
    finally:
        # JAX waits for the others when a process exits, with nothing left to lose. Exit functions
        # run in the reverse order, so this one runs before that wait.
        atexit.register(cancel_last_words)


def _start_jax(member: Member, hosts: Sequence[str], timeout: int) -> None:
    """Starts JAX in all processes, and says what devices each has."""
    jax.distributed.initialize(
        member.coordinator,
        member.ranks,
        member.rank,
        local_device_ids=member.local_devices,
        initialization_timeout=timeout,
        heartbeat_timeout_seconds=HEARTBEAT,
        shutdown_timeout_seconds=LONGEST_END,
    )
    if not processes.is_first():
        logging.getLogger().setLevel(logging.ERROR)
    counts = processes.concatenate_all(np.array([jax.local_device_count()], np.int32))
    devices = [
        f"{r} {host} ({count[0]} devices)"
        for r, (host, count) in enumerate(zip(hosts, counts, strict=True))
    ]
    log.info("%d processes: %s", member.ranks, ", ".join(devices))


def _leave(error: Exception, who: str) -> NoReturn:
    """Ends this process with one line, after a traceback unless the user can mend the error."""
    if isinstance(error, UserError):
        _write_error_line(f"error: {' '.join(str(error).split())}")
        os._exit(2)
    traceback.print_exception(error)
    _write_error_line(f"error: {who} stops: {type(error).__name__}; the lines above say where")
    os._exit(1)


def _write_error_line(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


# A helper that outlives the process it speaks for. It reads to the end of its input, which comes
# when that process ends in any way, and writes what it has read unless "done" came last.
LAST_WORDS = """
import sys
text = sys.stdin.read()
if not text.endswith("done"):
    sys.stderr.write(text + "\\n")
"""


def _prepare_last_words(text: str) -> Callable[[], None]:
    """Has `text` written to stderr when this process ends, unless the returned function is called.

    An abort inside JAX runs no Python any more, so another process has to write it.
    """
    helper = subprocess.Popen(
        [sys.executable, "-SEc", LAST_WORDS], stdin=subprocess.PIPE, start_new_session=True
    )
    to_helper = helper.stdin
    assert to_helper is not None
    to_helper.write(text.encode())
    to_helper.flush()

    def cancel():
        if not to_helper.closed:
            with contextlib.suppress(OSError):
                to_helper.write(b"done")
                to_helper.close()
            helper.wait()

    return cancel


# ---------------------------------------------------------------- what all agree on


def agree(when: str, facts: Mapping[str, object]) -> None:
    """Checks that all processes have the same facts. All processes must call it.

    Args:
        when: the beginning of the message, such as "at the start".
        facts: anything that JSON can hold, by name.
    Raises:
        UserError: in all processes, with the first fact that differs.
    """
    if jax.process_count() == 1:
        return
    own = json.dumps(facts, sort_keys=True, default=str).encode()
    parts = processes.concatenate_all(np.frombuffer(own, np.uint8))
    all_facts = [json.loads(bytes(part)) for part in parts]
    for rank, facts_there in enumerate(all_facts):
        for name in all_facts[0] | facts_there:
            there = facts_there.get(name, "absent")
            first = all_facts[0].get(name, "absent")
            if there != first:
                raise UserError(
                    f"{when}: {name} is {there} in process {rank} and {first} in process 0; all "
                    "processes of a job need the same code, flags, data and run folder"
                )


def agree_on_folder(folder: pathlib.Path) -> None:
    """Checks that what one process writes in the folder the others see. All must call it.

    Raises:
        UserError: in all processes, with those that do not see the files of the others.
    """
    ranks, rank = jax.process_count(), jax.process_index()
    if ranks == 1:
        return
    marks = [folder / f".process_{r}" for r in range(ranks)]
    marks[rank].touch()
    deadline = time.monotonic() + SEEN_BY_ALL
    sees_all = all(mark.exists() for mark in marks)
    while not sees_all and time.monotonic() < deadline:
        time.sleep(0.2)
        sees_all = all(mark.exists() for mark in marks)
    parts = processes.concatenate_all(np.array([sees_all]))
    marks[rank].unlink(missing_ok=True)
    blind = [str(r) for r, part in enumerate(parts) if not part[0]]
    if blind:
        raise UserError(
            f"{folder} is not one folder for all: process {', '.join(blind)} of {ranks} does not "
            "see what the others write there; give a --save_dir on a file system that all hosts "
            "share"
        )


def stop_after(step: int, requested: bool) -> bool:
    """Tells whether to save and stop after this step. All processes must call it after every step.

    The answer is the same in all of them: a SIGTERM to one stops them all. JAX takes that signal
    itself, and finds a step that no process has passed.

    Args:
        step: the number of finished steps.
        requested: whether a signal has come to this process; that counts where it is the only one.
    """
    if jax.process_count() == 1:
        return requested
    from jax.experimental.multihost_utils import reached_preemption_sync_point

    return reached_preemption_sync_point(step)
