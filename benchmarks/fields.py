"""Drifting fields compared: field x temperatures x set size x seed, at equal steps and equal time.

    python benchmarks/fields.py --fields kernel,sinkhorn --temperatures "0.05;0.02,0.05,0.2"
        on digits
    python benchmarks/fields.py --fields sinkhorn --temperatures 0.02 --settings drift.iterations=1
        with other flags of train_drift.py, in the same table
    python benchmarks/fields.py --ending "drift.field=frechet optim.learning_rate=1e-4"
        with another field for the last fifth
    python benchmarks/fields.py --times 9
        the time of a step of all that OUT holds
    python benchmarks/fields.py --task toy:checkerboard --fields kernel,sinkhorn
        on a distribution in the plane (scripts/toy2d.py)

Each run is a line of OUT/rows.jsonl; the same command goes on where it was stopped, and --limit N
does N runs. After each run the table is written anew (OUT/TASK.md and .csv: mean and standard
deviation over the seeds, of all runs in OUT of that task and length), and so is the figure
(OUT/TASK.png).

Equal time is what each setting has reached when the fastest one is through. --times N trains
nothing: the steps of all settings are timed in turn, in N rounds, and OUT/times.json takes the
place of the times of the runs, which other work on the machine makes hard to compare. The learning
rate is constant after the warm-up, so a run stopped early is what a shorter run would have been.
"""

import itertools
import json
import logging
import os
import pathlib
import statistics
import sys
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import runs
from benchmarks.runs import numbers
from configs.default import Key
from data.toy2d import TOYS
from scripts import toy2d_lab
from training.resolve_field import check_field
from utils import config as config_lib
from utils.errors import UserError
from utils.figures import save_panels
from utils.logging import setup_logging
from utils.words import did_you_mean

log = logging.getLogger("benchmark")

FLAGS = (
    Key("task", "digits", "digits, mnist_5k, or toy:NAME of scripts/toy2d.py"),
    Key("fields", "kernel", "names for --drift.field, separated by commas"),
    Key(
        "temperatures",
        "0.02,0.05,0.2",
        "values of --drift.temperatures, such as learned, separated by semicolons",
    ),
    Key("settings", "", "other flags of train_drift.py, as NAME=VALUE, separated by spaces"),
    Key(
        "ending",
        "",
        "flags of the last fifth of a run, which starts from the weights of the rest",
    ),
    Key(
        "judge",
        "",
        "network of scores at the end of each run that is done now, such as efficientnet:lite0",
    ),
    Key(
        "sizes",
        "32",
        "samples generated per class, separated by commas; on toys reals and generated each",
    ),
    Key("seeds", 3, "runs of each setting", "[1, inf)"),
    Key("max_steps", 800, "length of a run", "[8, inf)"),
    Key("limit", 0, "runs to do now; 0 = all", "[0, inf)"),
    Key("times", 0, "pictures: rounds in which steps are timed, in the place of runs", "[0, inf)"),
    Key("out", "runs/fields", "folder of the rows, the table and the figure"),
)
PICTURES = ("digits", "mnist_5k")  # of ten classes each
# What --settings and --ending cannot change, and --settings alone cannot.
OF_THE_KEY = ("dataset_name", "seed", "max_steps", "save_dir", "drift.n_neg", "batch_size")
OF_ITS_OWN_FLAG = ("drift.field", "drift.temperatures")
# What the table shows; the figure and equal time are of the first.
SCORES_OF_PICTURES = ("fd_pixels", "precision", "recall", "class_agreement", "diversity")
SCORES_OF_TOYS = ("sliced_wasserstein", "modes", "worst_mode")


def main(flag_values):
    setup_logging()
    flags: Any = config_lib.all_flags(flag_values)
    check_flags(flags)
    rows = runs.Rows(pathlib.Path(flags.out))
    if flags.times:
        time_steps(flags, rows)
    else:
        for key in rows.missing(keys(flags), flags.limit):
            row = {"key": key} | do_run(key, rows.folder / f"run_{os.getpid()}", flags.judge)
            rows.add(row)
            log.info("%s: %s", key, row["failed"] or row["curve"][-1])
            write(flags, rows)
    if rows_of(flags, rows):
        print(write(flags, rows))


# ---------------------------------------------------------------- the runs


def check_flags(flags: Any) -> None:
    """Raises UserError for a task that does not exist, and for flags that mean nothing to it."""
    if is_toy(flags.task):
        if flags.task.removeprefix("toy:") not in TOYS:
            known = ", ".join(f"toy:{name}" for name in TOYS)
            raise UserError(f"--task {flags.task}: unknown distribution (known: {known})")
        for name in ("settings", "ending", "judge"):
            if flags[name]:
                raise UserError(f"--{name} {flags[name]}: is for pictures; leave it out")
        return
    if flags.task not in PICTURES:
        raise UserError(f"--task {flags.task}: expected {', '.join(PICTURES)} or toy:NAME")
    check_settings("settings", flags.settings, OF_THE_KEY + OF_ITS_OWN_FLAG)
    check_settings("ending", flags.ending, OF_THE_KEY)
    for key in keys(flags):
        for more in ({}, parse(flags.ending)):
            config: Any = config_lib.resolve(settings_of_run(key) | more)
            check_field(config.drift)


def check_settings(flag: str, text: str, refused: tuple[str, ...]) -> None:
    """Raises UserError for what is no NAME=VALUE, or is said elsewhere."""
    for word in text.split():
        name, equals, _ = word.partition("=")
        if not equals or name not in config_lib.KEYS:
            meant = did_you_mean(name, config_lib.KEYS)
            raise UserError(
                f"--{flag} {word}: expected NAME=VALUE, with a flag of train_drift.py{meant}"
            )
        if name in refused:
            raise UserError(f"--{flag} {word}: a row is told by it; give it as a flag of this one")


def parse(settings: str) -> dict[str, str]:
    """Returns the flags of a text such as "drift.iterations=1 optim.ema=0.9", values as text."""
    return dict(word.split("=", 1) for word in settings.split())


def is_toy(task: str) -> bool:
    return task.startswith("toy:")


def keys(flags: Any) -> list[dict[str, Any]]:
    """Returns the keys of all runs. Seeds come last, so the first seeds make a whole table."""
    temperatures = [
        text if text == "learned" else list(numbers(text)) for text in flags.temperatures.split(";")
    ]
    choices = itertools.product(
        range(flags.seeds), flags.fields.split(","), temperatures, numbers(flags.sizes, int)
    )
    more = {"settings": flags.settings, "ending": flags.ending}
    return [
        {
            "task": flags.task,
            "field": field,
            "temperatures": taus,
            "size": size,
            "max_steps": flags.max_steps,
            "seed": seed,
        }
        | {name: value for name, value in more.items() if value}
        for seed, field, taus, size in choices
    ]


def do_run(key: dict[str, Any], folder: pathlib.Path, judge: str) -> dict[str, Any]:
    """Trains, and returns what the row of a key holds; see `runs.train`.

    judge: network of scores of the end, which the row has as `judged`; "" for none.
    """
    if is_toy(key["task"]):
        return toy2d_lab.benchmark_row(key)

    def judged(run: pathlib.Path) -> dict[str, Any]:
        return {"judged": runs.scores_of(key["task"], run, judge)} if judge else {}

    if "ending" in key:
        return train_with_ending(key, folder, judged)
    return runs.train(settings_of_run(key), folder, judged)


def train_with_ending(
    key: dict[str, Any], folder: pathlib.Path, judged: Callable[[pathlib.Path], dict]
) -> dict[str, Any]:
    """Trains four fifths, and the last one from their weights with other flags.

    Steps of the two take different times, so the row has no `step_ms`.
    """
    most = key["max_steps"] * 4 // 5
    first = settings_of_run(key | {"max_steps": most})
    last = settings_of_run(key | {"max_steps": key["max_steps"] - most}) | parse(key["ending"])

    def end(run: pathlib.Path) -> dict[str, Any]:
        last_folder = run.with_name(run.name + "_end")
        return {"end": runs.train(last | {"init_from": str(run)}, last_folder, judged)}

    row = runs.train(first, folder, end)
    ended = row.pop("end", {"curve": []})
    curve = [point | {"step": most + point["step"]} for point in ended["curve"]]
    return row | ended | {"step_ms": None, "curve": row["curve"] + curve}


def settings_of_run(key: dict[str, Any]) -> dict[str, Any]:
    """Returns the flags of train_drift.py for a run on pictures."""
    steps = key["max_steps"]
    return {
        "dataset_name": key["task"],
        "seed": key["seed"],
        "drift.field": key["field"],
        "drift.temperatures": key["temperatures"],
        "drift.n_neg": key["size"],
        "batch_size": 10 * key["size"],
        "max_steps": steps,
        "optim.schedule": "constant",
        "log_interval": max(steps // 16, 1),
        "eval_interval": max(steps // 8, 1),
    } | parse(key.get("settings", ""))


def rows_of(flags: Any, rows: runs.Rows) -> list[dict[str, Any]]:
    """Returns the rows of this task and this length."""
    wanted = (flags.task, flags.max_steps)
    return [row for row in rows.read() if (row["key"]["task"], row["key"]["max_steps"]) == wanted]


def time_steps(flags: Any, rows: runs.Rows) -> None:
    """Times the steps of all settings that OUT holds, and writes them to OUT/times.json."""
    done = rows_of(flags, rows)
    if is_toy(flags.task) or not done:
        raise UserError(
            f"--times {flags.times}: times the steps of runs on pictures, of which --out "
            f"{flags.out} holds none; train some first"
        )
    settings = {
        name_of(settings_of(row)): settings_of_run(row["key"])
        for row in done
        if "ending" not in row["key"]
    }
    times_file(rows).write_text(json.dumps(runs.step_times(settings, flags.times)))


def times_file(rows: runs.Rows) -> pathlib.Path:
    return rows.folder / "times.json"


# ---------------------------------------------------------------- the table and the figure

Settings = tuple[str, str, int]  # field and other flags, temperatures, set size


def settings_of(row: dict[str, Any]) -> Settings:
    key = row["key"]
    taus = key["temperatures"]
    temperatures = taus if taus == "learned" else ",".join(f"{tau:g}" for tau in taus)
    field = " ".join([key["field"], key.get("settings", "")]).strip()
    if "ending" in key:
        field += f", then {key['ending']}"
    return field, temperatures, key["size"]


def name_of(settings: Settings) -> str:
    """Returns settings as one word of times.json."""
    return " ".join(map(str, settings))


def write(flags: Any, rows: runs.Rows) -> str:
    """Writes the table and the figure of the runs that are done, and returns the table."""
    times = None
    if times_file(rows).exists() and not is_toy(flags.task):
        times = json.loads(times_file(rows).read_text())
    table, groups = summary(rows_of(flags, rows), times)
    name = flags.task.replace(":", "_")
    text = runs.write_table(rows.folder, name, table)
    score = scores_of(flags.task)[0]
    title = f"{flags.task}, {flags.max_steps} steps"
    draw(rows.folder / f"{name}.png", groups, score, title)
    return text


def scores_of(task: str) -> tuple[str, ...]:
    return SCORES_OF_TOYS if is_toy(task) else SCORES_OF_PICTURES


def summary(
    rows: list[dict[str, Any]], times: dict[str, float] | None = None
) -> tuple[list[dict[str, Any]], dict[Settings, list[dict[str, Any]]]]:
    """Returns the rows of the table, one for each setting, and the runs of each setting.

    Args:
        rows: of one task and one length.
        times: milliseconds of a step by `name_of` its settings, if they were taken in turn.
    """
    groups: dict[Settings, list] = {}
    for row in rows:
        groups.setdefault(settings_of(row), []).append(row)
    step_ms = median_step_ms(groups)
    if times and all(name_of(settings) in times for settings in step_ms):
        step_ms = {settings: times[name_of(settings)] for settings in step_ms}

    key = rows[0]["key"]
    milliseconds = key["max_steps"] * min(step_ms.values(), default=0)  # of training, for all alike
    scores = scores_of(key["task"])
    table = []
    for settings, group in groups.items():
        line = describe(settings, group, scores)
        ms = step_ms.get(settings)
        if ms:
            reached = [
                runs.at_time(row["curve"], scores[0], milliseconds / ms)
                for row in group
                if not row["failed"]
            ]
            line["ms per step"] = f"{ms:.1f}"
            line[f"{scores[0]} at equal time"] = runs.mean_spread(reached)
        table.append(line)
    return table, groups


def median_step_ms(groups: dict[Settings, list]) -> dict[Settings, float]:
    """Returns the milliseconds of a step by the logs of the runs, where they have them."""
    found = {}
    for settings, group in groups.items():
        times = [row["step_ms"] for row in group if row["step_ms"] and "ending" not in row["key"]]
        if times:
            found[settings] = statistics.median(times)
    return found


def describe(settings: Settings, group: list, scores: tuple[str, ...]) -> dict[str, Any]:
    """Returns a row of the table at equal steps; the time of a step is not in it yet."""
    field, temperatures, size = settings
    ends = [row["curve"][-1] for row in group if row["curve"] and not row["failed"]]
    line = {
        "field": field,
        "temperatures": temperatures,
        "size": size,
        "seeds": len(group),
        "failed": sum(bool(row["failed"]) for row in group),
        "ms per step": "-",
    }
    for score in scores:
        line[score] = runs.mean_spread([end.get(score) for end in ends])
    judged = [row.get("judged", {}) for row in group]
    for score in dict.fromkeys(score for found in judged for score in found):
        line[f"{score} of the judge"] = runs.mean_spread([found.get(score) for found in judged])
    return line


def draw(path: pathlib.Path, groups: dict[Settings, list], score: str, title: str) -> None:
    """Draws the score against the step: a panel for each temperature and size, a line a field.

    A line is the mean over the seeds.
    """
    panels = {}
    for (field, temperatures, size), group in groups.items():
        curves = [row["curve"] for row in group if row["curve"] and not row["failed"]]
        if curves:
            lines = panels.setdefault((temperatures, size), {})
            lines[field] = mean_curve(curves, score)
    drawn = []
    for (temperatures, size), lines in panels.items():
        heading = f"{score}, tau {temperatures}, {size} samples"
        drawn.append((heading, lines, "step", "", True))
    save_panels(path, drawn, title)


def mean_curve(curves: list[list[dict]], score: str) -> tuple[list[int], list[float]]:
    """Returns the steps of the first curve, and the mean of all curves there."""
    steps = [point["step"] for point in curves[0]]
    means = []
    for i in range(len(steps)):
        means.append(statistics.mean(curve[i][score] for curve in curves if i < len(curve)))
    return steps, means


if __name__ == "__main__":
    config_lib.define_flags((), FLAGS)
    config_lib.run_main(main)
