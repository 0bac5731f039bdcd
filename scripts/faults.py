#!/usr/bin/env python
"""What a run survives: kills, signals, damaged files, a full disk, a second program.

    python scripts/faults.py --out runs/faults --count 200

A small run of digits goes to its end undisturbed. Then each fault, drawn by --seed, befalls a run
of the same settings: a new one that is killed or stopped at a random moment, or a copy that has
half of its way left and a damaged file. The same command goes on with it. A fault is

    held      the run ends with the same bits in every array and the same lines in metrics.jsonl
    refused   after damage or a full disk: the program ends with one line that says why, and every
              checkpoint that was whole is whole
    LOST      anything else: other bits, a traceback, a hang

A line of JSON for each fault is in OUT/faults.jsonl, its folder is kept where it was lost, and a
table comes at the end. Exit code 1 if anything was lost. One core does about six faults a minute.
"""

import collections
import json
import logging
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np

import data
from configs.default import Key
from training import drift
from training.drift_parts import build
from utils import config as config_lib
from utils import sharding
from utils.checkpoint import Checkpoints
from utils.checkpoint.checksums import find_damage, item_names
from utils.errors import UserError
from utils.logging import read_metrics, setup_logging

log = logging.getLogger("faults")

ROOT = pathlib.Path(__file__).resolve().parent.parent

FLAGS = (
    Key("out", "", "the folder to write, which must not be there yet"),
    Key("count", 200, "faults", "[1, inf)"),
    Key("kinds", "all", "some kinds of faults, separated by commas"),
)
# Seconds; a start with compilation takes ten.
TOO_LONG = 180
RUN = {
    "dataset_name": "digits",
    "model.preset": "debug",
    "batch_size": 40,
    "drift.n_neg": 4,
    "drift.bank_per_class": 16,
    "drift.n_pos": 8,
    "max_steps": 60,
    "optim.warmup_steps": 5,
    "save_interval": 10,
    "keep_checkpoints": 6,
    "eval_interval": 30,
    "sample_interval": 30,
    "log_interval": 5,
}
HALF = 30
# What differs between two runs of the same bits.
OF_TIME = ("images_per_s", "mfu", "data_wait", "goodput", "time", "seconds", "left")


# ---------------------------------------------------------------- runs


def command(folder: pathlib.Path) -> list[str]:
    flags = [f"--{name}={value}" for name, value in RUN.items()]
    return [sys.executable, str(ROOT / "train_drift.py"), *flags, f"--save_dir={folder}"]


def start(folder: pathlib.Path, **options: Any) -> subprocess.Popen:
    """Starts the run in a folder, or goes on with it."""
    streams: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command(folder), text=True, **streams, **options)


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Returns exit code and messages of a process; -1 where it does not end."""
    try:
        _, messages = process.communicate(timeout=TOO_LONG)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return -1, "it did not end"
    return process.returncode, messages


class Truth:
    """The run that nothing disturbed."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        begin = time.monotonic()
        code, messages = finish(start(folder))
        if code:
            raise UserError(f"the run without a fault failed: {messages.strip()[-300:]}")
        self.seconds = time.monotonic() - begin
        config: Any = config_lib.resolve(RUN)
        mesh = sharding.make_mesh(1, 1)
        parts = build(config, data.load("digits", "train", config.data), mesh)
        self.shapes = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype),
            drift.checkpoint_shapes(parts),
        )
        self.arrays, self.lines = self.read(folder)

    def read(self, folder: pathlib.Path) -> tuple[Any, list[dict]]:
        """Returns the arrays of the last step, and the lines but for their times."""
        arrays, _, step = Checkpoints(folder / "checkpoints").restore(self.shapes)
        if step != RUN["max_steps"]:
            raise ValueError(f"the newest checkpoint is of step {step}")
        lines = read_metrics(folder / "metrics.jsonl")
        return arrays, [
            {k: v for k, v in line.items() if not any(word in k for word in OF_TIME)}
            for line in lines
        ]

    def difference(self, folder: pathlib.Path, kind: str) -> str:
        """Says what differs in a run that has ended; "" for nothing."""
        try:
            arrays, lines = self.read(folder)
        except (UserError, ValueError, OSError) as error:
            return str(error)
        pairs = zip(jax.tree.leaves(arrays), jax.tree.leaves(self.arrays), strict=True)
        if not all(np.array_equal(ours, theirs, equal_nan=True) for ours, theirs in pairs):
            return "other bits in the last checkpoint"
        if lines == self.lines:
            return ""
        # What the damage has taken from the past no run can bring back.
        after = [[line for line in some if line["step"] > HALF] for some in (lines, self.lines)]
        if kind == "metrics.jsonl damaged" and after[0] == after[1]:
            return ""
        return "other lines in metrics.jsonl"

    def half(self, folder: pathlib.Path) -> None:
        """Copies the run as it was after half of its steps."""
        shutil.copytree(self.folder, folder)
        for step in Checkpoints(folder / "checkpoints").steps():
            if step > HALF:
                shutil.rmtree(folder / "checkpoints" / str(step))


# ---------------------------------------------------------------- faults


def interrupted(number: signal.Signals) -> Callable:
    """Returns the fault of a signal at a random moment of a new run."""

    def fault(truth: Truth, folder: pathlib.Path, draw: random.Random) -> str:
        process = start(folder)
        moment = draw.uniform(0, truth.seconds)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        if number == signal.SIGSTOP:
            time.sleep(2)
            process.send_signal(signal.SIGCONT)
        code, messages = finish(process)
        # Python's own words for an interrupt during the imports are no loss.
        if "Traceback" in messages and "KeyboardInterrupt" not in messages:
            return f"traceback after {moment:.1f} s"
        return "" if code != -1 else messages

    return fault


def damaged(pattern: str) -> Callable:
    """Returns the fault of a random file that is flipped, cut, emptied or removed."""

    def fault(truth: Truth, folder: pathlib.Path, draw: random.Random) -> str:
        truth.half(folder)
        files = sorted(file for file in folder.glob(pattern) if file.is_file())
        file = draw.choice(files)
        content = bytearray(file.read_bytes())
        how = draw.choice(["flipped", "cut", "emptied", "removed"])
        if how == "flipped" and content:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        if how == "cut":
            del content[draw.randrange(len(content) + 1) :]
        if how == "removed":
            file.unlink()
        else:
            file.write_bytes(b"" if how == "emptied" else content)
        return ""

    return fault


def full_disk(truth: Truth, folder: pathlib.Path, draw: random.Random) -> str:
    """No file can become larger than some bytes, so that writes fail as on a full disk."""
    truth.half(folder)
    most = int(10 ** draw.uniform(2, 5))

    process = start(folder)
    # Python ignores the signal that comes with it.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
    _, messages = finish(process)
    return f"traceback at {most} bytes" if "Traceback" in messages else ""


def second_program(truth: Truth, folder: pathlib.Path, draw: random.Random) -> str:
    """The same command again while the first one trains."""
    first = start(folder)
    while not (folder / "config.json").exists() and first.poll() is None:
        time.sleep(0.1)
    time.sleep(draw.uniform(0, 1))
    code, messages = finish(start(folder))
    finish(first)
    if code != 2 or messages.count("error:") != 1 or "Traceback" in messages:
        return f"the second program ended with {code}: {messages.strip()[-200:]}"
    return ""


KINDS: dict[str, Callable] = {
    "killed": interrupted(signal.SIGKILL),
    "terminated": interrupted(signal.SIGTERM),
    "interrupted": interrupted(signal.SIGINT),
    "stopped for a while": interrupted(signal.SIGSTOP),
    "arrays damaged": damaged("checkpoints/30/*/**/d/*"),
    "manifest damaged": damaged("checkpoints/30/**/manifest.ocdbt"),
    "metadata damaged": damaged("checkpoints/30/metadata/*"),
    "checksums damaged": damaged("checkpoints/30/crc32.json"),
    "other files of a checkpoint": damaged("checkpoints/30/**/*_*"),
    "config.json damaged": damaged("config.json"),
    "metrics.jsonl damaged": damaged("metrics.jsonl"),
    "scores and reports damaged": damaged("[efgrs]*.*"),
    "full disk": full_disk,
    "second program": second_program,
}
# These leave no file damaged, so that the run must go on.
UNHARMED = ("killed", "terminated", "interrupted", "stopped for a while", "second program")


# ---------------------------------------------------------------- the campaign


def whole_checkpoints(folder: pathlib.Path) -> set[int]:
    """Returns the steps whose checkpoint has every byte that was written."""
    checkpoints = Checkpoints(folder / "checkpoints")
    places = {step: folder / "checkpoints" / str(step) for step in checkpoints.steps()}
    return {
        step for step, place in places.items() if find_damage(place, readable_items(place)) is None
    }


def readable_items(place: pathlib.Path) -> list[str]:
    """Returns the items of a checkpoint; none where its list of checksums is damaged."""
    try:
        return item_names(place)
    except (OSError, ValueError, KeyError):
        return []


def one_fault(kind: str, truth: Truth, folder: pathlib.Path, draw: random.Random) -> str:
    """Lets a fault happen, goes on with the run, and returns "held", "refused" or what is lost."""
    wrong = KINDS[kind](truth, folder, draw)
    if wrong:
        return wrong
    whole = whole_checkpoints(folder)
    code, messages = finish(start(folder))
    if "Traceback" in messages:
        return "traceback: " + messages.strip().splitlines()[-1][:200]
    if code == 2 and messages.count("error:") == 1 and kind not in UNHARMED:
        lost = whole - whole_checkpoints(folder)
        return f"refused, and checkpoints {sorted(lost)} are lost" if lost else "refused"
    if code:
        return f"exit code {code}: {messages.strip()[-200:]}"
    return truth.difference(folder, kind) or "held"


def main(flag_values):
    setup_logging()
    flags: Any = config_lib.all_flags(flag_values)
    out = pathlib.Path(flags.out).expanduser()
    kinds = list(KINDS) if flags.kinds == "all" else flags.kinds.split(",")
    if unknown := set(kinds) - set(KINDS):
        raise UserError(f"--kinds {flags.kinds}: {unknown.pop()!r} is none of {', '.join(KINDS)}")
    if not flags.out or out.exists():
        raise UserError(f"--out {flags.out!r}: give the name of a new folder")
    out.mkdir(parents=True)

    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(out / "compiled")
    draw = random.Random(flags.seed)
    truth = Truth(out / "undisturbed")
    again = Truth(out / "undisturbed_again")
    if other := truth.difference(again.folder, ""):
        raise UserError(f"two runs without a fault differ ({other}): nothing can be told of faults")
    truth.seconds = min(truth.seconds, again.seconds)  # the second was compiled already
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for number in range(flags.count):
        kind = kinds[number % len(kinds)]
        folder = out / f"{number:04d}"
        result = one_fault(kind, truth, folder, draw)
        known = result if result in ("held", "refused") else "LOST"
        counts[kind][known] += 1
        with (out / "faults.jsonl").open("a") as lines:
            lines.write(json.dumps({"number": number, "kind": kind, "result": result}) + "\n")
        if known == "LOST":
            log.warning("%s, %s: %s", folder, kind, result)
        else:
            shutil.rmtree(folder)

    print("| fault | tried | held | refused in a line | lost |\n| --- | --- | --- | --- | --- |")
    for kind, count in counts.items():
        print(
            f"| {kind} | {count.total()} | {count['held']} | {count['refused']} | {count['LOST']} |"
        )
    if any(count["LOST"] for count in counts.values()):
        sys.exit(1)


if __name__ == "__main__":
    config_lib.define_flags(("seed",), FLAGS)
    config_lib.run_main(main)
