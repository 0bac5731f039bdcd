"""Compares two commits, which take turns in one run.

    python benchmarks/compare.py OLD NEW benchmarks/step.py --recipe digits
    python benchmarks/compare.py --rounds=5 HEAD~1 . benchmarks/step.py --setting encoder

Each commit is checked out into a folder of its own, and its benchmark is started --rounds times,
OLD and NEW in turn: what else the machine does meanwhile hits both. NEW may be "." for the working
tree. Prints one line of JSON: for every number of the benchmark's last line the medians of both,
and their ratio.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Neither the code nor the compiled programs of the other commit are found.
ALONE = {"PYTHONPATH": "", "JAX_ENABLE_COMPILATION_CACHE": "0"}


def main(words: list[str]) -> None:
    rounds, old, new, command = parse(words)
    old_rows, new_rows = [], []
    with tempfile.TemporaryDirectory() as scratch:
        old_folder = check_out(old, pathlib.Path(scratch) / "old")
        new_folder = check_out(new, pathlib.Path(scratch) / "new")
        for _ in range(rounds):
            old_rows.append(run(command, old, old_folder))
            new_rows.append(run(command, new, new_folder))
    facts = {"old": old, "new": new, "command": " ".join(command), "rounds": rounds}
    print(json.dumps(facts | medians(old_rows, new_rows)))


def parse(words: list[str]) -> tuple[int, str, str, list[str]]:
    """Returns (rounds, OLD, NEW, the benchmark with its flags) of the command line."""
    rounds, rest = 3, list(words)
    if rest and rest[0].startswith("--rounds="):
        given = rest.pop(0).partition("=")[2]
        rounds = int(given) if given.isdecimal() else 0
    if rounds < 1 or len(rest) < 3 or rest[0].startswith("-"):
        sys.exit(
            "error: expected [--rounds=3] OLD NEW BENCHMARK [FLAGS], such as HEAD~1 . "
            "benchmarks/step.py --recipe digits"
        )
    return rounds, rest[0], rest[1], rest[2:]


def check_out(commit: str, folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder with the files of a commit; "." is the working tree itself."""
    if commit == ".":
        return ROOT
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True)
    if archive.returncode:
        sys.exit(f"error: {archive.stderr.decode().strip()}")
    folder.mkdir()
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    return folder


def run(command: list[str], commit: str, folder: pathlib.Path) -> dict[str, Any]:
    """Returns what the last line of a benchmark says."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | ALONE,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        program = " ".join(command)
        sys.exit(f"error: {commit}: {program} ended with {done.returncode}: {lines[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def medians(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns {name: {"old", "new", "ratio"}} of the numbers that both have."""
    table = {}
    for name in new[0]:
        if is_number(new[0][name]) and is_number(old[0].get(name)):
            before = statistics.median(row[name] for row in old)
            after = statistics.median(row[name] for row in new)
            ratio = round(after / before, 3) if before else None
            table[name] = {"old": before, "new": after, "ratio": ratio}
    return table


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


if __name__ == "__main__":
    main(sys.argv[1:])
