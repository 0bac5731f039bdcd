"""What a run does when it leaves the numbers: it stops, or goes on from before.

Going back restores the newest checkpoint, which is finite, because nothing else is saved. The steps
behind it are taken again with the samples that follow in the stream, not with those that were used,
and with other random numbers. The checkpoints from there on hold both, so a resumed run ends in the
same bits.
"""

import logging

import jax
import numpy as np

from training import environment
from training.job import Job
from utils.checkpoint import Checkpoints
from utils.errors import UserError

log = logging.getLogger("train")

SEED_STEP = 0x9E3779B9  # odd, so that every number of times gives another seed


class NotFinite(UserError):
    """A step whose metrics are not numbers.

    Attributes:
        step: the step in which it was seen.
    """

    def __init__(self, step: int, names: list[str]):
        self.step = step
        self.what = f"step {step}: {', '.join(names)} not finite"
        super().__init__(
            f"{self.what}; the last checkpoint is from before. Lower --optim.learning_rate, raise "
            "--optim.warmup_steps, or give --on_nonfinite rollback"
        )


def check_finite(step: int, values: dict[str, float]) -> None:
    """Raises NotFinite when the training has left the numbers."""
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if bad:
        raise NotFinite(step, bad)


def roll_back(job: Job, checkpoints: Checkpoints, error: NotFinite) -> int:
    """Restores the newest checkpoint, with other data and random numbers behind it.

    Returns:
        The step of the checkpoint.
    Raises:
        UserError: this is not wanted, there is no checkpoint, or it has been done too often.
    """
    config = job.config
    if config.on_nonfinite == "stop":
        raise error
    times, most = job.rollbacks + 1, config.max_rollbacks
    if times > most:
        raise UserError(
            f"{error.what}, after going back {most} times (--max_rollbacks). Lower "
            "--optim.learning_rate or raise --optim.warmup_steps; the last checkpoint is whole"
        )
    checkpoints.wait()
    if checkpoints.latest() is None:
        raise UserError(
            f"{error.what}, and there is no checkpoint to go back to. Lower "
            "--optim.learning_rate, or raise --optim.warmup_steps"
        )
    used = job.position
    job.release()
    job.restore(checkpoints)
    skipped = used - job.position
    # The checkpoint's seed knows the times before it was saved; each since then is another one.
    seed = another_seed(job.state.seed, times - job.rollbacks)
    job.state, job.position, job.rollbacks = job.state.replace(seed=seed), used, times
    step = int(job.state.step)
    log.warning(
        "%s: back to step %d, and on %s (%d of at most %d times)",
        error.what,
        step,
        f"without the {skipped:,} samples used since" if skipped else "with other random numbers",
        times,
        most,
    )
    environment.note_rollback(job.folder, error.step, step)
    return step


def another_seed(seed: jax.Array, times: int) -> jax.Array:
    """Returns a root of randomness for the so many-th time, on the devices of the first one."""
    other = (int(seed) + SEED_STEP * times) % 2**32
    return jax.device_put(np.uint32(other), seed.sharding)
