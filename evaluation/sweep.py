"""Evaluations of one set of parameters at several guidance scales, a row of fid.csv each."""

import dataclasses
import logging
import pathlib
from collections.abc import Callable

import numpy as np

from evaluation.alphas import Alphas, golden_section
from evaluation.fid_csv import append_row, describe_scores, distance_name, find_row
from evaluation.pictures import SHOWN, Preview
from evaluation.scoring import Scored
from utils import processes

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Sweep:
    """Evaluates one set of parameters at guidance scales, each scale once.

    Attributes:
        evaluate: (alpha, preview) -> scores with their settings; shows its images to the preview.
        settings: all settings of a row but alpha.
        table: fid.csv, where rows are looked for and written; None = neither.
        wanted_scores: a row of the table that has all of them counts as done. Empty: no row does,
            and every scale is evaluated.
        all_samples: whether previews hold all samples, and not only the first.
    """

    evaluate: Callable[[float, Preview], Scored]
    settings: dict
    table: pathlib.Path | None
    wanted_scores: list[str]
    all_samples: bool

    def __post_init__(self):
        self._found: dict[float, Scored] = {}
        self._previews: dict[float, Preview] = {}

    def run(self, alphas: Alphas) -> tuple[Scored, Preview | None]:
        """Evaluates at all scales, or searches for the one with the least Frechet distance.

        All processes must call it.

        Returns:
            The scores of the last scale, or of the best one of a search, and the preview of its
            samples: None where the row was in the table already.
        """
        if alphas.interval:
            best = golden_section(self.distance_at, *alphas.interval)
            log.info(
                "step %d: best alpha %g, chosen on the figure that it is reported with",
                self.settings["step"],
                best,
            )
            values = [best]
        else:
            values = alphas.values
        for alpha in values:
            self.row_at(alpha)
        return self._found[values[-1]], self._previews.get(values[-1])

    def distance_at(self, alpha: float) -> float:
        """Returns the Frechet distance at a scale."""
        row = self.row_at(alpha)
        return row[distance_name(row)]

    def row_at(self, alpha: float) -> dict:
        """Returns the row of a scale: known, out of the table, or by a new evaluation."""
        if alpha not in self._found:
            done = self._find(alpha)
            self._found[alpha] = self._score(alpha) if done is None else Scored(done, {})
        return self._found[alpha].row

    def _find(self, alpha: float) -> dict | None:
        """Returns the row of the table; None when it has none, or one process does not see it."""
        wanted = self.settings | {"cfg_scale": alpha}
        done = None
        if self.table and self.wanted_scores:
            done = find_row(self.table, wanted, self.wanted_scores)
        # All processes evaluate or none: one that sees no table would wait for the others forever.
        seen_by_all = processes.concatenate_all(np.array([done is not None]))
        if done is None or not np.all(seen_by_all):
            return None
        log.info("step %d, alpha %g: in fid.csv already", wanted["step"], alpha)
        return wanted | done

    def _score(self, alpha: float) -> Scored:
        """Evaluates, and adds the row to the table."""
        preview = Preview(None if self.all_samples else SHOWN)
        self._previews[alpha] = preview
        scored = self.evaluate(alpha, preview)
        row = self.settings | {"cfg_scale": alpha} | scored.row
        if self.table and processes.is_first():
            append_row(self.table, row)
        log.info("step %d, alpha %g: %s", row["step"], alpha, describe_scores(row))
        return scored._replace(row=row)
