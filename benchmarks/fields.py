"""Drifting fields compared: field x temperatures x set size x seed, at equal steps and at equal training time.

    python benchmarks/fields.py --fields kernel,sinkhorn --temperatures "0.05;0.02,0.05,0.2"     digits
    python benchmarks/fields.py --times 9                                                          the time per step of all that OUT holds
    python benchmarks/fields.py --task toy:checkerboard --fields kernel,sinkhorn                   a 2-D distribution (scripts/toy2d.py)

Each run is a line of OUT/rows.jsonl; the same command goes on where it was stopped, and --limit N does N runs. The table (OUT/TASK.md and .csv: mean and standard
deviation over the seeds, of all runs in OUT of that task and length) and the figure (OUT/TASK.png) are drawn anew after each run. Equal time: what each setting has reached
when the fastest one is through. --times N trains nothing: the steps of all settings are timed in turn, in N rounds, and OUT/times.json takes the place of the times of the
runs, which the machine's other work makes hard to compare. The learning rate is constant after the warm-up, so that a run stopped early is what a shorter run would have been.
"""

import json
import logging
import os
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import runs
from configs.default import Key
from data.toy2d import TOYS
from utils import config as config_lib
from utils.errors import UserError
from utils.figures import save_panels
from utils.logging import setup_logging

log = logging.getLogger("benchmark")

FLAGS = (
    Key("task", "digits", "digits, or toy:NAME of scripts/toy2d.py"),
    Key("fields", "kernel", "names for --drift.field, separated by commas"),
    Key("temperatures", "0.02,0.05,0.2", "sets of temperatures, separated by semicolons"),
    Key(
        "sizes",
        "32",
        "samples generated per class, separated by commas; on toys reals and generated each",
    ),
    Key("seeds", 3, "runs of each setting", "[1, inf)"),
    Key("max_steps", 800, "length of a run", "[8, inf)"),
    Key("limit", 0, "runs to do now; 0 = all", "[0, inf)"),
    Key(
        "times", 0, "digits: rounds in which the steps are timed, in the place of runs", "[0, inf)"
    ),
    Key("out", "runs/fields", "folder of the rows, the table and the figure"),
)
SCORES = {
    "digits": ("fd_pixels", "precision", "recall", "diversity"),
    "toy": ("sliced_wasserstein", "modes", "worst_mode"),
}


def numbers(text: str, kind=float) -> tuple:
    try:
        return tuple(kind(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"{text!r}: expected {kind.__name__} numbers separated by commas") from None


def keys(flags) -> list[dict]:
    """The settings of all runs, seeds last: a table is whole for the first seeds early."""
    return [
        {
            "task": flags.task,
            "field": field,
            "temperatures": list(numbers(temperatures)),
            "size": size,
            "max_steps": flags.max_steps,
            "seed": seed,
        }
        for seed in range(flags.seeds)
        for field in flags.fields.split(",")
        for temperatures in flags.temperatures.split(";")
        for size in numbers(flags.sizes, int)
    ]


def digits_settings(key: dict) -> dict:
    steps = key["max_steps"]
    return {
        "dataset_name": "digits",
        "seed": key["seed"],
        "drift.field": key["field"],
        "drift.temperatures": tuple(key["temperatures"]),
        "drift.n_neg": key["size"],
        "batch_size": 10 * key["size"],
        "max_steps": steps,
        "optim.schedule": "constant",
        "log_interval": max(steps // 16, 1),
        "eval_interval": max(steps // 8, 1),
    }


def digits(key: dict, folder: pathlib.Path) -> dict:
    return runs.train(digits_settings(key), folder)


def toy(key: dict, folder: pathlib.Path) -> dict:
    from scripts import toy2d

    return toy2d.benchmark_row(key)


def settings_of(row: dict) -> tuple:
    key = row["key"]
    return key["field"], ",".join(f"{t:g}" for t in key["temperatures"]), key["size"]


def name_of(settings: tuple) -> str:
    """Settings in one word of times.json."""
    return " ".join(map(str, settings))


def summary(rows: list[dict], times: dict | None = None) -> tuple[list[dict], dict]:
    """The table's rows, one per setting, and the rows by setting of the figure. times: milliseconds of a step by `name_of` its settings, where they were taken in turn."""
    names = SCORES[rows[0]["key"]["task"].partition(":")[0]]
    groups = {}
    for row in rows:
        groups.setdefault(settings_of(row), []).append(row)
    step_ms = {
        s: statistics.median(r["step_ms"] for r in group if r["step_ms"])
        for s, group in groups.items()
        if any(r["step_ms"] for r in group)
    }
    if times and all(name_of(s) in times for s in groups):
        step_ms = {s: times[name_of(s)] for s in groups}
    last = rows[0]["key"]["max_steps"]
    budget = last * min(step_ms.values())
    table = []
    for (field, temperatures, size), group in groups.items():
        ms = step_ms.get((field, temperatures, size))
        ends = [r["curve"][-1] for r in group if not r["failed"] and r["curve"]]
        line = {
            "field": field,
            "temperatures": temperatures,
            "size": size,
            "seeds": len(group),
            "failed": sum(bool(r["failed"]) for r in group),
            "ms per step": f"{ms:.1f}" if ms else "-",
        }
        line |= {name: runs.mean_spread([end.get(name) for end in ends]) for name in names}
        if ms:
            line[f"{names[0]} at equal time"] = runs.mean_spread(
                [runs.at_time(r["curve"], names[0], budget / ms) for r in group if not r["failed"]]
            )
        table.append(line)
    return table, groups


def draw(path, groups: dict, name: str, title: str):
    """The score against the step, a panel for each temperature and size, a line per field: the mean over the seeds."""
    panels = {}
    for (field, temperatures, size), group in groups.items():
        curves = [r["curve"] for r in group if r["curve"] and not r["failed"]]
        if curves:
            steps = [p["step"] for p in curves[0]]
            mean = [
                statistics.mean(c[i][name] for c in curves if i < len(c)) for i in range(len(steps))
            ]
            panels.setdefault((temperatures, size), {})[field] = (steps, mean)
    save_panels(
        path,
        [
            (f"{name}, tau {t}, {n} samples", lines, "step", "", True)
            for (t, n), lines in panels.items()
        ],
        title,
    )


def main(flag_values):
    setup_logging()
    flags = config_lib.all_flags(flag_values)
    rows = runs.Rows(pathlib.Path(flags.out))
    do = toy if flags.task.startswith("toy:") else digits
    if do is digits and flags.task != "digits":
        raise UserError(f"--task {flags.task}: expected digits or toy:NAME")
    if do is toy and flags.task[4:] not in TOYS:
        raise UserError(
            f"--task {flags.task}: unknown distribution (known: {', '.join(f'toy:{name}' for name in TOYS)})"
        )
    times, of_task = (
        rows.folder / "times.json",
        lambda: [
            row
            for row in rows.read()
            if (row["key"]["task"], row["key"]["max_steps"]) == (flags.task, flags.max_steps)
        ],
    )
    if flags.times and (do is toy or not of_task()):
        raise UserError(
            f"--times {flags.times}: times the steps of the runs on digits that --out {flags.out} holds; train some first"
        )
    if flags.times:
        settings = {name_of(settings_of(row)): digits_settings(row["key"]) for row in of_task()}
        times.write_text(json.dumps(runs.step_times(settings, flags.times)))
    for key in [*([] if flags.times else rows.missing(keys(flags), flags.limit)), None]:
        if key:
            row = {"key": key} | do(key, rows.folder / f"run_{os.getpid()}")
            rows.add(row)
            log.info("%s: %s", key, row["failed"] or row["curve"][-1])
        if done := of_task():
            name = flags.task.replace(":", "_")
            table, groups = summary(done, json.loads(times.read_text()) if times.exists() else None)
            text = runs.write_table(rows.folder, name, table)
            draw(
                rows.folder / f"{name}.png",
                groups,
                SCORES[flags.task.partition(":")[0]][0],
                f"{flags.task}, {flags.max_steps} steps",
            )
    if done:
        print(text)


if __name__ == "__main__":
    config_lib.define_flags((), FLAGS)
    config_lib.run_main(main)
