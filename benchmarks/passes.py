"""One pass of drifting against 1, 4, 32 and 500 of a rectified flow, on digits.

    python benchmarks/passes.py

Both have the same network, batch, learning rate and seeds: the demo's recipe with --n_neg samples
per class, at a constant learning rate. The flow takes as many steps as fit into the time of
drifting; for that the steps of both are timed in turn first (OUT/times.json).

Each run is a line of OUT/rows.jsonl, with the scores of its samples and how many a second it draws;
the same command goes on where it was stopped. The table (OUT/passes.md and .csv) and the figure
(OUT/passes.png) have the mean over the seeds, and its standard deviation.
"""

import json
import os
import pathlib
import statistics
import sys
import time
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np

from baselines.flow import Flow, with_steps
from benchmarks import runs
from benchmarks.runs import numbers
from configs.default import Key
from evaluation.evaluate import evaluate
from evaluation.fid_csv import scores
from evaluation.load_reference import load_reference
from models.runs import load_run
from models.sampling import generate
from utils import config as config_lib
from utils.errors import UserError
from utils.figures import COLORS
from utils.files import replacing
from utils.logging import setup_logging

FLAGS = (
    Key("n_neg", 32, "samples generated per class and step", "[2, inf)"),
    Key("steps", 800, "steps of drifting", "[8, inf)"),
    Key("passes", "1,4,32,500", "Euler steps of the flow's samples"),
    Key("seeds", 3, "runs of each", "[1, inf)"),
    Key("rounds", 9, "rounds in which the steps of both are timed", "[1, inf)"),
    Key("limit", 0, "runs to do now; 0 = all", "[0, inf)"),
    Key("out", "runs/passes", "folder of the rows, the table and the figure"),
)
OBJECTIVES = ("drift", "flow")
SHOWN = ("fd_pixels", "precision", "recall", "class_agreement")
DRAWN = 256  # samples whose drawing is timed


def main(flag_values):
    setup_logging()
    flags: Any = config_lib.all_flags(flag_values)
    passes = numbers(flags.passes, int)
    if min(passes) < 1:
        raise UserError(
            f"--passes {flags.passes}: a sample takes at least one pass; give numbers from 1 on"
        )
    rows = runs.Rows(pathlib.Path(flags.out))
    both = {name: settings(flags, name, flags.steps, seed=0) for name in OBJECTIVES}
    step_ms = runs.step_times_once(rows.folder / "times.json", both, flags.rounds)
    steps = {
        "drift": flags.steps,
        "flow": round(flags.steps * step_ms["drift"] / step_ms["flow"]),
    }
    keys = [
        {"objective": objective, "steps": steps[objective], "n_neg": flags.n_neg, "seed": seed}
        for seed in range(flags.seeds)
        for objective in OBJECTIVES
    ]
    for key in rows.missing(keys, flags.limit):
        rows.add({"key": key} | do_run(flags, key, passes, rows.folder / f"run_{os.getpid()}"))

    done = [row for row in rows.read() if row["key"] in keys and not row["failed"]]
    if done:
        table, lines = summary(done, step_ms)
        draw(rows.folder / "passes.png", lines, step_ms)
        print(runs.write_table(rows.folder, "passes", table), json.dumps(step_ms), sep="\n")


# ---------------------------------------------------------------- the runs


def settings(flags: Any, objective: str, steps: int, seed: int) -> dict[str, Any]:
    """Returns the flags of train_drift.py."""
    common = {
        "dataset_name": "digits",
        "seed": seed,
        "batch_size": 10 * flags.n_neg,
        "max_steps": steps,
        "optim.schedule": "constant",
        "eval_interval": 0,
        "log_interval": max(steps // 16, 1),
    }
    if objective == "drift":
        return common | {"drift.n_neg": flags.n_neg}
    return common | {"objective": "flow"}


def do_run(flags: Any, key: dict, passes: tuple[int, ...], folder: pathlib.Path) -> dict:
    """Trains and scores; returns what the row of a key holds."""

    def measure(run: pathlib.Path) -> dict:
        return score_samples(run, passes, key["seed"])

    given = settings(flags, key["objective"], key["steps"], key["seed"])
    return runs.train(given, folder, measure)


def score_samples(folder: pathlib.Path, passes: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Returns the scores of a run, and how many samples a second it draws, each by the passes."""
    model, params, _ = load_run(folder)
    models: dict[int, Any] = {1: model}
    if isinstance(model, Flow):
        models = {n: with_steps(model, n) for n in passes}
    options: Any = config_lib.resolve({}).data
    reference = load_reference("digits", data_options=options, shape=model.sample_shape)
    found = {}
    for n, model_of_n in models.items():
        found[n] = scores(evaluate(model_of_n, params, reference, cfg_scale=1.0, seed=seed))

    labels = np.arange(DRAWN) % model.num_classes
    seconds = {n: [] for n in models}
    for _ in range(3):
        for n, model_of_n in models.items():
            begin = time.perf_counter()
            list(generate(model_of_n, params, labels, 1.0, seed))
            seconds[n].append(time.perf_counter() - begin)
    per_second = {n: DRAWN / min(times) for n, times in seconds.items()}
    return {"scores": found, "per_second": per_second}


# ---------------------------------------------------------------- the table and the figure


class Point(NamedTuple):
    """A point of the figure: one number of passes of one training."""

    passes: int
    fd_pixels: list[float]  # of each seed
    per_second: float  # samples


def summary(
    rows: list[dict], step_ms: dict[str, float]
) -> tuple[list[dict[str, Any]], dict[tuple[str, int], list[Point]]]:
    """Returns the rows of the table, and the lines of the figure by (objective, steps)."""
    groups = {}
    for row in rows:
        groups.setdefault((row["key"]["objective"], row["key"]["steps"]), []).append(row)
    table, lines = [], {}
    for (objective, steps), group in groups.items():
        lines[objective, steps] = []
        for n in group[0]["scores"]:
            found = [row["scores"][n] for row in group]
            per_second = statistics.median(row["per_second"][n] for row in group)
            line = {
                "objective": objective,
                "steps": steps,
                "ms per step": step_ms[objective],
                "seconds": f"{steps * step_ms[objective] / 1e3:.1f}",
                "passes": n,
                "seeds": len(group),
            }
            line |= {name: runs.mean_spread([s[name] for s in found]) for name in SHOWN}
            table.append(line | {"samples/s": f"{per_second:,.0f}"})
            point = Point(int(n), [s["fd_pixels"] for s in found], per_second)
            lines[objective, steps].append(point)
    return table, lines


def draw(
    path: pathlib.Path, lines: dict[tuple[str, int], list[Point]], step_ms: dict[str, float]
) -> None:
    """Draws fd_pixels against the passes of a sample, and against the samples drawn a second."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=100)
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.14, top=0.97, wspace=0.16)
    left, right = figure.subplots(1, 2)
    for color, ((objective, steps), points) in zip(COLORS, lines.items(), strict=False):
        seconds = steps * step_ms[objective] / 1e3
        label = f"{objective}, {steps:,} steps, {seconds:.0f} s"
        draw_line(left, [point.passes for point in points], points, color, label)
        draw_line(right, [point.per_second for point in points], points, color, label)

    left.set_xlabel("passes of the network per sample")
    left.set_ylabel("fd_pixels, lower is better")
    right.set_xlabel("samples per second")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter("")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.tick_params(labelsize=8, which="both")
        axes.grid(True, color="#e4e4e4", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    passes = {point.passes for points in lines.values() for point in points}
    left.set_xticks(sorted(passes), minor=False)
    right.legend(fontsize=8, frameon=False)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def draw_line(axes: Any, x: list[float], points: list[Point], color: str, label: str) -> None:
    """Draws the mean of the seeds at each point, with its spread; a single point as a star."""
    alone = len(points) == 1
    means = [statistics.mean(point.fd_pixels) for point in points]
    spreads = []
    for point in points:
        several = len(point.fd_pixels) > 1
        spreads.append(statistics.stdev(point.fd_pixels) if several else 0.0)
    axes.errorbar(
        x,
        means,
        spreads,
        color=color,
        marker="*" if alone else "o",
        markersize=12 if alone else 4,
        linewidth=1.4,
        capsize=2,
        label=label,
    )


if __name__ == "__main__":
    config_lib.define_flags((), FLAGS)
    config_lib.run_main(main)
