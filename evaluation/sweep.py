"""Several evaluations of one set of parameters: a list of alphas or the search for the best, a row of fid.csv each."""

import functools
import logging
import pathlib
from collections.abc import Callable

import numpy as np

from evaluation.alphas import golden_section
from evaluation.fid_csv import append_row, distance, find_row, show
from evaluation.pictures import SHOWN, Preview
from utils import processes

log = logging.getLogger(__name__)


def score_alphas(
    evaluate: Callable[[float, Preview], dict],
    alphas: list[float],
    interval: tuple[float, float] | None,
    settings: dict,
    table: pathlib.Path | None,
    done_with: list[str],
    keep_all: bool,
) -> tuple[dict, Preview | None]:
    """(row, preview) of the last of the alphas, or of the best one in the interval; no preview where the row was in the table already.

    evaluate(alpha, preview) -> scores with their settings. settings: all others of a row. table: fid.csv, or None. done_with: scores with which a row of the same
    settings in the table counts as done; none = every alpha is evaluated. keep_all: the preview holds all samples, not the first.
    """
    previews = {}

    @functools.cache
    def at(alpha: float) -> dict:
        wanted = settings | {"cfg_scale": alpha}
        done = find_row(table, wanted, done_with) if table and done_with else None
        if np.all(
            processes.concatenate_all(np.array([bool(done)]))
        ):  # a process that sees no table would evaluate alone
            log.info("step %d, alpha %g: in fid.csv already", wanted["step"], alpha)
            return wanted | done
        previews[alpha] = Preview(None if keep_all else SHOWN)
        row = wanted | evaluate(alpha, previews[alpha])
        if table and processes.is_first():
            append_row(table, row)
        log.info("step %d, alpha %g: %s", row["step"], alpha, show(row))
        return row

    if interval:
        alphas = [golden_section(lambda alpha: at(alpha)[distance(at(alpha))], *interval)]
        log.info(
            "step %d: best alpha %g, chosen on the figure that it is reported with",
            settings["step"],
            alphas[0],
        )
    for alpha in alphas:
        at(alpha)
    return at(alphas[-1]), previews.get(alphas[-1])
