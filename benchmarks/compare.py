"""Two commits in turn, in one run, so that the machine's moods hit both: python benchmarks/compare.py OLD NEW benchmarks/step.py --recipe digits

Each commit is checked out into a folder of its own and its benchmark started `--rounds` times (the first argument, before the commits), OLD and NEW taking turns. Prints one
JSON line: for every number of the benchmark's last line the medians of both and their ratio. NEW may be "." for the working tree.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
ALONE = {
    "PYTHONPATH": "",
    "JAX_ENABLE_COMPILATION_CACHE": "0",
}  # neither code nor programs of the other commit


def main(words):
    rounds = 3
    if words and words[0].startswith("--rounds="):
        given = words.pop(0).partition("=")[2]
        rounds = int(given) if given.isdecimal() else 0
    if rounds < 1 or len(words) < 3 or words[0].startswith("-"):
        sys.exit(
            "error: expected [--rounds=3] OLD NEW BENCHMARK [FLAGS], such as HEAD~1 . benchmarks/step.py --recipe digits"
        )
    commits, command, results = words[:2], words[2:], {0: [], 1: []}
    with tempfile.TemporaryDirectory() as scratch:
        folders = [
            check_out(commit, pathlib.Path(scratch) / str(i)) for i, commit in enumerate(commits)
        ]
        for _ in range(rounds):
            for i, folder in enumerate(folders):
                done = subprocess.run(
                    [sys.executable, *command],
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    env=os.environ | ALONE,
                )
                if done.returncode:
                    sys.exit(
                        f"error: {commits[i]}: {' '.join(command)} ended with {done.returncode}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}"
                    )
                results[i].append(json.loads(done.stdout.strip().splitlines()[-1]))
    numbers = [
        k
        for k, v in results[1][0].items()
        if isinstance(v, int | float) and not isinstance(v, bool) and k in results[0][0]
    ]
    median = lambda i, k: statistics.median(r[k] for r in results[i])
    table = {
        k: {
            "old": median(0, k),
            "new": median(1, k),
            "ratio": round(median(1, k) / median(0, k), 3) if median(0, k) else None,
        }
        for k in numbers
    }
    print(
        json.dumps(
            {"old": commits[0], "new": commits[1], "command": " ".join(command), "rounds": rounds}
            | table
        )
    )


def check_out(commit: str, folder: pathlib.Path) -> pathlib.Path:
    """The files of a commit in a folder; "." is the working tree itself."""
    if commit == ".":
        return ROOT
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True)
    if archive.returncode:
        sys.exit(f"error: {archive.stderr.decode().strip()}")
    folder.mkdir()
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    return folder


if __name__ == "__main__":
    main(sys.argv[1:])
