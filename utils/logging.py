"""What a run tells: log lines, `metrics.jsonl`, and the progress of the steps."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from utils import storage
from utils.lines_file import LinesFile
from utils.trackers import RunFacts, Trackers

log = logging.getLogger(__name__)


# ---- log lines ----


def setup_logging(quiet: bool = False) -> None:
    """Writes log lines to stderr as `level: message`, above the progress bar if there is one.

    This replaces the handlers of absl.

    Args:
        quiet: errors only, for all processes of a job but the first.
    """
    handler = _StderrHandler()
    handler.setFormatter(_Format())
    level = logging.ERROR if quiet else logging.INFO
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for package in ("absl", "jax", "gcsfs", "s3fs", "fsspec", "aiobotocore", "google"):
        logging.getLogger(package).setLevel(logging.WARNING)


@contextlib.contextmanager
def without_warnings(*packages: str) -> Iterator[None]:
    """Keeps back what the loggers of these packages say below an error.

    Other loggers are heard, also in other threads.
    """

    def is_heard(record: logging.LogRecord) -> bool:
        package = record.name.partition(".")[0]
        return record.levelno >= logging.ERROR or package not in packages

    handlers = logging.getLogger().handlers[:]
    for handler in handlers:
        handler.addFilter(is_heard)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_heard)


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


class _StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if "tqdm" in sys.modules:  # there may be a bar, which has to move out of the way
            sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
        else:
            sys.stderr.write(line + "\n")


# ---- metrics.jsonl ----


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the records of a `metrics.jsonl`, without a line that a kill has cut short."""
    return [record for _, record in _lines(storage.as_path(path))]


def _lines(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Gives (line, record) for each whole line of a `metrics.jsonl`, if there is one."""
    if not path.exists():
        return
    with storage.open_text(path, errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            is_record = isinstance(record, dict) and isinstance(record.get("step"), int)
            if is_record and line.endswith("\n"):
                yield line, record


def _record(step: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values for strict JSON, with the step first.

    Nine significant digits keep a float32 exactly. A number that is not finite becomes null, and
    "not_finite" says what it was: {"loss": "nan"}.
    """
    record: dict[str, Any] = {"step": int(step)}
    not_finite = {}
    for key, value in values.items():
        if hasattr(value, "item"):  # a number of NumPy or JAX
            value = value.item()
        if isinstance(value, float):
            if math.isfinite(value):
                value = float(f"{value:.9g}")
            else:
                not_finite[key] = str(value)
                value = None
        record[key] = value
    if not_finite:
        record["not_finite"] = not_finite
    return record


class RunLog:
    """Writes `metrics.jsonl` of a run, one object per line with "step" first, and tells trackers.

    Lines later than `resume_step` are dropped, so that a run that was killed and resumed ends with
    the lines of one that was not. Only process 0 writes.

    Args:
        folder: of the run.
        wandb_config: `mode` ("online", "offline", "disabled"), `project`, `name` (empty: that of
            the folder), `entity`.
        resume_step: the step that the run continues from; 0 for a new run.
        config: what trackers show as the configuration of the run.
        trackers: --log, names of `utils.trackers` separated by commas.
    Raises:
        UserError: the folder cannot be written, or there is no such tracker.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        wandb_config,
        resume_step: int,
        config: Mapping[str, Any] | None = None,
        trackers: str = "",
    ):
        import jax

        self.folder = storage.as_path(folder)
        self.path = self.folder / "metrics.jsonl"
        self.writes = jax.process_index() == 0
        if not self.writes:
            return
        kept = (line for line, record in _lines(self.path) if record["step"] <= resume_step)
        self._file = LinesFile(self.path, kept)
        facts = RunFacts(self.folder, resume_step, wandb_config, config or {})
        self._trackers = Trackers(trackers, facts)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file and ends the run of each tracker."""
        if self.writes:
            self._file.close()
            self._trackers.finish()

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one line.

        Args:
            step: the number of finished steps.
            values: numbers (also arrays of no dimensions), text or None.
        Raises:
            UserError: the disk is full.
        """
        if not self.writes:
            return
        record = _record(step, values)
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._trackers.log(record)

    def flush(self) -> None:
        """Returns when all lines can be read by others: what was logged is not lost by a kill."""
        if self.writes:
            self._file.flush()

    def show(self, step: int, values: Mapping[str, Any]) -> None:
        """Shows in the trackers what another file than `metrics.jsonl` keeps, such as scores."""
        if self.writes:
            self._trackers.log(_record(step, values))

    def image(self, step: int, name: str, path: str | os.PathLike) -> None:
        """Shows a picture file in the trackers."""
        if self.writes:
            self._trackers.image(step, name, path)

    @contextlib.contextmanager
    def progress(self, start: int, total: int) -> Iterator[Progress]:
        """Shows a bar on a terminal, log lines elsewhere. It is used in this way:

            with run.progress(start, total) as bar:
                bar.show(step, values, images_per_s)

        The steps count from `start` to `total`.
        """
        bar = Progress(start, total, bar=sys.stderr.isatty(), writes=self.writes)
        try:
            yield bar
        finally:
            bar.close()


# ---- progress ----


class Progress:
    """Shows how far a run is, as `RunLog.progress` gives it.

    Args:
        start: the step that the run began or continued from.
        total: the last step.
        bar: whether to draw a bar, not log lines.
        writes: whether to show anything.
    """

    def __init__(self, start: int, total: int, bar: bool, writes: bool = True):
        self.start, self.total, self.writes = start, total, writes
        self._began = time.perf_counter()
        self._bar = None
        if bar and writes:
            from tqdm import tqdm

            self._bar = tqdm(
                initial=start, total=total, unit="step", dynamic_ncols=True, file=sys.stderr
            )

    def show(self, step: int, values: Mapping[str, float], images_per_s: float) -> None:
        """Shows the loss, the drift at the largest temperature, energy distance and diversity.

        Args:
            step: the number of finished steps.
            values: all metrics of the step; those that are shown may be absent.
            images_per_s: generated images per second.
        """
        if not self.writes:
            return
        facts = _facts(values, images_per_s)
        if self._bar is not None:
            self._bar.set_postfix_str(facts, refresh=False)
            self._bar.update(step - self._bar.n)
            self._bar.refresh()
            return
        done = max(step - self.start, 1)
        seconds_left = (time.perf_counter() - self._began) / done * (self.total - step)
        digits = len(str(self.total))
        left = _duration(seconds_left)
        log.info("step %*d/%d, %s, %s left", digits, step, self.total, facts, left)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


def _facts(values: Mapping[str, float], images_per_s: float) -> str:
    """Returns the metrics that are shown, such as "312 images/s, loss 0.412, drift 0.031"."""
    shown = {"loss": "loss"}  # what each is called here: its key
    prefix = "drift_rms_"
    temperatures = [key.removeprefix(prefix) for key in values if key.startswith(prefix)]
    if temperatures:
        shown["drift"] = prefix + max(temperatures, key=float)
    shown |= {"energy": "energy_distance", "diversity": "diversity"}
    if images_per_s < 1000:
        facts = [f"{images_per_s:.3g} images/s"]
    else:
        facts = [f"{images_per_s:,.0f} images/s"]
    if "mfu" in values:
        facts.append(f"MFU {100 * values['mfu']:.3g}%")
    facts += [f"{name} {values[key]:.3g}" for name, key in shown.items() if key in values]
    return ", ".join(facts)


def _duration(seconds: float) -> str:
    """Returns "1:02:03" for hours, minutes and seconds, or "2:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02}"
    return f"{minutes}:{seconds:02}"
