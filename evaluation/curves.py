"""Curves of the scores of a run, drawn from its fid.csv."""

import pathlib

from evaluation.fid_csv import describe_parameters, distance_name, read_rows, same_settings
from utils.figures import save_panels

MOST_CURVES = 6  # in one figure; those of the last steps, or of the greatest alphas

Curves = dict[str, tuple[tuple, tuple]]  # name: (x, y)


def draw_curves(folder: pathlib.Path, row: dict) -> list[pathlib.Path]:
    """Draws the rows of fid.csv that were made as `row`, at all steps and guidance scales.

    One figure has the Frechet distance against the step, a curve per alpha. The other has the
    distance and the inception score against alpha, a curve per step. A figure that would have one
    point is not drawn.

    Returns:
        The PNG files that were written.
    """
    distance = distance_name(row)
    rows = [
        other
        for other in read_rows(folder / "fid.csv")
        if same_settings(other, row, ignoring=("step", "cfg_scale"))
        and {"step", "cfg_scale", distance} <= other.keys()
    ]
    reference = pathlib.Path(row["reference"]).name
    title = f"{row['num_samples']:,} samples against {reference}, {describe_parameters(row)}"
    drawn = []
    if len({other["step"] for other in rows}) > 1:
        path = folder / f"{distance}_by_step.png"
        curves = _curves(rows, distance, x="step", per="cfg_scale")
        save_panels(path, [(distance, curves, "step", "", True)], title)
        drawn.append(path)
    if len({other["cfg_scale"] for other in rows}) > 1:
        path = folder / f"{distance}_by_alpha.png"
        panels = []
        for score in filter(None, (distance, _inception_score_name(row))):
            curves = _curves(rows, score, x="cfg_scale", per="step")
            panels.append((score, curves, "alpha", "", False))
        save_panels(path, panels, title)
        drawn.append(path)
    return drawn


def _curves(rows: list[dict], score: str, x: str, per: str) -> Curves:
    """Returns the score against the setting `x`, a curve for each value of the setting `per`."""
    label = "alpha" if per == "cfg_scale" else per
    curves = {}
    for value in sorted({row[per] for row in rows}):
        points = sorted((row[x], row[score]) for row in rows if row[per] == value and score in row)
        if points:
            curves[f"{label} {value:g}"] = tuple(zip(*points, strict=True))
    return dict(list(curves.items())[-MOST_CURVES:])


def _inception_score_name(row: dict) -> str:
    """Returns the name of a row's inception score, such as is_5k; "" where it has none."""
    return next((name for name in row if name == "is" or name.startswith("is_")), "")
