"""The watch over a kernel that tells no real from another, read off the numbers of the log."""

import logging

from drifting.config import DriftConfig
from drifting.temperature import Temperatures
from training.collapse import PATIENCE
from training.findings import FEWEST, FLAT, SOFTMAX, is_unnormalised

log = logging.getLogger("train")

# Untrained samples lie closer to each other than to any real. A tenth of the training is theirs.
EARLY = 0.1


class FieldWatch:
    """Warns once when the attraction stays spread over all reals alike.

    It sees the smallest temperature alone, and cannot tell a kernel that is flat from one so narrow
    that it reaches no real and stays at its floor: scripts/doctor.py can. With a schedule of the
    temperatures a kernel may be flat on purpose, and learned ones move by themselves, so nothing is
    said.
    """

    def __init__(self, drift: DriftConfig, max_steps: int):
        """drift: the numbers of a step. max_steps: the length of the training."""
        self.first_step = EARLY * max_steps
        self.tau = min(drift.temperatures)
        self.most = drift.positives
        softmax = drift.field in SOFTMAX and not is_unnormalised(drift)
        is_constant = drift.temperature_factors == (1.0, 1.0)
        is_constant &= not isinstance(drift.memory, Temperatures)
        self.watches = softmax and is_constant and self.most >= FEWEST
        self.lines_flat = 0  # log lines in a row

    def check(self, step: int, perplexity: float) -> None:
        """Takes note of a log line.

        Args:
            step: the steps so far.
            perplexity: over how many positives the attraction spreads.
        """
        if not self.watches or step < self.first_step or perplexity < FLAT * self.most:
            self.lines_flat = 0
            return
        self.lines_flat += 1
        if self.lines_flat != PATIENCE:
            return
        log.warning(
            "field: at step %d the attraction at temperature %g is spread over %.1f of %d reals "
            "for %d log lines, so it knows no near and far; scripts/doctor.py says what to change",
            step,
            self.tau,
            perplexity,
            self.most,
            PATIENCE,
        )
