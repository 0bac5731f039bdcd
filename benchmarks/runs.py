"""Short training runs of the trainer as rows of a table: each is done once, kept as a line of JSON, and skipped the next time."""

import dataclasses
import json
import logging
import pathlib
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Mapping

import jax

import data
from benchmarks.frame import matmul_rate
from evaluation.fid_csv import read_rows, scores
from training import drift
from utils import config as config_lib
from utils import sharding
from utils.errors import UserError
from utils.logging import read_metrics
from utils.memory import keep_freed_memory

log = logging.getLogger("benchmark")


@dataclasses.dataclass
class Rows:
    """The rows of `folder`/rows.jsonl, told apart by their `key`."""

    folder: pathlib.Path

    @property
    def file(self) -> pathlib.Path:
        return self.folder / "rows.jsonl"

    def read(self) -> list[dict]:
        return (
            [json.loads(line) for line in self.file.read_text().splitlines()]
            if self.file.exists()
            else []
        )

    def add(self, row: dict) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def missing(self, keys: Iterable[dict], limit: int) -> list[dict]:
        """Those of `keys` that are not done, the first `limit` (0 = all)."""
        done = [row["key"] for row in self.read()]
        left = [key for key in keys if key not in done]
        log.info("%d runs are left to do", len(left))
        return left[:limit] if limit else left


def build(config) -> drift.DriftParts:
    """The parts of a run, as `train_drift.py` makes them."""
    keep_freed_memory()
    return drift.build(
        config,
        data.load(config.dataset_name, config.data.split, config.data),
        sharding.make_mesh(config.mesh.devices, config.mesh.fsdp),
    )


def train(
    settings: Mapping,
    folder: pathlib.Path,
    then: Callable[[pathlib.Path], dict] = lambda folder: {},
) -> dict:
    """Trains with `settings` (flags of train_drift.py) in `folder`, which is removed, and returns what a row holds, with what `then` finds in the folder of a run that did not fail.

    step_ms: the median over the log lines, without the first. curve: per evaluation the step, the scores, and the diversity at the time. A run that leaves the
    numbers has the reason as `failed`, and the curve up to there.
    """
    shutil.rmtree(folder, ignore_errors=True)
    config = config_lib.resolve(
        settings
        | {"save_dir": str(folder), "sample_interval": 0, "save_interval": settings["max_steps"]}
    )
    failed = ""
    try:
        drift.train(build(config), drift.open_run(config))
    except UserError as error:
        if "not finite" not in str(error):
            raise
        failed = str(error)
    lines = read_metrics(folder / "metrics.jsonl")
    seconds = [b["seconds"] / (b["step"] - a["step"]) for a, b in zip(lines, lines[1:])]
    diversity = {line["step"]: line.get("diversity") for line in lines}
    curve = [
        {"step": r["step"], "diversity": diversity.get(r["step"])} | scores(r)
        for r in read_rows(folder / "fid.csv")
    ]
    more = {} if failed else then(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "step_ms": 1e3 * statistics.median(seconds) if seconds else None,
        "curve": curve,
        "failed": failed,
    } | more


def step_times(settings: Mapping[str, Mapping], rounds: int, steps: int = 10) -> dict[str, float]:
    """Milliseconds of a training step by the name of its settings: the median over the rounds, in each of which all take `steps` steps in turn, so that the machine's moods hit all.

    "GFLOP/s": float32 matrix products in the same rounds.
    """
    jobs, times = {}, {name: [] for name in [*settings, "GFLOP/s"]}
    for name, values in settings.items():
        jobs[name] = drift.DriftJob(build(config_lib.resolve(values | {"eval_interval": 0})), None)
        jobs[name].start(None)
        jobs[name].prepare(0)
        jax.block_until_ready(jobs[name].advance(jobs[name].fetch()))  # compiles
    for _ in range(rounds):
        for name, job in jobs.items():
            begin = time.perf_counter()
            for _ in range(steps):
                metrics = job.advance(job.fetch())
            jax.block_until_ready((job.state, metrics))
            times[name].append(1e3 * (time.perf_counter() - begin) / steps)
        times["GFLOP/s"].append(matmul_rate("float32") / 1e9)
    return {name: round(statistics.median(found), 2) for name, found in times.items()}


def at_time(curve: list[dict], score: str, steps: float) -> float | None:
    """The score at a step between two evaluations, on the line that joins them; None outside."""
    for a, b in zip(curve, curve[1:]):
        if a["step"] <= steps <= b["step"]:
            return a[score] + (b[score] - a[score]) * (steps - a["step"]) / (b["step"] - a["step"])
    return None


def mean_spread(values: list) -> str:
    """ "0.576 ± 0.012": mean and standard deviation over the seeds; "-" without values."""
    values = [v for v in values if v is not None]
    if not values:
        return "-"
    return f"{statistics.mean(values):.3f}" + (
        f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    )


def write_table(folder: pathlib.Path, name: str, rows: list[dict]) -> str:
    """`rows` of text by column as folder/name.md and name.csv; returns the markdown."""
    columns = list(dict.fromkeys(k for row in rows for k in row))
    line = lambda cells: "| " + " | ".join(cells) + " |"
    text = (
        "\n".join(
            [
                line(columns),
                line(["---"] * len(columns)),
                *(line([str(row.get(k, "")) for k in columns]) for row in rows),
            ]
        )
        + "\n"
    )
    (folder / f"{name}.md").write_text(text)
    import csv

    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return text
