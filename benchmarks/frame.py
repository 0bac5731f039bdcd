"""What all benchmarks share: the machine, programs timed in turn, lines of JSON, and stand-in data.

The speed of a machine changes from minute to minute, with what else runs on it. So the programs of
a comparison take turns, and between them the rate of matrix products is measured: a figure beside
it can be set against one of another day or another machine.
"""

import dataclasses
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data import Dataset
from utils.flops import matmul_rate

# ---------------------------------------------------------------- the machine


def machine() -> dict[str, Any]:
    """Returns the facts with which every line begins."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
    }


def peak_bytes(device: Any = None) -> int:
    """Returns the greatest memory until now: of a device, or of this process where it is a CPU."""
    statistics_of_device = device.memory_stats() if device else None
    if statistics_of_device:
        return statistics_of_device["peak_bytes_in_use"]
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# ---------------------------------------------------------------- timing


@dataclasses.dataclass(frozen=True)
class Timing:
    """What `time_in_turn` has measured.

    Attributes:
        seconds: of one call of each program, a value for each round.
        matmul_rates: FLOP/s of matrix products, a value for each round; empty where none were
            multiplied.
    """

    seconds: dict[str, list[float]]
    matmul_rates: list[float]

    def median(self, name: str) -> float:
        """Seconds of one call of a program."""
        return statistics.median(self.seconds[name])

    def milliseconds(self, name: str) -> float:
        return 1e3 * self.median(name)

    @property
    def matmul_rate(self) -> float:
        """FLOP/s of matrix products, the median of the rounds."""
        return statistics.median(self.matmul_rates)


def time_in_turn(
    programs: Mapping[str, Callable[[], Any]],
    rounds: int,
    calls: int = 1,
    dtype: Any | None = jnp.float32,
) -> Timing:
    """Times several programs, which take turns.

    In each round every program is called, and its last result waited for; then matrices are
    multiplied. One more round comes first and does not count: in it programs are compiled, and
    memory is got from the operating system.

    Args:
        programs: what to call, by name. They return arrays.
        rounds: how many values to take.
        calls: of each program in one round.
        dtype: of the matrix products, which take a second on a small CPU; None for none.
    """
    seconds = {name: [] for name in programs}
    rates = []
    for _ in range(rounds + 1):
        for name, program in programs.items():
            result = None
            begin = time.perf_counter()
            for _ in range(calls):
                result = program()
            jax.block_until_ready(result)
            seconds[name].append((time.perf_counter() - begin) / calls)
        if dtype is not None:
            rates.append(matmul_rate(dtype))
    return Timing({name: values[1:] for name, values in seconds.items()}, rates[1:])


# ---------------------------------------------------------------- lines of JSON


def print_line(facts: Mapping[str, Any]) -> None:
    """Prints one line of JSON, with numbers to six digits."""
    print(json.dumps({name: _rounded(value) for name, value in facts.items()}), flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(inner) for name, inner in value.items()}
    if not isinstance(value, float):
        return value
    # Numbers of six digits and more keep what is before the point.
    return round(value) if abs(value) >= 1e6 else float(f"{value:.6g}")


# ---------------------------------------------------------------- the figures of a peer


@dataclasses.dataclass(frozen=True)
class Peer:
    """What another program needs for the same work, as recorded on some machine.

    Attributes:
        name: of the program, with its versions.
        step_s: seconds of a step.
        matmul_gflop_per_s: float32 matrix products of that machine.
        compile_s: seconds of compilation; None where it does not compile.
    """

    name: str
    step_s: float
    matmul_gflop_per_s: float
    compile_s: float | None = None


# By the settings of `step.py`, recorded on two CPU cores in float32. Those of 132 GFLOP/s came with
# the settings; the others were measured with ours in turn, beside 410 to 490 GFLOP/s.
PEERS = {
    "encoder": (
        Peer("the paper's release, first record", 1.38, 132, compile_s=86),
        Peer("the paper's release, JAX 0.4.37", 0.642, 450, compile_s=39.6),
        Peer("the paper's release, JAX 0.10.2", 0.431, 450, compile_s=17.2),
    ),
    "pixels": (
        Peer("a port to PyTorch, first record", 12.9, 132),
        Peer("a port to PyTorch, 2.14", 6.3, 450),
    ),
}


# What the port to PyTorch was recorded with: 10 classes of 32 generated and 32 positive samples.
PORT = {
    "batch_size": 320,
    "drift.n_neg": 32,
    "drift.n_pos": 32,
    "drift.n_unc": 0,
    "drift.alpha_max": 1.0,
    "drift.bank_per_class": 64,
    "drift.bank_global": 0,
    "drift.bank_push": 8,
    "model.hidden_size": 256,
    "model.depth": 6,
    "model.num_heads": 8,
    "model.patch_size": 4,
    "model.n_cls_tokens": 8,
    "model.use_bf16": False,
}


def beside_peers(peers: Iterable[Peer], step_s: float, matmul_rate: float) -> dict[str, Any]:
    """Returns the figures of peers, and how our step compares.

    `scaled_step_ms` is our step on the peer's machine, if all our work scaled as matrix products
    do. It does not quite, so compare programs on one machine where that is possible.

    Args:
        peers: that do the same work.
        step_s: seconds of our step.
        matmul_rate: FLOP/s of float32 matrix products in the same run.
    """
    found = {}
    for peer in peers:
        scale = matmul_rate / 1e9 / peer.matmul_gflop_per_s
        found[peer.name] = {
            "step_ms": 1e3 * peer.step_s,
            "compile_s": peer.compile_s,
            "matmul_gflop_per_s": peer.matmul_gflop_per_s,
            "scaled_step_ms": 1e3 * step_s * scale,
        }
    return found


# ---------------------------------------------------------------- stand-in data


class Noise:
    """Random access to noise: one image, rolled further with each index."""

    def __init__(self, count: int, classes: int, shape: tuple[int, int, int], dtype: str):
        self.count = count
        self.classes = classes
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        if dtype == "uint8":
            self.image = image
        else:
            self.image = (image / 64 - 2).astype(dtype)  # latents, between -2 and 2

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": np.roll(self.image, index), "label": index % self.classes}


def noise_dataset(shape: tuple[int, int, int], classes: int, samples_per_class: int) -> Dataset:
    """Returns a data set of noise; shape: (H, W, C), where 4 channels are latents in float32."""
    dtype = "float32" if shape[2] == 4 else "uint8"
    return Dataset(
        name="noise",
        split="train",
        samples=Noise(classes * samples_per_class, classes, shape, dtype),
        shape=shape,
        dtype=dtype,
        class_names=tuple(map(str, range(classes))),
        counts=(samples_per_class,) * classes,
    )
