"""The loop of every training: step, log, evaluate, draw, save, and stop when asked to.

A trainer is a `Job` (training/job.py). The loop waits for the device only where it logs, evaluates,
draws, saves or keeps a snapshot; between these, steps are queued ahead of it. (A CPU takes them one
by one.)
"""

import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax

from models.post_hoc import SNAPSHOTS
from training import environment
from training.goodput import Goodput
from training.job import Job
from training.recovery import NotFinite, check_finite, roll_back
from training.run_folder import has_run
from training.speed import Profile, Utilisation, utilisation
from training.state import snapshot_items
from utils import config as config_lib
from utils import distributed, processes
from utils.checkpoint import Checkpoints
from utils.errors import UserError
from utils.folder_lock import Hold, hold
from utils.logging import RunLog
from utils.paths import to_path
from utils.signals import StopSignal
from utils.watchdog import Watchdog

log = logging.getLogger("train")


def train(job: Job, profiled: int = 0) -> None:
    """Resumes the run in the job's folder, or starts it, and trains to max_steps or a signal.

    profiled: steps of which a trace is written.
    """
    config, folder = job.config, job.folder
    # Only the first process writes into the folder, so it holds it for all.
    lock = hold(folder) if processes.is_first() else contextlib.nullcontext(Hold())
    own = Checkpoints(folder / "checkpoints", config.keep_checkpoints, config.keep_interval)
    snapshots = Checkpoints(folder / SNAPSHOTS, max(config.optim.ema_snapshots, 1))
    with lock as held, StopSignal() as stop, own as checkpoints, snapshots, first_config(job):
        start = resume_or_start(job, checkpoints)
        if start < config.max_steps:
            environment.note_start(folder, start)
            goodput = Goodput(folder)
            profile = Profile(folder, start, config.max_steps, profiled)
            saving = Saving(checkpoints, snapshots, held)
            while start < config.max_steps:
                try:
                    take_steps(job, start, saving, stop, profile, goodput)
                    break
                except NotFinite as error:
                    profile.stop()
                    start = roll_back(job, checkpoints, error)
                    snapshots.go_back(start)
                    goodput.lose()
            goodput.save(finished=True)
            log.info("%s: %s", folder, goodput.in_words())
            environment.note_end(folder, config.max_steps)
            job.report_run()
        else:
            log.info(
                "%s: complete at step %d. To go on raise --max_steps; "
                "for a new run give another --save_dir",
                folder,
                start,
            )
    job.after_training()


def resume_or_start(job: Job, checkpoints: Checkpoints) -> int:
    """Gives the job its state, and returns the number of steps behind it.

    The state is, in this order of preference:
        1. that of the newest checkpoint in the job's own folder,
        2. that of the newest one in --load_dir,
        3. a new one.
    """
    config = job.config
    check_agreement(job, checkpoints)
    source = None
    if checkpoints.steps():
        source = checkpoints
    elif config.load_dir:
        source = Checkpoints(to_path(config.load_dir) / "checkpoints")
    start = job.start(source)
    if source and source is not checkpoints and start >= config.max_steps:
        raise UserError(
            f"--load_dir {config.load_dir}: that run is at step {start}, and --max_steps "
            f"{config.max_steps} was asked for; give a larger one"
        )
    if source and start:
        log.info("%s: resumed at step %d", source.folder.parent, start)
    return start


def save_config(job: Job) -> None:
    """Writes config.json of the run."""
    if processes.is_first():
        config_lib.save_json(job.config, job.folder / "config.json")


@contextlib.contextmanager
def first_config(job: Job) -> Iterator[None]:
    """Writes config.json of a new run, and removes it if what is done within is refused at once.

    Stopped at any moment, the same folder goes on with these settings; refused before the first
    step was taken, it does not go on with what cannot work.
    """
    is_new = not has_run(job.folder)
    if is_new:
        save_config(job)
    try:
        yield
    except UserError:
        if is_new and not job.began and processes.is_first():
            (job.folder / "config.json").unlink(missing_ok=True)
        raise


def check_agreement(job: Job, checkpoints: Checkpoints) -> None:
    """Checks that all processes were given the same, and write to the same run folder."""
    distributed.agree_on_folder(checkpoints.folder.parent)
    facts = config_lib.flatten(job.config.to_dict())
    facts["the list of checkpoints"] = checkpoints.steps()
    facts["the version of jax"] = jax.__version__
    facts["the number of samples"] = len(job.parts.dataset.samples)
    distributed.agree("at the start", facts)


# ---- the loop ----


class Saving(NamedTuple):
    """Where a run saves: its checkpoints, the snapshots of averages, and its hold of the folder."""

    checkpoints: Checkpoints
    snapshots: Checkpoints
    held: Hold


def take_steps(
    job: Job, start: int, saving: Saving, stop: StopSignal, profile: Profile, goodput: Goodput
) -> None:
    """Takes the steps after `start`. Raises NotFinite for a run that left the numbers."""
    checkpoints, snapshots, held = saving
    config, folder = job.config, job.folder
    last = config.max_steps
    goodput.to_start()
    job.prepare(start)
    save_config(job)  # what the user has changed, once it is known to work
    clock = Clock(start)
    log.info("%s: training to step %d; the first step is compiled now", folder, last)
    with (
        Watchdog(config.watchdog) as watchdog,
        RunLog(folder, config.wandb, start, config.to_dict(), config.log) as run_log,
        run_log.progress(start, last) as bar,
    ):
        for step in range(start + 1, last + 1):
            # ---- one step: it is queued, nothing here waits for the device ----
            if step > start + 1:  # the first one compiles
                watchdog.restart()
            profile.before(step)
            with jax.transfer_guard("disallow"):
                with clock.waiting(), goodput.during("waiting"):
                    batch = job.fetch()
                metrics = job.advance(batch)

            with clock.paused():
                profile.after(step, metrics)
                # ---- what fails at an evaluation should fail now, not after hours ----
                if step == start + 1:
                    job.after_first_step()
                    clock.devices = utilisation(job.parts.mesh, job.trace_step(batch))
                    goodput.started()
                    job.began = True
            if step == start + 1 and not is_due(step, config.log_interval, last):
                clock.restart(step)  # the first step compiled: speeds are those of the others

            # ---- log: this waits for the device ----
            if is_due(step, config.log_interval, last):
                values = to_floats(metrics)
                check_finite(step, values)
                timing = clock.read(step, config.batch_size)
                timing["goodput"] = goodput.share()
                run_log.log(step, values | {"lr": job.learning_rate(step)} | timing)
                bar.show(step, values | timing, timing["images_per_s"])
                job.after_log(step, values)
                clock.restart(step)

            watchdog.rest()
            stopping = distributed.stop_after(step, stop.requested)
            evaluates = is_due(step, config.eval_interval, last)
            draws = is_due(step, config.sample_interval, last)
            keeps = is_snapshot(step, config.optim.ema_snapshots, last)
            saves = is_due(step, config.save_interval, last) or stopping
            if evaluates or draws or keeps or saves:
                jax.block_until_ready(metrics)  # what is queued is time of steps, not of these
            with clock.paused():
                # ---- evaluate, draw: a run that goes on from what is saved here does neither ----
                with goodput.during("evaluating"):
                    if evaluates:
                        job.evaluate(step, run_log)
                    if draws:
                        run_log.image(step, "samples", job.draw(step))

                # ---- keep the averages of which others can be made ----
                if keeps:
                    check_finite(step, to_floats(metrics))
                    with goodput.during("saving"):
                        snapshots.save(step, snapshot_items(job.state), {}, wait=True)

                # ---- save: nothing that is not finite, so that the run can go on from it ----
                if saves:
                    check_finite(step, to_floats(metrics))
                    with goodput.during("saving"):
                        held.confirm()
                        run_log.flush()  # what is resumed from here has the lines before it
                        checkpoints.save(step, *job.checkpoint())
                    goodput.save()

                # ---- stop, as a signal asked to; after the last step there is nothing to stop ----
                if stopping and step < last:
                    checkpoints.wait()
                    environment.note_end(folder, step)
                    name = stop.name or "SIGTERM"  # another process got it
                    log.warning("%s: saved at step %d; the same command resumes it", name, step)
                    raise SystemExit(128 + signal.Signals[name])
    with goodput.during("saving"):
        checkpoints.wait()
    figures = "samples/, curves.png, " if config.sample_interval else ""
    log.info("%s: done; %smetrics.jsonl and checkpoints/ are there", folder, figures)


def is_due(step: int, interval: int, last: int) -> bool:
    """Returns whether `step` ends an interval. The last step ends every one; 0 stands for never."""
    return interval > 0 and (step % interval == 0 or step == last)


def is_snapshot(step: int, count: int, last: int) -> bool:
    """Returns whether a snapshot is taken: `count` of them at even distances, the last at `last`.

    The last is left out, because the checkpoint after the last step holds the same.
    """
    return step < last and step * count // last > (step - 1) * count // last


class Clock:
    """Times the steps between two log lines.

    Evaluations, figures and checkpoints do not count; waiting for data does, and is told apart.
    """

    devices: Utilisation  # known after the first step

    def __init__(self, step: int):
        self.restart(step)

    def restart(self, step: int) -> None:
        """Starts an interval after `step`."""
        self.began = time.perf_counter()
        self.first_step = step
        self.seconds_waited = 0.0
        self.seconds_paused = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts what is done within as waiting for data."""
        before = time.perf_counter()
        yield
        self.seconds_waited += time.perf_counter() - before

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what is done within."""
        before = time.perf_counter()
        yield
        self.seconds_paused += time.perf_counter() - before

    def read(self, step: int, batch_size: int) -> dict[str, float]:
        """Returns images per second, the shares of the matrix arithmetic and of waiting for data,
        and the seconds of the interval, without pauses.

        The first interval begins after the first step, unless a log line ends with this very step.
        """
        seconds = time.perf_counter() - self.began - self.seconds_paused
        steps = step - self.first_step
        return {
            "images_per_s": batch_size * steps / seconds,
            "mfu": self.devices.share(steps / seconds),
            "data_wait": self.seconds_waited / seconds,
            "seconds": seconds,
        }


def to_floats(metrics: dict[str, jax.Array]) -> dict[str, float]:
    """Returns the metrics of a step as numbers. This waits for the device."""
    return {name: float(value) for name, value in jax.device_get(metrics).items()}
