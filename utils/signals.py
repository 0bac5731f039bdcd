"""Signals that ask a run to save and stop."""

from __future__ import annotations

import os
import signal

import jax


class StopSignal:
    """Turns SIGTERM and Ctrl-C into a flag, so that a run can finish its step and save first.

        with StopSignal() as stop:
            while not stop.requested:
                ...

    A second Ctrl-C ends the process at once; checkpoints that are on disk stay whole. At the end of
    the block the previous handlers return. Python allows all this in the main thread only.

    In a job of several processes SIGTERM is left to JAX, which finds a step after which all of them
    can stop (`utils.distributed.stop_after`). A Ctrl-C is passed on as a SIGTERM there.

    Attributes:
        name: the first signal that came, such as "SIGTERM"; None before.
    """

    def __init__(self):
        self.name: str | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.name is not None

    def __enter__(self) -> StopSignal:
        if jax.process_count() > 1:
            handlers = {signal.SIGINT: self._pass_on}
        else:
            handlers = {signal.SIGTERM: self._note, signal.SIGINT: self._note}
        self._previous = {
            number: signal.signal(number, handler) for number, handler in handlers.items()
        }
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _pass_on(self, _number, _frame) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def _note(self, number, _frame) -> None:
        if self.requested and number == signal.SIGINT:
            # The user is impatient: the default handler ends the process.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self.name = self.name or signal.Signals(number).name
