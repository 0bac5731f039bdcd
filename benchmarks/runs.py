"""Short training runs as rows of a table, for `fields.py`, `passes.py` and others.

Each run is done once and kept as a line of JSON, so that a comparison can be stopped and continued.
"""

import csv
import dataclasses
import json
import logging
import pathlib
import shutil
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import data
from benchmarks.frame import time_in_turn
from evaluation.evaluate import evaluate
from evaluation.fid_csv import read_rows, scores
from evaluation.load_reference import load_reference
from models.runs import load_run
from training import drift
from training.drift_parts import DriftParts
from training.flow_parts import FlowParts
from utils import config as config_lib
from utils import sharding
from utils.errors import UserError
from utils.logging import read_metrics
from utils.memory import keep_freed_memory

log = logging.getLogger("benchmark")

# ---------------------------------------------------------------- which runs are done


@dataclasses.dataclass
class Rows:
    """The rows of `folder`/rows.jsonl. A row is a dict, and its `key` tells it apart."""

    folder: pathlib.Path

    @property
    def file(self) -> pathlib.Path:
        return self.folder / "rows.jsonl"

    def read(self) -> list[dict]:
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    def add(self, row: dict) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def missing(self, keys: Iterable[dict], limit: int) -> list[dict]:
        """Returns those of `keys` that are not done, the first `limit` of them (0 = all)."""
        done = [row["key"] for row in self.read()]
        left = [key for key in keys if key not in done]
        log.info("%d runs are left to do", len(left))
        return left[:limit] if limit else left


# ---------------------------------------------------------------- doing them


def build(config: Any) -> DriftParts | FlowParts:
    """Returns the parts of a run, as `train_drift.py` makes them."""
    keep_freed_memory()
    dataset = data.load(config.dataset_name, config.data.split, config.data)
    mesh = sharding.make_mesh(config.mesh.devices, config.mesh.fsdp)
    return drift.build(config, dataset, mesh)


def train(
    settings: Mapping[str, Any],
    folder: pathlib.Path,
    measure: Callable[[pathlib.Path], dict] | None = None,
    pause: int = 0,
) -> dict[str, Any]:
    """Trains, and returns what a row holds.

        step_ms  milliseconds of a step, the median over the log lines without the first
        curve    of each evaluation the step, the scores, and the diversity at the time
        failed   why the run stopped, if its numbers were no longer finite; or empty

    Args:
        settings: flags of train_drift.py, with their values.
        folder: of the run; it is removed before and after.
        measure: returns more for the row, given the folder of a run that did not fail.
        pause: step at which the run ends once, is scored, and goes on; 0 for none. The learning
            rate must not depend on the length of a run.
    """
    shutil.rmtree(folder, ignore_errors=True)
    of_benchmark = {
        "save_dir": str(folder),
        "sample_interval": 0,
        "save_interval": settings["max_steps"],
    }
    config = config_lib.resolve(dict(settings) | of_benchmark)
    last = config.max_steps
    failed = ""
    try:
        if 0 < pause < last:
            first = config_lib.resolve({"max_steps": pause}, saved=config)
            drift.train(build(first), drift.open_run(first))
            saved = config_lib.from_json(folder / "config.json")
            config = config_lib.resolve({"max_steps": last}, saved=saved)
        drift.train(build(config), drift.open_run(config))
    except UserError as error:
        if "not finite" not in str(error):
            raise
        failed = str(error)

    row = {"step_ms": logged_step_ms(folder), "curve": logged_curve(folder), "failed": failed}
    if measure and not failed:
        row |= measure(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return row


def scores_of(dataset_name: str, folder: pathlib.Path, features: str) -> dict[str, Any]:
    """Returns the scores of the end of a run, against the test split, by one network."""
    model, params, _ = load_run(folder)
    options: Any = config_lib.resolve({}).data
    reference = load_reference(
        dataset_name, data_options=options, shape=model.sample_shape, features=features
    )
    return scores(evaluate(model, params, reference, cfg_scale=1.0, seed=0))


def logged_step_ms(folder: pathlib.Path) -> float | None:
    """Returns milliseconds of a step by the log of a run; None where it has a single line."""
    lines = read_metrics(folder / "metrics.jsonl")
    seconds = []
    for before, line in zip(lines, lines[1:], strict=False):
        seconds.append(line["seconds"] / (line["step"] - before["step"]))
    return 1e3 * statistics.median(seconds) if seconds else None


def logged_curve(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the scores of a run by its evaluations, with the diversity that was logged then."""
    lines = read_metrics(folder / "metrics.jsonl")
    diversity = {line["step"]: line.get("diversity") for line in lines}
    curve = []
    for row in read_rows(folder / "fid.csv"):
        step = row["step"]
        curve.append({"step": step, "diversity": diversity.get(step)} | scores(row))
    return curve


def step_times(settings: Mapping[str, Mapping], rounds: int, steps: int = 10) -> dict[str, float]:
    """Returns milliseconds of a training step of several runs, which take turns.

    Args:
        settings: flags of train_drift.py by the name of each run.
        rounds: the median over these is returned, by name; and as "GFLOP/s" the rate of float32
            matrix products in them.
        steps: of each run in a round.
    """
    programs = {name: step_of(values) for name, values in settings.items()}
    timing = time_in_turn(programs, rounds, steps)
    times = {name: timing.milliseconds(name) for name in programs}
    times["GFLOP/s"] = timing.matmul_rate / 1e9
    return {name: round(value, 2) for name, value in times.items()}


def step_times_once(
    file: pathlib.Path, settings: Mapping[str, Mapping], rounds: int, steps: int = 10
) -> dict[str, float]:
    """Returns `step_times`, which the JSON `file` keeps for the next time.

    They take turns, so all are timed again where the file lacks one of them.
    """
    known = json.loads(file.read_text()) if file.exists() else {}
    if not set(settings) <= set(known):
        known = step_times(settings, rounds, steps)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(known))
    return known


def step_of(settings: Mapping[str, Any]) -> Callable[[], Any]:
    """Returns a function that takes one more training step each time it is called."""
    config = config_lib.resolve(dict(settings) | {"eval_interval": 0})
    job = drift.DriftJob(build(config), pathlib.Path())
    job.start(None)
    job.prepare(0)

    def step():
        metrics = job.advance(job.fetch())
        return job.state, metrics

    return step


# ---------------------------------------------------------------- tables of them


def numbers(text: str, kind: type = float) -> tuple:
    """Returns the numbers of a text such as "0.02,0.05". Raises UserError for anything else."""
    try:
        return tuple(kind(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"{text!r}: expected {kind.__name__} numbers separated by commas") from None


def at_time(curve: list[dict], score: str, step: float) -> float | None:
    """Returns a score between two evaluations, on the line that joins them; None outside."""
    for before, after in zip(curve, curve[1:], strict=False):
        if before["step"] <= step <= after["step"]:
            part = (step - before["step"]) / (after["step"] - before["step"])
            return before[score] + (after[score] - before[score]) * part
    return None


def mean_spread(values: Iterable[float | None]) -> str:
    """Returns mean and standard deviation, such as "0.576 ± 0.012"; "-" without values."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    text = f"{statistics.mean(known):.3f}"
    if len(known) > 1:
        text += f" ± {statistics.stdev(known):.3f}"
    return text


def write_table(folder: pathlib.Path, name: str, rows: list[dict]) -> str:
    """Writes rows as `folder`/name.md and name.csv, and returns the Markdown.

    rows: {column: text or number}; columns stand in the order in which they come up.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, ["---"] * len(columns)]
    cells += [[str(row.get(column, "")) for column in columns] for row in rows]
    text = "".join("| " + " | ".join(line) + " |\n" for line in cells)
    (folder / f"{name}.md").write_text(text)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return text
