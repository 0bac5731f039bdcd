"""Seconds from the command to the end of the first step of a training, by cause.

    python benchmarks/start.py --dataset_name digits --model.preset debug

takes flags of train_drift.py. The program is started with an empty compilation cache, and then with
the cache that this has left. A line of JSON for each start: "cache" is cold or warm, "seconds" and
"cpu_seconds" (of all threads) are those from the start of the process to the end of the first step,
and so are the pairs [seconds, CPU seconds] of each cause:

    imports      Python itself, and the modules
    settings     flags and configuration
    parts        devices, data, networks, encoder
    state        parameters, optimiser, averages, and the bank of reals
    prepare      streams, reference of the scores
    trace        of the step, and its lowering to the compiler's input
    compile      of the step, or its reading out of the cache
    step         its run

"peak_gib" is the most memory that the process had. "read_gib" is what it and the processes that
read for it had read from the disk, on Linux alone.
"""

import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
WARM_STARTS = 3
CHILD = "START_OF_A_RUN"  # set in the environment of a child: when it was started


def main() -> None:
    """Starts a run cold, and then warm."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": f"{folder}/cache"}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        for i in range(1 + WARM_STARTS):
            flags = [*sys.argv[1:], "--save_dir", f"{folder}/run_{i}"]
            facts = {"cache": "warm" if i else "cold"} | facts_of_start(flags, environment)
            print(json.dumps(facts), flush=True)


def facts_of_start(flags: list[str], environment: dict[str, str]) -> dict:
    """Starts a run in a process of its own, and returns what that says of itself."""
    with subprocess.Popen(
        [sys.executable, __file__, *flags],
        env=environment | {CHILD: repr(time.time())},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        # Processes that read data for it outlive it, and would hold the pipe open.
        os.killpg(process.pid, signal.SIGKILL)
    if not line:
        sys.exit("the run ended before its first step")
    return json.loads(line)


def start(began: float) -> None:
    """Starts a run in this process, and ends it after its first step with a line of JSON."""
    causes = Causes(began)
    from absl import flags

    from configs.default import OF_TRAINERS
    from training import program
    from training.drift import DriftJob
    from utils import config as config_lib

    causes.end("imports")

    class Watched(DriftJob):
        """The training, watched."""

        @classmethod
        def build(cls, config, mesh):
            causes.end("settings")
            return super().build(config, mesh)

        def start(self, checkpoints):
            causes.end("parts")
            step = super().start(checkpoints)
            causes.end("state")
            return step

        def prepare(self, step):
            super().prepare(step)
            causes.end("prepare")

        def advance(self, batch):
            program = self.take_step.trace(self.state, self.bank, batch, self.encoder_params)
            lowered = program.lower()
            causes.end("trace")
            lowered.compile()
            causes.end("compile")
            metrics = super().advance(batch)
            float(metrics["loss"])
            causes.end("step")
            print(json.dumps(causes.facts()))
            sys.stdout.flush()
            os._exit(0)

    config_lib.define_flags(extra=OF_TRAINERS)
    config_lib.parse(sys.argv)
    program.main(Watched, flags.FLAGS)


class Causes:
    """What the time since the start of a process went into."""

    def __init__(self, began: float):
        self.began = began
        self.last = (began, 0.0)
        self.seconds: dict[str, list[float]] = {}

    def end(self, cause: str) -> None:
        """Books the time since the last call on a cause."""
        now = time.time(), time.process_time()
        self.seconds[cause] = [round(b - a, 2) for a, b in zip(self.last, now, strict=True)]
        self.last = now

    def facts(self) -> dict:
        """Returns the whole time and that of each cause, and memory and disk."""
        from benchmarks.frame import peak_bytes  # its imports are not the run's

        whole = {"seconds": self.last[0] - self.began, "cpu_seconds": self.last[1]}
        whole["peak_gib"] = peak_bytes() / 2**30
        whole["read_gib"] = bytes_read() / 2**30
        return {name: round(value, 2) for name, value in whole.items()} | self.seconds


def bytes_read() -> float:
    """Returns the bytes that this process and its children read from the disk; NaN unless Linux."""
    try:
        processes = [pathlib.Path("/proc/self")]
        for children in pathlib.Path("/proc/self/task").glob("*/children"):
            processes += [pathlib.Path("/proc") / pid for pid in children.read_text().split()]
        read = [(process / "io").read_text() for process in processes]
    except OSError:
        return math.nan
    return sum(float(text.split("read_bytes: ")[1].split()[0]) for text in read)


if __name__ == "__main__":
    if CHILD in os.environ:
        start(float(os.environ[CHILD]))
    else:
        main()
