"""The watch over collapse: the samples of a class that become all alike."""

import logging

from utils.errors import UserError

log = logging.getLogger("train")

PATIENCE = 3  # log lines in a row before the watch speaks


class CollapseWatch:
    """Warns when the samples of a class stay all alike.

    Every sample then gets the same drift, and nothing separates them again.
    """

    def __init__(self, ratio: float, stop: bool):
        """ratio: the diversity below which a run has collapsed. stop: end the run then."""
        self.ratio = ratio
        self.stop = stop
        self.lines_below = 0  # log lines in a row whose diversity was below the ratio

    def check(self, step: int, diversity: float) -> None:
        """Takes note of a log line.

        Args:
            step: the steps so far.
            diversity: the mean distance between the generated samples of a class, over that between
                its reals.
        Raises:
            UserError: the samples have collapsed, and the run is to stop.
        """
        if diversity < self.ratio:
            self.lines_below += 1
        else:
            self.lines_below = 0
        if self.lines_below != PATIENCE:
            return
        message = (
            f"collapse: at step {step} the samples of a class are {diversity:.3f} times as far "
            f"apart as its reals, under --collapse_ratio {self.ratio} for {PATIENCE} log lines; "
            "a lower learning rate, a longer warm-up, more --drift.n_neg, "
            "or --model.zero_init_output 0 may help"
        )
        if self.stop:
            raise UserError(message)
        log.warning(message)
