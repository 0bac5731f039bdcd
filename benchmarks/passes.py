"""One pass of drifting against 1, 4, 32 and 500 of a rectified flow, on digits: python benchmarks/passes.py

The same network, batch, learning rate and seeds, the demo's recipe with --n_neg samples per class at a
constant learning rate. The flow takes as many steps as fit into the time of drifting, the steps of both
being timed in turn first (OUT/times.json). Each run is a line of OUT/rows.jsonl, with the scores of its
samples and how many a second it draws; the same command goes on where it was stopped. The table (OUT/passes.md, .csv) and the figure (OUT/passes.png) have the mean over the
seeds, and its standard deviation.
"""

import json
import logging
import os
import pathlib
import statistics
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from baselines.flow import Flow, with_steps
from benchmarks import runs
from benchmarks.fields import numbers
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

log = logging.getLogger("benchmark")

FLAGS = (
    Key("n_neg", 32, "samples generated per class and step", "[2, inf)"),
    Key("steps", 800, "steps of drifting", "[8, inf)"),
    Key("passes", "1,4,32,500", "Euler steps of the flow's samples"),
    Key("seeds", 3, "runs of each", "[1, inf)"),
    Key("rounds", 9, "rounds in which the steps of both are timed", "[1, inf)"),
    Key("limit", 0, "runs to do now; 0 = all", "[0, inf)"),
    Key("out", "runs/passes", "folder of the rows, the table and the figure"),
)
SHOWN = ("fd_pixels", "precision", "recall", "class_agreement")
DRAWN = 256  # samples whose drawing is timed


def settings(flags, objective: str, steps: int, seed: int) -> dict:
    """Of train_drift.py."""
    common = {
        "dataset_name": "digits",
        "seed": seed,
        "batch_size": 10 * flags.n_neg,
        "max_steps": steps,
    }
    common |= {
        "optim.schedule": "constant",
        "eval_interval": 0,
        "log_interval": max(steps // 16, 1),
    }
    return common | (
        {"drift.n_neg": flags.n_neg} if objective == "drift" else {"objective": "flow"}
    )


def score_samples(folder: pathlib.Path, passes: tuple[int, ...], seed: int) -> dict:
    """Of the run in `folder`: {"scores": {passes: {score: value}}, "per_second": {passes: samples a second}}."""
    model, params, _ = load_run(folder)
    models = {n: with_steps(model, n) for n in passes} if isinstance(model, Flow) else {1: model}
    reference = load_reference(
        "digits", data_options=config_lib.resolve({}).data, shape=model.sample_shape
    )
    found = {
        n: scores(evaluate(m, params, reference, cfg_scale=1.0, seed=seed))
        for n, m in models.items()
    }
    seconds = {n: [] for n in models}
    for _ in range(3):
        for n, m in models.items():
            begin = time.perf_counter()
            list(generate(m, params, np.arange(DRAWN) % model.num_classes, 1.0, seed))
            seconds[n].append(time.perf_counter() - begin)
    return {"scores": found, "per_second": {n: DRAWN / min(s) for n, s in seconds.items()}}


def summary(rows: list[dict], step_ms: dict) -> tuple[list[dict], dict]:
    """The table's rows, and {(objective, steps): [(passes, [fd_pixels of each seed])]} of the figure."""
    groups, table, lines = {}, [], {}
    for row in rows:
        groups.setdefault((row["key"]["objective"], row["key"]["steps"]), []).append(row)
    for (objective, steps), group in groups.items():
        for n in group[0]["scores"]:
            found = [row["scores"][n] for row in group]
            line = {
                "objective": objective,
                "steps": steps,
                "ms per step": step_ms[objective],
                "seconds": f"{steps * step_ms[objective] / 1e3:.1f}",
                "passes": n,
                "seeds": len(group),
            }
            line |= {name: runs.mean_spread([s[name] for s in found]) for name in SHOWN}
            table.append(
                line
                | {"samples/s": f"{statistics.median(row['per_second'][n] for row in group):,.0f}"}
            )
            lines.setdefault((objective, steps), []).append(
                (
                    int(n),
                    [s["fd_pixels"] for s in found],
                    statistics.median(row["per_second"][n] for row in group),
                )
            )
    return table, lines


def draw(path, lines: dict, step_ms: dict):
    """fd_pixels against the passes of a sample, and against the samples drawn a second."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=100)
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.14, top=0.97, wspace=0.16)
    for panel, xlabel in enumerate(("passes of the network per sample", "samples per second")):
        axes = figure.add_subplot(1, 2, panel + 1)
        for i, ((objective, steps), points) in enumerate(lines.items()):
            x = [point[0] if panel == 0 else point[2] for point in points]
            mean, spread = (
                [f(point[1]) for point in points]
                for f in (statistics.mean, lambda v: statistics.stdev(v) if len(v) > 1 else 0.0)
            )
            axes.errorbar(
                x,
                mean,
                spread,
                color=COLORS[i],
                marker="*" if len(points) == 1 else "o",
                markersize=12 if len(points) == 1 else 4,
                linewidth=1.4,
                capsize=2,
                label=f"{objective}, {steps:,} steps, {steps * step_ms[objective] / 1e3:.0f} s",
            )
        axes.set(
            xscale="log",
            yscale="log",
            xlabel=xlabel,
            ylabel="fd_pixels, lower is better" if panel == 0 else "",
        )
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter("")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        if panel == 0:
            axes.set_xticks(
                sorted({point[0] for points in lines.values() for point in points}), minor=False
            )
        axes.tick_params(labelsize=8, which="both")
        axes.grid(True, color="#e4e4e4", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def main(flag_values):
    setup_logging()
    flags = config_lib.all_flags(flag_values)
    rows, passes = runs.Rows(pathlib.Path(flags.out)), numbers(flags.passes, int)
    if min(passes) < 1:
        raise UserError(
            f"--passes {flags.passes}: a sample takes at least one pass; give numbers from 1 on"
        )
    times = rows.folder / "times.json"
    if not times.exists():
        rows.folder.mkdir(parents=True, exist_ok=True)
        times.write_text(
            json.dumps(
                runs.step_times(
                    {o: settings(flags, o, flags.steps, 0) for o in ("drift", "flow")}, flags.rounds
                )
            )
        )
    step_ms = json.loads(times.read_text())
    lengths = {
        "drift": flags.steps,
        "flow": round(flags.steps * step_ms["drift"] / step_ms["flow"]),
    }
    wanted = [
        {"objective": o, "steps": n, "n_neg": flags.n_neg, "seed": seed}
        for seed in range(flags.seeds)
        for o, n in lengths.items()
    ]
    for key in rows.missing(wanted, flags.limit):
        of_run = lambda folder: score_samples(folder, passes, key["seed"])
        rows.add(
            {"key": key}
            | runs.train(
                settings(flags, key["objective"], key["steps"], key["seed"]),
                rows.folder / f"run_{os.getpid()}",
                of_run,
            )
        )
    done = [row for row in rows.read() if row["key"] in wanted and not row["failed"]]
    if done:
        table, lines = summary(done, step_ms)
        draw(rows.folder / "passes.png", lines, step_ms)
        print(runs.write_table(rows.folder, "passes", table), json.dumps(step_ms), sep="\n")


if __name__ == "__main__":
    config_lib.define_flags((), FLAGS)
    config_lib.run_main(main)
