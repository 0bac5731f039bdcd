"""`fid.csv`, the table of a run: one row per evaluation, told apart by its settings.

A row is a dict of settings (SETTINGS), scores, and other facts such as the number of real images.
"""

import csv
import math
import pathlib

from metrics.networks import ERROR, RESIDUAL, SLOPE
from utils import storage
from utils.errors import UserError
from utils.files import replacing

# What tells two evaluations apart, in the order of the columns.
SETTINGS = (
    "samples",
    "step",
    "ema",
    "cfg_scale",
    "seed",
    "num_samples",
    "features",
    "resize",
    "weights",
    "reference",
    "held_out",
    "labels",
    "denoise_timesteps",
    "vae",
    "data",
)
# Columns that stay text even where they look like numbers.
TEXTS = (
    "samples",
    "ema",
    "features",
    "resize",
    "weights",
    "reference",
    "held_out",
    "labels",
    "vae",
    "data",
)
DISTANCES = ("fid", "fd_")  # how names of Frechet distances start
# How names of scores start that are better when they are larger, and those that are best at none.
HIGHER = ("is", "precision", "recall", "density", "coverage", "class_agreement")
NEITHER = ("kid_std", "kd_std", "vendi", "memorised", "nearer", "authenticity")
NO_SCORES = (ERROR, SLOPE, RESIDUAL)  # how names of what stands beside a score end
SCORES = (  # how names of scores start
    *DISTANCES,
    "fdr",
    "swr",
    "kid",
    "kd_",
    "is",
    "precision",
    "recall",
    "density",
    "coverage",
    "vendi",
    "class_agreement",
    "memorised",
    "nearer",
    "authenticity",
)


# ---------------------------------------------------------------- one row


def is_score(name: str) -> bool:
    """Returns whether a column of fid.csv is a score, and no error of one."""
    return name not in SETTINGS and name.startswith(SCORES) and not name.endswith(NO_SCORES)


def is_better_larger(name: str) -> bool:
    """Returns whether a score is better when it is larger."""
    return name.startswith(HIGHER)


def scores(row: dict) -> dict:
    """Returns the scores of a row, without its settings, without gaps and without errors."""
    return {
        name: value
        for name, value in row.items()
        if is_score(name) and isinstance(value, int | float)
    }


def distance_name(row: dict) -> str:
    """Returns the name of a row's Frechet distance, "" where it has none."""
    names = (name for name in scores(row) if name.startswith(DISTANCES))
    return next((name for name in names if "_inf" not in name), "")


def same_settings(a: dict, b: dict, ignoring: tuple[str, ...] = ()) -> bool:
    """Returns whether two rows are of the same evaluation, but for the settings in `ignoring`."""
    compared = [name for name in SETTINGS if name not in ignoring]
    return all(str(a.get(name, "")) == str(b.get(name, "")) for name in compared)


def decimals_for(error: float | None) -> int:
    """Returns how many decimals show a score: three, or what two digits of its error ask for."""
    if not error or error >= 0.01:
        return 3
    return min(1 - math.floor(math.log10(error)), 9)


def describe_scores(row: dict) -> str:
    """Returns the scores of a row in a line of text, with their errors: fid_5k 8.431 +- 0.05."""
    words = []
    for name, value in scores(row).items():
        text = f"{name} {value:.{decimals_for(row.get(name + ERROR))}f}"
        if name + ERROR in row:
            text += f" +- {row[name + ERROR]:.2g}"
        words.append(text)
    return ", ".join(words)


def describe_parameters(row: dict) -> str:
    """Returns, for a title, which parameters a row is of, and the Euler steps of a flow."""
    text = "raw parameters" if row["ema"] == "raw" else f"EMA {row['ema']}"
    steps = row.get("denoise_timesteps")
    return f"{text}, {int(steps)} Euler steps" if steps else text


# ---------------------------------------------------------------- the table


def find_row(path: pathlib.Path, settings: dict, names: list[str]) -> dict | None:
    """Returns the row with these settings and all the scores in `names`, or None."""
    for row in read_rows(path):
        if same_settings(row, settings) and set(names) <= row.keys():
            return row
    return None


def append_row(path: pathlib.Path, row: dict) -> None:
    """Adds a row at the end of fid.csv.

    It replaces a row with the same settings and takes over those of its scores that it lacks.
    """
    rows = read_rows(path)
    before = next((other for other in rows if same_settings(other, row)), {})
    rows = [other for other in rows if other is not before]
    rows.append(before | row)
    names = dict.fromkeys(name for row in rows for name in row)
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted(names, key=_column))
        writer.writeheader()
        writer.writerows(rows)


def _column(name: str) -> int:
    """Returns the place of a column: settings in their order, then all else as it came."""
    return SETTINGS.index(name) if name in SETTINGS else len(SETTINGS)


def read_rows(path: pathlib.Path) -> list[dict]:
    """Returns the rows of fid.csv, numbers as numbers; a gap is left out, a missing file is [].

    Raises UserError where the file is no table of text.
    """
    if not path.exists():
        return []
    try:
        with storage.open_text(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, str(error)) from error
    typed = []
    for number, row in enumerate(rows, start=1):
        if None in row:  # where DictReader keeps what has no column
            raise _damaged(path, f"row {number} has more values than there are columns")
        typed.append(_typed(row))
        wrong = _mistake(typed[-1])
        if wrong:
            raise _damaged(path, f"row {number} has {wrong}")
    return typed


def _damaged(path: pathlib.Path, reason: str) -> UserError:
    return UserError(
        f"{path} is damaged ({reason}): correct or delete it; the next evaluation writes a new one"
    )


def _mistake(row: dict) -> str:
    """Returns what no evaluation can have written, "" where there is nothing of the kind."""
    texts = {name for name, value in row.items() if isinstance(value, str)}
    for name in sorted(texts - set(TEXTS)):
        return f"no number as {name}"
    if "step" in row and "samples" not in row:  # of the run's own generator
        for name in ("ema", "cfg_scale", "num_samples"):
            if name not in row:
                return f"a step, but no {name}"
    return ""


def _typed(row: dict[str, str]) -> dict:
    """Returns a row of text with its numbers as numbers, without gaps."""
    filled = {name: value for name, value in row.items() if value}
    return {name: value if name in TEXTS else _number(value) for name, value in filled.items()}


def _number(text: str) -> int | float | str:
    """Returns the text as an integer or a float, or as it is where it is neither."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
