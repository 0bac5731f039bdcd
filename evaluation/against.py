"""Two generators, or two sets of images, against the same reference: who is better, and how surely.

Both generators get the same noise and labels, so sample i of one is compared with sample i of the
other, and what the noise does to both drops out of the difference (`metrics/errors.py`).
"""

import dataclasses
import logging
from typing import NamedTuple

from evaluation.choose_metrics import is_of_six
from evaluation.fid_csv import NEITHER, decimals_for, is_better_larger, is_score
from evaluation.request import Request, folder_of
from evaluation.scoring import Scored
from metrics.errors import CONFIDENT, Estimate, difference
from utils.errors import UserError

log = logging.getLogger("eval")

TIE = "not told apart"


class Verdict(NamedTuple):
    """The comparison of one score.

    Attributes:
        other: The score of --against.
        difference: That of --load_dir less that.
        error: The standard error of the difference; None where it is not known.
        better: "load_dir", "against", or TIE: closer than 1.96 errors. None: of this score neither
            end is better, or the error is not known.
    """

    other: float
    difference: float
    error: float | None
    better: str | None


def request_of_other(request: Request) -> Request:
    """Returns the request for what --against names, with the reference of --load_dir.

    Its newest checkpoint is scored, and nothing is written.

    Raises:
        UserError: the flags ask for several rows, or for no errors.
    """
    flags = request.flags
    alphas = flags.cfg_scale
    if flags.all or "," in alphas or alphas.startswith("search"):
        raise UserError(
            "--against: it compares one checkpoint at one alpha; leave out --all, and give one "
            "number as --cfg_scale"
        )
    if not flags.error_groups:
        raise UserError("--against: it needs errors; leave out --error_groups 0")
    shared = ["inception_weights", "fid_stats"]
    if not is_of_six(flags.metrics):
        shared.append("features")
    given = {name: value for name, value in request.given.items() if name != "step"}
    given |= {name: request.setting(name) for name in shared}
    folder = folder_of(flags.against)
    other = dataclasses.replace(
        request,
        flags=flags.copy_and_resolve_references(),
        given=given,
        folder=folder,
        run=request.other_run,
        writes=False,
        other_run=request.run,
    )
    other.flags.load_dir, other.flags.step, other.flags.samples_npz = flags.against, 0, ""
    if other.is_generator != request.is_generator:
        raise UserError(
            f"--load_dir {flags.load_dir} --against {flags.against}: one generates samples and the "
            "other holds images; give two of a kind"
        )
    return other


def judge(first: Scored, second: Scored) -> dict[str, Verdict]:
    """Returns the comparison of every score that both have.

    Raises:
        UserError: the samples are not equally many.
    """
    check_counts(first.row["num_samples"], second.row["num_samples"])
    names = [name for name in first.estimates if name in second.estimates and is_score(name)]
    return {name: verdict(name, first.estimates[name], second.estimates[name]) for name in names}


def check_counts(first: int, second: int) -> None:
    """Raises UserError where two sets of samples are not equally many."""
    if first != second:
        raise UserError(
            f"--against: {first:,} samples against {second:,}; most scores depend on their "
            "number, so give equally many"
        )


def verdict(name: str, first: Estimate, second: Estimate) -> Verdict:
    """Returns the comparison of one score; see `Verdict`."""
    value, error = difference(first, second)
    if error is None or name.startswith(NEITHER):
        better = None
    elif abs(value) <= CONFIDENT * error:
        better = TIE
    else:
        better = "load_dir" if (value > 0) == is_better_larger(name) else "against"
    return Verdict(second.value, value, error, better)


def describe(name: str, found: Verdict, sources: dict[str, str]) -> str:
    """Returns a comparison in a line of text.

    sources: {"load_dir": the one, "against": the other}.
    """
    decimals = decimals_for(found.error)
    text = f"{name}: {found.difference + found.other:.{decimals}f} against "
    text += f"{found.other:.{decimals}f}, difference {found.difference:+.{decimals}f}"
    if found.error is not None:
        text += f" +- {found.error:.2g}"
    if found.better == TIE:
        return f"{text}: {TIE}"
    return f"{text}: {sources[found.better]} is better" if found.better else text
