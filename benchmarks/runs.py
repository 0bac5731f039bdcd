"""Short training runs of the trainer as rows of a table: each is done once, kept as a line of JSON, and skipped the next time."""

import dataclasses
import json
import logging
import pathlib
import shutil
import statistics
from collections.abc import Iterable, Mapping

import data
import train_drift
from utils import config as config_lib, sharding
from utils.errors import UserError
from utils.logging import read_metrics
from utils.scores import read_rows, scores

log = logging.getLogger("benchmark")


@dataclasses.dataclass
class Rows:
    """The rows of `folder`/rows.jsonl, told apart by their `key`."""

    folder: pathlib.Path

    @property
    def file(self) -> pathlib.Path:
        return self.folder / "rows.jsonl"

    def read(self) -> list[dict]:
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []

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


def train(settings: Mapping, folder: pathlib.Path) -> dict:
    """Trains with `settings` (flags of train_drift.py) in `folder`, which is removed, and returns what a row holds.

    step_ms: the median over the log lines, without the first. curve: per evaluation the step, the scores, and the diversity at the time. A run that leaves the
    numbers has the reason as `failed`, and the curve up to there.
    """
    shutil.rmtree(folder, ignore_errors=True)
    config = config_lib.resolve(settings | {"save_dir": str(folder), "sample_interval": 0, "save_interval": settings["max_steps"]})
    failed = ""
    try:
        mesh = sharding.make_mesh(config.mesh.devices, config.mesh.fsdp)
        parts = train_drift.build(config, data.load(config.dataset_name, config.data.split, config.data), mesh)
        train_drift.train(parts, train_drift.open_run(config))
    except UserError as error:
        if "not finite" not in str(error):
            raise
        failed = str(error)
    lines = read_metrics(folder / "metrics.jsonl")
    seconds = [b["seconds"] / (b["step"] - a["step"]) for a, b in zip(lines, lines[1:])]
    diversity = {line["step"]: line.get("diversity") for line in lines}
    curve = [{"step": r["step"], "diversity": diversity.get(r["step"])} | scores(r) for r in read_rows(folder / "fid.csv")]
    shutil.rmtree(folder, ignore_errors=True)
    return {"step_ms": 1e3 * statistics.median(seconds) if seconds else None, "curve": curve, "failed": failed}


def at_time(curve: list[dict], score: str, steps: float) -> float | None:
    """The score at a step between two evaluations, on the line that joins them; None outside."""
    for a, b in zip(curve, curve[1:]):
        if a["step"] <= steps <= b["step"]:
            return a[score] + (b[score] - a[score]) * (steps - a["step"]) / (b["step"] - a["step"])
    return None


def mean_spread(values: list) -> str:
    """"0.576 ± 0.012": mean and standard deviation over the seeds; "-" without values."""
    values = [v for v in values if v is not None]
    if not values:
        return "-"
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def write_table(folder: pathlib.Path, name: str, rows: list[dict]) -> str:
    """`rows` of text by column as folder/name.md and name.csv; returns the markdown."""
    columns = list(dict.fromkeys(k for row in rows for k in row))
    line = lambda cells: "| " + " | ".join(cells) + " |"
    text = "\n".join([line(columns), line(["---"] * len(columns)), *(line([str(row.get(k, "")) for k in columns]) for row in rows)]) + "\n"
    (folder / f"{name}.md").write_text(text)
    import csv

    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return text
