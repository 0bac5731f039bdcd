"""What a run tells: log lines, the progress bar, `metrics.jsonl`, Weights & Biases."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import pathlib
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from utils.files import cannot_write, replacing

log = logging.getLogger(__name__)


# ---- log lines ----


def setup_logging(quiet: bool = False) -> None:
    """Log lines on stderr as `level: message`, above the progress bar if there is one. quiet: errors
    only, for the other processes of a job. Replaces the handlers of absl."""
    handler = _Lines()
    handler.setFormatter(_Format())
    logging.basicConfig(
        level=logging.ERROR if quiet else logging.INFO, handlers=[handler], force=True
    )
    logging.getLogger("absl").setLevel(logging.WARNING)
    logging.getLogger("jax").setLevel(logging.WARNING)


@contextlib.contextmanager
def without_warnings(*packages: str) -> Iterator[None]:
    """Keeps back what the loggers of these packages say below an error; others, and other threads' libraries, are heard."""
    quiet = lambda record: (
        record.levelno >= logging.ERROR or record.name.partition(".")[0] not in packages
    )
    handlers = logging.getLogger().handlers[:]
    for handler in handlers:
        handler.addFilter(quiet)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(quiet)


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if "tqdm" in sys.modules:
            sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
        else:
            sys.stderr.write(line + "\n")


# ---- metrics.jsonl ----


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; a line that a kill cut short is left out."""
    return [record for _, record in _lines(pathlib.Path(path))]


def _lines(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if (
                    line.endswith("\n")
                    and isinstance(record, dict)
                    and isinstance(record.get("step"), int)
                ):
                    yield line, record


def _record(step: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` for strict JSON. Nine significant digits keep a float32 exactly; a number that is not
    finite becomes null and its name goes into "not_finite": {"loss": "nan"}."""
    record, odd = {"step": int(step)}, {}
    for key, value in values.items():
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, float):
            if not math.isfinite(value):
                odd[key] = str(value)
            value = float(f"{value:.9g}") if math.isfinite(value) else None
        record[key] = value
    return record | ({"not_finite": odd} if odd else {})


class RunLog:
    """`<folder>/metrics.jsonl`, one object per line with "step" first, and Weights & Biases if it is wanted.

    wandb_config: `mode` (online, offline, disabled), `project`, `name` (empty: that of the folder),
    `entity`. resume_step: the step that the run continues from (0: a new run). Later lines are dropped,
    so that a run that was killed and resumed ends with the lines of one that was not. config: shown by
    wandb. Only process 0 writes.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        wandb_config,
        resume_step: int,
        config: Mapping[str, Any] | None = None,
    ):
        import jax

        self.folder = pathlib.Path(folder)
        self.writes = jax.process_index() == 0
        self._wandb = None
        if not self.writes:
            return
        self.path = self.folder / "metrics.jsonl"
        with replacing(self.path) as temporary:
            with open(temporary, "w", encoding="utf-8") as file:
                file.writelines(
                    line for line, record in _lines(self.path) if record["step"] <= resume_step
                )
        self._file = open(self.path, "ab", buffering=0)
        if wandb_config.mode != "disabled":
            self._try_wandb("does not start", lambda: self._start_wandb(wandb_config, config))

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one line. values: numbers (also 0-d arrays), text or None. Raises UserError on a full
        disk."""
        if not self.writes:
            return
        record = _record(step, values)
        rest = (json.dumps(record, allow_nan=False) + "\n").encode()
        try:
            while rest:  # a nearly full disk takes a part first
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._try_wandb("does not log", lambda: self._wandb.log(record))

    def image(self, step: int, name: str, path: str | os.PathLike) -> None:
        """Shows a picture file in wandb."""

        def send():
            import wandb

            self._wandb.log({"step": step, name: wandb.Image(str(path))})

        self._try_wandb("does not take images", send)

    @contextlib.contextmanager
    def progress(self, start: int, total: int) -> Iterator[Progress]:
        """A bar on a terminal, log lines elsewhere: `with run.progress(start, total) as bar:
        bar.show(step, values, rate)`."""
        bar = Progress(start, total, bar=sys.stderr.isatty(), writes=self.writes)
        try:
            yield bar
        finally:
            bar.close()

    def close(self) -> None:
        """Ends the wandb run and closes the file."""
        if self.writes:
            self._file.close()
            self._try_wandb("does not finish", lambda: self._wandb.finish())

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _start_wandb(self, options, config) -> None:
        import wandb

        kept = self.folder / "wandb_id.txt"  # a resumed run goes on in the same wandb run
        if not kept.exists():
            kept.write_text(secrets.token_hex(4))
        self._wandb = wandb.init(
            dir=str(self.folder),
            id=kept.read_text().strip(),
            mode=options.mode,
            project=options.project,
            name=options.name or self.folder.absolute().name,
            entity=options.entity or None,
            config=dict(config or {}),
            resume="allow" if options.mode == "online" else None,
            settings=wandb.Settings(silent=True, init_timeout=30),
        )
        # Our own step: wandb's must never go back, and a resumed run may repeat steps.
        self._wandb.define_metric("*", step_metric="step")
        if self._wandb.url:
            log.info("wandb: %s", self._wandb.url)

    def _try_wandb(self, what: str, call) -> None:
        """wandb is never required: its first failure is one warning, and the run goes on without it."""
        if what != "does not start" and self._wandb is None:
            return
        try:
            call()
        except (Exception, SystemExit) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            log.warning(
                "wandb %s (%s); going on without it, the metrics are in %s", what, reason, self.path
            )
            self._wandb = None


# ---- progress ----


class Progress:
    """What `RunLog.progress` yields."""

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
        """values: the metrics of a step; loss, the drift at the largest temperature, energy distance,
        diversity are shown."""
        if not self.writes:
            return
        facts = [
            f"{images_per_s:.3g} images/s"
            if images_per_s < 1000
            else f"{images_per_s:,.0f} images/s"
        ]
        drifts = sorted(
            (float(key.removeprefix("drift_rms_")), key)
            for key in values
            if key.startswith("drift_rms_")
        )
        chosen = {
            "loss": "loss",
            **({"drift": drifts[-1][1]} if drifts else {}),
            "energy": "energy_distance",
            "diversity": "diversity",
        }
        facts += [f"{name} {values[key]:.3g}" for name, key in chosen.items() if key in values]
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(facts), refresh=False)
            self._bar.update(step - self._bar.n)
            self._bar.refresh()
            return
        done = max(step - self.start, 1)
        left = (time.perf_counter() - self._began) / done * (self.total - step)
        log.info(
            "step %*d/%d, %s, %s left",
            len(str(self.total)),
            step,
            self.total,
            ", ".join(facts),
            _duration(left),
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
