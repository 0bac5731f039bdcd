"""How fast a run is against what its devices can do, and traces of single steps."""

import dataclasses
import functools
import logging
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from utils import processes, storage
from utils.chips import CHIPS
from utils.errors import UserError
from utils.flops import matmul_flops, matmul_rate

log = logging.getLogger("train")


# ---- model FLOPs utilisation ----


@dataclasses.dataclass(frozen=True)
class Utilisation:
    """The share of the devices' matrix arithmetic that a training uses (MFU).

    Attributes:
        flops: of the matrix products of a step, on all devices together.
        peak: FLOP/s of all devices together.
    """

    flops: float
    peak: float

    def share(self, steps_per_s: float) -> float:
        """Returns the share at a speed."""
        return self.flops * steps_per_s / self.peak


def utilisation(mesh: jax.sharding.Mesh, traced: Any) -> Utilisation:
    """Returns what a step asks of the devices of a mesh.

    traced: the step, as `jax.jit(step).trace(...)` returns it.
    """
    return Utilisation(matmul_flops(traced.jaxpr), peak_flops(mesh))


def peak_flops(mesh: jax.sharding.Mesh) -> float:
    """Returns the FLOP/s of the devices of a mesh: by their data sheet in bfloat16, or measured.

    Measured is a CPU, in float32, and a device without a data sheet in `utils.chips`.
    """
    device = mesh.devices.flat[0]
    if device.device_kind in CHIPS:
        return CHIPS[device.device_kind].flops * mesh.size
    if device.platform == "cpu":  # the CPU devices of a process share its cores
        return best_matmul_rate(jnp.float32) * jax.process_count()
    return best_matmul_rate(jnp.bfloat16) * mesh.size


@functools.cache
def best_matmul_rate(dtype: Any) -> float:
    """Returns the FLOP/s of matrix products on one device, measured once in a process.

    The best of three counts, since other programs may use the cores meanwhile.
    """
    return max(matmul_rate(dtype) for _ in range(3))


# ---- traces ----


class Profile:
    """Writes a trace of `count` steps to the folder `profile/` of a run, by its first process.

    The first two steps of the process are left out, because they compile and warm up, where the
    training is long enough.
    """

    WARM_UP = 2

    def __init__(self, folder: pathlib.Path, start: int, last: int, count: int):
        if count and storage.is_bucket(folder):
            raise UserError(f"--profile {count}: traces go to a disk; give a --save_dir here")
        self.folder = folder / "profile"
        steps = min(count, last - start) if processes.is_first() else 0
        self.first = min(start + 1 + self.WARM_UP, last - steps + 1)
        self.last = self.first + steps - 1  # before the first where there is nothing to trace
        self.is_running = False

    def before(self, step: int) -> None:
        """Begins the trace if `step` is the first to be traced."""
        if step == self.first <= self.last:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # it would slow the steps down, and fill the trace
            jax.profiler.start_trace(
                self.folder, create_perfetto_trace=True, profiler_options=options
            )
            self.is_running = True

    def after(self, step: int, metrics: Any) -> None:
        """Ends the trace if `step` was the last; `metrics` are what its program gives."""
        if step == self.last and self.is_running:
            jax.block_until_ready(metrics)
            self.stop()
            newest = max(self.folder.rglob("perfetto_trace.json.gz"), key=_age)
            log.info("%s: open it at https://ui.perfetto.dev", newest)

    def stop(self) -> None:
        """Ends a trace that is running, as where its steps are taken once more."""
        if self.is_running:
            jax.profiler.stop_trace()
            self.is_running = False


def _age(path: pathlib.Path) -> float:
    return path.stat().st_mtime
