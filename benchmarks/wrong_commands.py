"""Wrong commands: does each end in one line that says what to do, and does following it work?

    python benchmarks/wrong_commands.py --out runs/wrong_commands

For every program, flags of its own table are spoiled, each in one of the ways below; WRITTEN has
commands that are wrong for another reason: values that do not fit together, or files that are not
what they are taken for.

    typo       two letters of a flag change places
    word       a text where there is a number, or a word that is none of the choices
    range      a number outside the interval
    huge       a number that no machine counts to
    missing    a flag without its value
    stray      a word that belongs to no flag
    written    of WRITTEN

A command held if it ended within 20 seconds with exit code 2, no traceback, and at its end one line
"error: ..." about what was wrong. Where that line names a flag that was meant, a choice or an
interval, the flag is given so, and must be understood; where a command stands beside it in WRITTEN,
that must do its work. A line of JSON for each command is in OUT/commands.jsonl, and a table comes
at the end. Exit code 1 if one did not hold.
"""

import collections
import functools
import json
import logging
import math
import pathlib
import random
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np
from absl import flags as absl_flags
from PIL import Image

from configs.default import Key
from utils import config as config_lib
from utils.config.values import as_text
from utils.errors import UserError
from utils.logging import setup_logging

log = logging.getLogger("wrong_commands")

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = (
    Key("per_program", 20, "drawn commands of each program, at most", "[1, inf)"),
    Key("seed", 0, "of the draws", "[0, inf)"),
    Key("out", "", "folder to write, which must not be there yet"),
)
# Seconds that a command may take which is wrong, and one that does its work.
TOO_LONG, LONGEST_WORK = 20, 300
UNKNOWN = "--no_such_flag_at_all=1"  # refused only when every other flag was understood

# Wrong commands. What is wrong is the last flag, or one that is missing, which stands after #.
# After the bar is what the line leads to, in the place of the last flag. RUN is a finished run,
# MADE a folder of `make_files`.
WRITTEN = """
    train_drift.py --dry_run --drift.n_neg 64 --batch_size 70 | --batch_size 64
    train_drift.py --dry_run --dataset_name digits --drift.alpha_min 2 | --drift.alpha_min 1
    train_drift.py --dry_run --dataset_name digits --drift.alpha_max 2 | --drift.alpha_max 1
    train_drift.py --dry_run --drift.bank_per_class 16 --drift.n_pos 32 | --drift.n_pos 16
    train_drift.py --dry_run --drift.bank_global 8 --drift.n_unc 16 | --drift.n_unc 8
    train_drift.py --dry_run --dataset_name digits --model.hidden_size 130 | --model.hidden_size 128
    train_drift.py --dry_run --dataset_name digits --model.patch_size 3 | --model.patch_size 4
    train_drift.py --dry_run --objective flow --model.noise_classes 4 | --model.noise_classes 0
    train_drift.py --dry_run --dataset_name digits --max_steps 50 | --max_steps 150
    train_drift.py --dry_run --optim.end_learning_rate 1 | --optim.end_learning_rate 0
    train_drift.py --dry_run --mesh.devices 3 --mesh.fsdp 2
    train_drift.py --dry_run --mesh.devices 64 | --mesh.devices 1
    train_drift.py --dry_run --model.preset debug --dataset_name mnist-5k | --dataset_name mnist_5k
    train_drift.py --dry_run --dataset_name folder:MADE/empty
    train_drift.py --dry_run --dataset_name folder:MADE/notes
    train_drift.py --dry_run --dataset_name folder:/nowhere
    train_drift.py --dry_run --dataset_name MADE/pictures | --dataset_name folder:MADE/pictures
    train_drift.py --dry_run --dataset_name latents:MADE/empty
    train_drift.py --dry_run --dataset_name npz:MADE/broken.npz
    train_drift.py --dry_run --dataset_name npz:MADE/objects.npz
    train_drift.py --dry_run --dataset_name npz:MADE/notes/notes.txt
    train_drift.py --dry_run --dataset_name hf:MADE/notes
    train_drift.py --dry_run --dataset_name tfds:nowhere/nothing
    train_drift.py --dry_run --dataset_name gs:/bucket/pictures
    train_drift.py --dry_run --recipe digit | --recipe digits
    train_drift.py --dry_run --model.preset debg | --model.preset debug
    train_drift.py --save_dir MADE/a --encoder.name mae
    train_drift.py --dry_run --encoder.name effnet
    train_drift.py --save_dir MADE/b --encoder.name mae --encoder.path /nowhere
    train_drift.py --dry_run --drift.field sinkhor | --drift.field sinkhorn
    train_drift.py --dry_run --drift.field frechet --model.class_dropout_prob 0.1
    train_drift.py --dry_run --drift.temperature_schedule 10 | --drift.temperature_schedule 10:1
    train_drift.py --dry_run --drift.temperature_schedule 10:2 | --drift.temperature_schedule 10:1
    train_drift.py --dry_run --drift.temperatures 0.1,0.1 | --drift.temperatures 0.1,0.2
    train_drift.py --dry_run --drift.field sinkhorn --drift.iterations 0.3 | --drift.iterations 0.5
    train_drift.py --dry_run --model.attention cudnn | --model.attention xla
    train_drift.py --dry_run --objective flow --model.clip_output 1 | --model.clip_output 0
    train_drift.py --dry_run --log nope
    train_drift.py --dry_run --init_from /nowhere
    train_drift.py --dry_run --init_from MADE/empty
    train_drift.py --dry_run --load_dir /nowhere
    train_drift.py --dry_run --load_dir MADE/empty
    train_drift.py --dry_run --load_dir MADE/notes/notes.txt
    train_drift.py --dry_run --features nope | --features pixels
    train_drift.py --dry_run --fid_stats /nowhere.npz
    train_drift.py --save_dir MADE/c --fid_stats MADE/broken.npz
    train_drift.py --save_dir MADE/d --fid_stats MADE/negative.npz
    train_drift.py --dry_run --optim.accumulate 7
    train_drift.py --save_dir MADE/f --load_dir RUN --dataset_name mnist_5k
    train_drift.py --load_dir RUN --save_dir MADE/e --model.depth 5
    train_drift.py --save_dir MADE/g --dataset_name digits --features nope
    train_drift.py --dataset cifar10
    train_drift.py --epochs 10
    train_drift.py --dry_run --lr 1e-3 | --optim.learning_rate 1e-3
    train_drift.py --config digits.yaml
    train_drift.py --checkpoint RUN
    train_drift.py --resume RUN
    train_drift.py --dry_run --save_dir MADE/notes/notes.txt
    train_drift.py --distributed.coordinator localhost:99999
    pretrain_mae.py --dry_run --dataset_name nope
    pretrain_mae.py --dry_run --load_dir /nowhere
    pretrain_mae.py --dry_run --load_dir RUN
    pretrain_mae.py --dry_run --recipe digit
    pretrain_mae.py --dry_run --dataset_name folder:MADE/empty
    sample.py # --load_dir
    sample.py --load_dir /nowhere
    sample.py --load_dir MADE/empty
    sample.py --load_dir MADE/notes/notes.txt
    sample.py --load_dir RUN --out MADE/a.png --classes 11 | --classes 9
    sample.py --load_dir RUN --out MADE/b.png --classes x | --classes 0
    sample.py --load_dir RUN --out MADE/c.png --cfg_scale 0.5 | --cfg_scale 1
    sample.py --load_dir RUN --out MADE/d.png --step 7
    sample.py --load_dir RUN --out MADE/e.png --ema 0.5
    sample.py --load_dir RUN --num_samples 1e13
    sample.py --load_dir RUN --out MADE/f.npz --num_samples -4 | --num_samples 4
    sample.py --load_dir RUN/checkpoints/7
    sample.py --load_dir hf://name
    eval_fid.py # --load_dir
    eval_fid.py --load_dir /nowhere
    eval_fid.py --load_dir MADE/empty
    eval_fid.py --load_dir MADE/broken.npz
    eval_fid.py --load_dir MADE/pictures # --fid_stats
    eval_fid.py --load_dir MADE/pictures --fid_stats MADE/negative.npz
    eval_fid.py --load_dir MADE/pictures --fid_stats MADE/notes
    eval_fid.py --load_dir RUN --num_samples 64 --features nope | --features pixels
    eval_fid.py --load_dir RUN --num_samples 64 --metrics nope | --metrics fid
    eval_fid.py --load_dir RUN --num_samples 64 --cfg_scale search:2 | --cfg_scale 2
    eval_fid.py --load_dir RUN --num_samples 64 --cfg_scale x | --cfg_scale 1
    eval_fid.py --load_dir RUN --num_samples 64 --step 7
    eval_fid.py --load_dir RUN --num_samples 64 --labels /nowhere.txt
    eval_fid.py --load_dir RUN --num_samples 64 --against /nowhere
    eval_fid.py --load_dir RUN --num_samples 64 --reference_split nope
    eval_fid.py --load_dir RUN --num_samples 64 --resize nope
    eval_fid.py --load_dir RUN --features inception --inception_weights /nowhere
    scripts/cache_latents.py --dataset_name digits # --out
    scripts/cache_latents.py --out MADE/latents --dataset_name nope
    scripts/cache_latents.py --dataset_name digits --out MADE/latents --vae /nowhere
    scripts/compute_fid_stats.py --dataset_name digits # --inception_weights
    scripts/compute_fid_stats.py --out MADE/s.npz --images /nowhere
    scripts/compute_fid_stats.py --out MADE/s.npz --images MADE/empty
    scripts/compare.py # run
    scripts/compare.py RUN /nowhere
    scripts/compare.py RUN MADE/empty
    scripts/doctor.py # --load_dir
    scripts/doctor.py --load_dir MADE/empty
    scripts/doctor.py --load_dir /nowhere
    scripts/export.py # --load_dir
    scripts/export.py --out MADE/x --load_dir MADE/empty
    scripts/export.py --load_dir RUN --out MADE/y --step 7
    scripts/export.py --load_dir RUN --push noowner
    scripts/plan.py --recipe digits --target tpu:v9:1
    scripts/plan.py --recipe digits --target tpu:v6e
    scripts/plan.py --recipe digits --target gpu:nope:8
    scripts/plan.py --recipe digits --target gpu:h100:x
    scripts/plan.py --recipe nope
    scripts/plan.py --recipe imagenet256_ablation --stand_in 32x32
    scripts/play.py # --load_dir
    scripts/play.py --load_dir MADE/empty
    scripts/report.py # --load_dir
    scripts/report.py --load_dir /nowhere
    scripts/report.py --load_dir MADE/empty
    scripts/toy2d.py --out MADE/toy --toy nope
    scripts/toy2d.py --out MADE/toy --drift.field frechet --model.class_dropout_prob 0.1
    scripts/faults.py # --out
    scripts/faults.py --out MADE/empty
    scripts/faults.py --out MADE/faults --kinds nope
"""


class Command(NamedTuple):
    """A command that is wrong."""

    kind: str
    words: list[str]  # the program first
    right: list[str]  # the same without what is wrong
    about: str = ""  # what the line must have in it
    then: list[str] = []  # what it leads to, where that is not read from it


class Outcome(NamedTuple):
    """What became of a command."""

    held: bool
    line: str  # that it ended with, or what was wrong with its end
    followed: str = ""  # what was done then


def main(flag_values):
    setup_logging()
    flags: Any = config_lib.all_flags(flag_values)
    out = pathlib.Path(flags.out).absolute()
    if not flags.out or out.exists():
        raise UserError(f"--out {flags.out}: expected a folder to write, which is not there yet")
    make_files(out)
    tried, held, followed = (collections.Counter() for _ in range(3))
    drawn = draw(flags.per_program, random.Random(flags.seed))
    for command in [*drawn, *written(out)]:
        outcome = try_command(command, out)
        tried[command.kind] += 1
        held[command.kind] += outcome.held
        followed[command.kind] += bool(outcome.followed)
        row = {"kind": command.kind, "words": command.words} | outcome._asdict()
        with (out / "commands.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        if not outcome.held:
            log.warning("%s: %s", " ".join(command.words), outcome.line)
    print("| kind | tried | held | followed, and right |\n|---|---|---|---|")
    for kind in tried:
        print(f"| {kind} | {tried[kind]} | {held[kind]} | {followed[kind]} |")
    print(f"| all | {tried.total()} | {held.total()} | {followed.total()} |")
    sys.exit(tried != held)


def make_files(out: pathlib.Path) -> None:
    """Writes OUT/MADE, files that are wrong or right, and OUT/RUN, a run of a few steps."""
    made = out / "MADE"
    (made / "empty").mkdir(parents=True)
    (made / "notes").mkdir()
    (made / "notes" / "notes.txt").write_text("no picture\n")
    (made / "broken.npz").write_bytes(b"no archive")
    np.savez(made / "objects.npz", images=np.array([{}, {}], dtype=object))
    np.savez(made / "negative.npz", mu=np.zeros(64), sigma=-np.eye(64))
    generator = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (made / "pictures" / name).mkdir(parents=True)
        for i in range(12):
            pixels = generator.integers(256, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(made / "pictures" / name / f"{i}.png")
    run = "train_drift.py --dataset_name digits --model.preset debug --max_steps 120"
    words = [*run.split(), "--eval_interval", "0", "--save_dir", str(out / "RUN")]
    done = run_program(words, out, LONGEST_WORK)
    if done.returncode:
        raise UserError(f"{' '.join(words)}: {done.stderr[-400:]}")


# ---------------------------------------------------------------- the commands


def programs() -> list[str]:
    """Returns the programs that take flags of the table, benchmarks left out."""
    files = [*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py")]
    return sorted(str(file.relative_to(ROOT)) for file in files if "run_main(" in file.read_text())


@functools.cache
def keys_of(program: str) -> dict[str, Key]:
    """Returns the settings that a program takes, by name. It is loaded but not run."""
    taken: list[Any] = []
    registered = absl_flags.FLAGS
    # This program's own flags are no part of another.
    ours = {key.name: registered[key.name] for key in FLAGS if key.name in registered}
    for name in ours:
        delattr(registered, name)
    before = set(registered)

    def note(main, flag_values=registered):
        parsers = [flag_values[name].parser for name in set(flag_values) - before]
        taken.extend(parser.key for parser in parsers if hasattr(parser, "key"))

    try:
        with mock.patch.object(config_lib, "run_main", note), mock.patch("sys.argv", [program]):
            runpy.run_path(str(ROOT / program), run_name="__main__")
    finally:
        for name in set(registered) - before:
            delattr(registered, name)
        for name, flag in ours.items():
            registered[name] = flag
    return {key.name: key for key in sorted(taken)}


def draw(per_program: int, generator: random.Random) -> Iterator[Command]:
    """Yields `per_program` spoiled flags of every program, of kinds drawn at random."""
    for program in programs():
        kinds = collections.defaultdict(list)
        keys = keys_of(program)
        for key in keys.values():
            for kind, word in spoiled(key, generator):
                about = word.lstrip("-").partition("=")[0]
                kinds[kind].append(Command(kind, [program, word], [program], about))
        if program != "scripts/compare.py":  # whose words are runs
            kinds["stray"].append(Command("stray", [program, "digits"], [program], "digits"))
        for commands in kinds.values():
            generator.shuffle(commands)
        for _ in range(per_program):
            kinds = {kind: commands for kind, commands in kinds.items() if commands}
            if kinds:
                yield kinds[generator.choice(sorted(kinds))].pop()


def spoiled(key: Key, generator: random.Random) -> Iterator[tuple[str, str]]:
    """Yields (kind, word) of what may be wrong about one flag, of more than one letter."""
    at = generator.randrange(len(key.name) - 1)
    if key.name[at] != key.name[at + 1]:
        typo = key.name[:at] + key.name[at + 1] + key.name[at] + key.name[at + 2 :]
        yield "typo", f"--{typo}=1"
    if isinstance(key.default, bool):
        return
    yield "missing", f"--{key.name}"
    if isinstance(key.default, str) and not isinstance(key.accepts, tuple):
        return
    yield "word", f"--{key.name}=nothing"
    if least_of(str(key.accepts)) >= 0:
        yield "range", f"--{key.name}=-7"
    if isinstance(key.default, int):
        yield "huge", f"--{key.name}=1e30"


def least_of(text: str) -> float:
    """Returns the least number, or nearly, of the first interval in a text; -inf without one."""
    interval = re.search(r"([\[(])([-\w.]+), [-\w.]+[\])]", text)
    if not interval:
        return -math.inf
    low = float(interval[2])
    return low if interval[1] == "[" else low + 1e-3


def written(out: pathlib.Path) -> Iterator[Command]:
    """Yields the commands of WRITTEN."""

    def in_place(words: str) -> list[str]:
        return [
            re.sub("MADE|RUN", lambda found: f"{out}/{found[0]}", word) for word in words.split()
        ]

    for line in WRITTEN.strip().splitlines():
        line, _, missing = line.strip().partition(" # ")
        wrong, _, then = line.partition(" | ")
        words = in_place(wrong)
        # A line names the flag, or else the end of its value, such as the name of a file.
        about = missing or f"{words[-2].lstrip('-')}|{pathlib.Path(words[-1]).name}"
        yield Command("written", words, words[:-2], about, in_place(then))


# ---------------------------------------------------------------- what becomes of them


def try_command(command: Command, out: pathlib.Path) -> Outcome:
    """Runs a command, and what its line leads to."""
    done = run_program(command.words, out, TOO_LONG)
    fault = fault_of(done)
    if fault:
        return Outcome(False, fault)
    line = done.stderr.strip().splitlines()[-1]
    if not any(word in line for word in command.about.split("|")):
        return Outcome(False, f"not about {command.about}: {line}")
    if command.then:
        then = [*command.right, *command.then]
        again = run_program(then, out, LONGEST_WORK)
        worked = again.returncode == 0
    else:
        advice = advised(keys_of(command.words[0]), line)
        if not advice:
            return Outcome(True, line)
        # Flags are read in their order, and unknown ones are refused when all have been read.
        then = [*command.right, advice, UNKNOWN]
        again = run_program(then, out, TOO_LONG)
        worked = not fault_of(again) and UNKNOWN.partition("=")[0] in again.stderr
    if not worked:
        return Outcome(False, f"{line} | {' '.join(then)} | {again.stderr.strip()[-400:]}")
    return Outcome(True, line, " ".join(then))


def run_program(words: list[str], out: pathlib.Path, seconds: float) -> subprocess.CompletedProcess:
    """Runs a command in the folder `out`; one that takes too long has the exit code 124."""
    command = [sys.executable, str(ROOT / words[0]), *words[1:]]
    try:
        return subprocess.run(command, cwd=out, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace")
        return subprocess.CompletedProcess(command, 124, "", said)


def fault_of(done: subprocess.CompletedProcess) -> str:
    """Returns what is wrong with the end of a wrong command, or ""."""
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if done.returncode != 2:
        return f"exit code {done.returncode}: {done.stderr.strip()[-400:]}"
    if "Traceback" in done.stderr or len(errors) != 1 or lines[-1] != errors[0]:
        return f"not one line: {done.stderr.strip()[-400:]}"
    return ""


def advised(keys: Mapping[str, Key], line: str) -> str:
    """Returns the flag that a line of `utils/config` leads to, with a value; or "".

    keys: the settings of the program, by name.
    """
    meant = re.search(r"did you mean --([\w.]+)", line)
    if meant:
        return f"--{meant[1]}={as_text(keys[meant[1]].default)}"
    named = re.match(r"error: -*([\w.]+)", line)
    expected = re.search(r"expected (.*)", line)
    if not named or not expected:
        return ""
    choices = re.match(r"one of ([^,]+)", expected[1])
    if choices:
        return f"--{named[1]}={choices[1]}"
    least = least_of(expected[1])
    return f"--{named[1]}={least:g}" if least > -math.inf else ""


if __name__ == "__main__":
    config_lib.define_flags((), FLAGS)
    config_lib.run_main(main)
