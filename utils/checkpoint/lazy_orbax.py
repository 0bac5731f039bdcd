"""The import of Orbax, and how it writes arrays."""

import functools
import logging
import sys
from typing import Any

import jax

SHARED_FROM = 2**22  # bytes; a smaller array is written by one of the devices that hold it


def load_orbax():
    """Returns `orbax.checkpoint`, imported only now because that takes 0.4 s.

    Its log lines are left out: what matters of them comes as exceptions. So are the tracebacks of
    all other writes where one has failed: of tasks that nobody waits for any longer, and of
    TensorStore's threads, which report to an event loop that the failure has closed.
    """
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(_is_not_of_orbax)
    logging.getLogger("asyncio").addFilter(_is_no_failed_write)
    _write_small_arrays_whole()
    if not isinstance(sys.unraisablehook, _WithoutClosedLoops):
        sys.unraisablehook = _WithoutClosedLoops(sys.unraisablehook)
    return ocp


@functools.cache
def _write_small_arrays_whole() -> None:
    """Lets devices that hold the same array share the writing of it only where it is large.

    To cut a small one into pieces takes a program for every shape and device, which is compiled at
    the first save. Orbax's own notes on each array are left out: only random keys need them, and
    we save those as words.
    """
    from orbax.checkpoint import type_handlers

    of_a_device = max(1, SHARED_FROM // jax.device_count())
    handler = type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=of_a_device)
    type_handlers.register_type_handler(jax.Array, handler, override=True)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def _is_no_failed_write(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not ("exception was never retrieved" in message and "orbax" in message)


class _WithoutClosedLoops:
    """Reports exceptions that nobody can catch as the hook before it, but for closed loops."""

    def __init__(self, before: Any):
        self.before = before

    def __call__(self, found: Any) -> None:
        if not (found.exc_type is RuntimeError and str(found.exc_value) == "Event loop is closed"):
            self.before(found)
