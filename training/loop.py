"""What the trainers share: a run folder that can be gone on with, and the loop that logs, evaluates, draws, saves and stops.

A trainer is a `Job`; `train(job, folder)` drives it. The loop waits for the device only where it logs, evaluates, draws or saves.
"""

import contextlib
import fcntl
import logging
import pathlib
import signal
import time

import jax
import numpy as np
import optax

from utils import config as config_lib
from utils import distributed, processes
from utils.checkpoint import Checkpoints
from utils.errors import UserError
from utils.logging import RunLog
from utils.signals import StopSignal

log = logging.getLogger("train")


class Job:
    """A training. The state that steps change is its own.

    config: at least the keys of configs/default.py without a group, and `wandb`. samples: how many the data set has.
    """

    config: object
    samples: int

    def start(self, checkpoints: Checkpoints | None) -> int:
        """Takes the state of the newest checkpoint, or with None makes the first one; returns its step."""
        raise NotImplementedError

    def prepare(self, step: int) -> None:
        """Opens the data and builds the step, which continues after `step`."""
        raise NotImplementedError

    def fetch(self):
        """The input of the next step; the time that this takes is logged as waiting for data."""
        raise NotImplementedError

    def advance(self, batch) -> dict:
        """One step: scalars on the device."""
        raise NotImplementedError

    def after_first_step(self) -> None:
        """What is worth checking before hours are spent."""

    def learning_rate(self, step: int) -> float:
        """Of the step that made `step`."""
        raise NotImplementedError

    def after_log(self, step: int, values: dict) -> None:
        """Looks at the numbers of a log line; raises UserError to stop."""

    def evaluate(self, step: int, run: RunLog) -> None:
        """Every eval_interval."""
        raise NotImplementedError

    def draw(self, step: int) -> pathlib.Path:
        """Every sample_interval: draws figures into the run folder and returns the one that wandb shows."""
        raise NotImplementedError

    def checkpoint(self) -> tuple[dict, dict]:
        """({item: pytree}, metadata) for `Checkpoints.save`."""
        raise NotImplementedError


# ---------------------------------------------------------------- the run folder


def run_folder(config, prefix: str = "") -> pathlib.Path:
    return pathlib.Path(
        config.save_dir or f"runs/{prefix}{config.dataset_name.replace('/', '_').replace(':', '_')}"
    )


def has_run(folder: pathlib.Path) -> bool:
    """Whether there is a run that can go on."""
    return (folder / "config.json").exists() and bool(Checkpoints(folder / "checkpoints").steps())


def check_same_run(before, config, where, fixed: tuple[str, ...], free: tuple[str, ...]):
    """The run at `where`, with the configuration `before`, can go on with `config`; changes are named.

    fixed: how the keys that must not change start; free: those among them that may. Raises UserError.
    """
    before, now = config_lib.flatten(before), config_lib.flatten(config.to_dict())
    changed = {
        k: (before[k], v)
        for k, v in now.items()
        if k in before and (tuple(before[k]) if isinstance(before[k], list) else before[k]) != v
    }
    for k, (old, new) in sorted(
        changed.items(), key=lambda item: "." in item[0]
    ):  # the whole before its parts
        if k.startswith(fixed) and k not in free:
            raise UserError(
                f"{where} holds a run with {k} = {old}, but {k} = {new} was asked for; give another --save_dir, or --{k} {old}"
            )
    for k in changed.keys() - {"save_dir", "load_dir", "init_from", "dry_run", "recipe"}:
        log.warning("%s: %s was %s and is now %s", where, k, *changed[k])


def make_folder(folder: pathlib.Path) -> pathlib.Path:
    """The run folder, made and writable. Raises UserError."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--save_dir {folder}: is a file; cannot write a run there, give a folder")
    try:
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        (mark := folder / f".writable_{jax.process_index()}").touch()
        mark.unlink()
    except OSError as error:
        raise UserError(
            f"--save_dir {folder}: cannot write there ({error.strerror}); give a folder that can be written"
        ) from None
    return folder


@contextlib.contextmanager
def alone_in(folder: pathlib.Path):
    """Holds the run folder: the metrics and checkpoints of two programs would mix. The system lets go of it with the process, however that ends. Raises UserError."""
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.lockf(
                file, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # unlike flock, not passed on to worker processes
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"{folder}: another program is training there; wait until it ends, or give another --save_dir"
            ) from None
        except OSError as error:
            log.warning(
                "%s: the file system has no locks (%s): see that one program at a time trains there",
                folder,
                error.strerror,
            )
        yield


def megabytes_per_device(tree) -> str:
    """Of arrays or shapes with shardings."""
    return f"{sum(np.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree)) / 1e6:.1f} MB"


# ---------------------------------------------------------------- the loop


def build_optimizer(o, max_steps):
    """AdamW with warm-up and clipping by the global norm (A.8), of the group `optim`: (learning rate by step, optax transformation)."""
    if o.schedule == "cosine":
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, o.learning_rate, o.warmup_steps, max_steps, o.end_learning_rate
        )
    else:
        schedule = (
            optax.linear_schedule(0.0, o.learning_rate, o.warmup_steps)
            if o.warmup_steps
            else optax.constant_schedule(o.learning_rate)
        )
    return schedule, optax.chain(
        optax.clip_by_global_norm(o.clip),
        optax.adamw(schedule, o.b1, o.b2, weight_decay=o.weight_decay),
    )


def check_finite(step: int, values: dict):
    """Raises UserError when the training has left the numbers."""
    bad = [k for k, v in values.items() if not np.isfinite(v)]
    if bad:
        raise UserError(
            f"step {step}: {', '.join(bad)} not finite; the last checkpoint is from before. Lower --optim.learning_rate, or raise --optim.warmup_steps"
        )


def agree(job: Job, checkpoints: Checkpoints):
    """The processes of a job must have been given the same, and write to the same run folder."""
    distributed.agree_on_folder(checkpoints.folder.parent)
    facts = {
        "the list of checkpoints": checkpoints.steps(),
        "the version of jax": jax.__version__,
        "the number of samples": job.samples,
    }
    distributed.agree("at the start", config_lib.flatten(job.config.to_dict()) | facts)


def train(job: Job, folder: pathlib.Path):
    """Resume or start, step, log, evaluate, draw, save, until max_steps or a signal."""
    lock = alone_in(folder) if processes.is_first() else contextlib.nullcontext()
    with (
        lock,
        StopSignal() as stop,
        Checkpoints(
            folder / "checkpoints", job.config.keep_checkpoints, job.config.keep_interval
        ) as checkpoints,
    ):
        _train(job, folder, checkpoints, stop)


def _train(job: Job, folder: pathlib.Path, checkpoints: Checkpoints, stop: StopSignal):
    config, source = job.config, checkpoints
    agree(job, checkpoints)
    if config.load_dir and not checkpoints.steps():
        source = Checkpoints(pathlib.Path(config.load_dir) / "checkpoints")
    start = job.start(source if checkpoints.steps() or config.load_dir else None)
    if start:
        log.info("%s: resumed at step %d", source.folder.parent, start)
    if processes.is_first():
        config_lib.save_json(config, folder / "config.json")
    if start >= config.max_steps:
        log.info(
            "%s: complete at step %d. To go on raise --max_steps; for a new run give another --save_dir",
            folder,
            start,
        )
        return
    job.prepare(start)
    waited, paused, since, since_step = (
        0.0,
        0.0,
        time.perf_counter(),
        start,
    )  # of the interval between two log lines

    log.info("%s: training to step %d; the first step is compiled now", folder, config.max_steps)
    with (
        RunLog(folder, config.wandb, start, config.to_dict()) as run,
        run.progress(start, config.max_steps) as bar,
    ):
        for step in range(start + 1, config.max_steps + 1):
            with jax.transfer_guard("disallow"):
                before = time.perf_counter()
                batch = job.fetch()
                waited += time.perf_counter() - before
                metrics = job.advance(batch)
            if step == start + 1:
                before = time.perf_counter()
                job.after_first_step()
                paused += time.perf_counter() - before
            last = step == config.max_steps
            due = lambda interval: interval and step % interval == 0 or last and interval

            if due(config.log_interval):
                values = {
                    k: float(v) for k, v in jax.device_get(metrics).items()
                }  # waits for the device
                check_finite(step, values)
                seconds = time.perf_counter() - since - paused
                rate = config.batch_size * (step - since_step) / seconds
                run.log(
                    step,
                    values
                    | {
                        "lr": job.learning_rate(step),
                        "images_per_s": rate,
                        "data_wait": waited / seconds,
                        "seconds": seconds,
                    },
                )
                bar.show(step, values, rate)
                job.after_log(step, values)
                waited, paused, since, since_step = 0.0, 0.0, time.perf_counter(), step

            before = time.perf_counter()
            stopping = distributed.stop_after(step, stop.requested)
            if due(config.eval_interval):
                job.evaluate(step, run)
            if due(config.sample_interval):
                run.image(step, "samples", job.draw(step))
            if due(config.save_interval) or stopping:
                check_finite(step, jax.device_get(metrics))
                checkpoints.save(step, *job.checkpoint())
            if stopping:
                checkpoints.wait()
                name = stop.name or "SIGTERM"  # of another process
                log.warning("%s: saved at step %d; the same command resumes it", name, step)
                raise SystemExit(128 + signal.Signals[name])
            paused += time.perf_counter() - before
    checkpoints.wait()
    pictures = "samples/, curves.png, " if config.sample_interval else ""
    log.info("%s: done; %smetrics.jsonl and checkpoints/ are there", folder, pictures)
