"""Ends a program that hangs, and says where every thread of it was."""

import faulthandler
from typing import Self


class Watchdog:
    """Ends the process when nothing has restarted it for so many seconds; use it in a `with` block.

    The stacks of all threads go to the standard error, and the exit code is 1, by which a cluster
    starts the job again. It is watched by a thread of the interpreter that needs no lock of Python,
    so code which holds that lock is ended too.

    Args:
        seconds: 0 for no watch.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.rest()

    def restart(self) -> None:
        """Says that the program is alive."""
        if self.seconds:
            faulthandler.dump_traceback_later(self.seconds, exit=True)

    def rest(self) -> None:
        """Ends the watch until the next restart."""
        if self.seconds:
            faulthandler.cancel_dump_traceback_later()
