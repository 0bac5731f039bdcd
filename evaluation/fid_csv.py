"""`fid.csv` of a run: one row per evaluation, told apart by its settings; and the curves drawn from it."""

import csv
import pathlib

from utils.files import replacing

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
    "labels",
    "denoise_timesteps",
)
TEXTS = (
    "samples",
    "ema",
    "features",
    "resize",
    "weights",
    "reference",
    "labels",
)  # even where they look like numbers
DISTANCES = ("fid", "fd_")  # how names of Frechet distances start
SCORES = (
    *DISTANCES,
    "kid",
    "kd_",
    "is",
    "precision",
    "recall",
    "density",
    "coverage",
    "class_agreement",
)


def is_score(name: str) -> bool:
    """Whether a column of fid.csv is a score."""
    return name not in SETTINGS and name.startswith(SCORES)


def scores(row: dict) -> dict:
    """The scores of a row, without its settings and without gaps."""
    return {k: v for k, v in row.items() if is_score(k) and isinstance(v, (int, float))}


def distance(row: dict) -> str:
    """The name of a row's Frechet distance, "" where it has none."""
    return next((k for k in scores(row) if k.startswith(DISTANCES)), "")


def same_settings(a: dict, b: dict, but: tuple[str, ...] = ()) -> bool:
    """Whether two rows come from the same evaluation, whatever the settings in `but`."""
    return all(str(a.get(k, "")) == str(b.get(k, "")) for k in SETTINGS if k not in but)


def find_row(path: pathlib.Path, settings: dict, names: list[str]) -> dict | None:
    """The row with these settings and all these scores, if there is one."""
    return next(
        (r for r in read_rows(path) if same_settings(r, settings) and set(names) <= r.keys()), None
    )


def show(row: dict) -> str:
    """The scores in a line of text."""
    return ", ".join(f"{k} {v:.3f}" for k, v in scores(row).items())


def parameters(row: dict) -> str:
    """In a title: which parameters a row is of."""
    return {"raw": "raw parameters", "": "published parameters"}.get(
        str(row.get("ema", "")), f"EMA {row.get('ema')}"
    )


def append_row(path: pathlib.Path, row: dict) -> None:
    """One more line of fid.csv, in the place of one with the same settings, whose other scores it takes over."""
    rows = read_rows(path)
    before = next((r for r in rows if same_settings(r, row)), {})
    rows = [r for r in rows if r is not before] + [before | row]
    columns = sorted(
        dict.fromkeys(k for r in rows for k in r),
        key=lambda k: SETTINGS.index(k) if k in SETTINGS else len(SETTINGS),
    )
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: pathlib.Path) -> list[dict]:
    """The rows of fid.csv, numbers as numbers; a gap is left out."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {k: v if k in TEXTS else _number(v) for k, v in row.items() if v}
            for row in csv.DictReader(file)
        ]


def _number(text: str):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
