"""Curves of the scores of a run, drawn from its fid.csv."""

import pathlib

from evaluation.fid_csv import distance, parameters, read_rows, same_settings
from utils.figures import save_panels

MOST_STEPS = 6  # curves in a figure over alpha


def draw_curves(folder: pathlib.Path, row: dict) -> list[pathlib.Path]:
    """PNGs from the rows of fid.csv that were made as `row`: the distance against the step, a curve per alpha; distance and inception score against alpha, a curve per step.

    A figure that would have one point is not drawn. Returns what was drawn.
    """
    name, drawn = distance(row), []
    rows = [
        r
        for r in read_rows(folder / "fid.csv")
        if same_settings(r, row, but=("step", "cfg_scale")) and name in r
    ]
    inception_score = next((k for k in row if k == "is" or k.startswith("is_")), "")

    def curves(score, over, per):
        lines = {}
        for value in sorted({r[per] for r in rows}):
            points = sorted((r[over], r[score]) for r in rows if r[per] == value and score in r)
            if points:
                lines[f"{'alpha' if per == 'cfg_scale' else per} {value:g}"] = tuple(zip(*points))
        return dict(list(lines.items())[-MOST_STEPS:])

    title = f"{row['num_samples']:,} samples against {pathlib.Path(row['reference']).name}, {parameters(row)}"
    if len({r["step"] for r in rows}) > 1:
        drawn.append(folder / f"{name}_by_step.png")
        save_panels(drawn[-1], [(name, curves(name, "step", "cfg_scale"), "step", "", True)], title)
    if len({r["cfg_scale"] for r in rows}) > 1:
        drawn.append(folder / f"{name}_by_alpha.png")
        panels = [
            (s, curves(s, "cfg_scale", "step"), "alpha", "", False)
            for s in (name, inception_score)
            if s
        ]
        save_panels(drawn[-1], panels, title)
    return drawn
