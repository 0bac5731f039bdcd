"""The import of Orbax."""

import logging
import sys
from typing import Any


def load_orbax():
    """Returns `orbax.checkpoint`, imported only now because that takes 0.4 s.

    Its log lines are left out: what matters of them comes as exceptions. So are the tracebacks of
    all other writes where one has failed: of tasks that nobody waits for any longer, and of
    TensorStore's threads, which report to an event loop that the failure has closed.
    """
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(_is_not_of_orbax)
    logging.getLogger("asyncio").addFilter(_is_no_failed_write)
    sys.unraisablehook = _without_closed_loops
    return ocp


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def _is_no_failed_write(record: logging.LogRecord) -> bool:
    return "orbax" not in record.getMessage()


def _without_closed_loops(found: Any) -> None:
    """Reports an exception that nobody can catch, as Python does, but for those of closed loops."""
    if not (found.exc_type is RuntimeError and str(found.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(found)
