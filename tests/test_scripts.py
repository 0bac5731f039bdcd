"""The scripts for the shell: they parse, and say what is missing."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPTS = sorted(
    path
    for folder in ("scripts", "benchmarks")
    for path in (ROOT / folder).iterdir()
    if path.suffix in (".sh", ".sbatch")
)


@pytest.fixture
def clone(tmp_path):
    """A folder with the scripts, and a trainer that prints its name and arguments. No .venv."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "train_drift.py").write_text("import sys; print(sys.executable, sys.argv)\n")
    return tmp_path


def start(clone, script, **variables):
    """Starts a script with the plain tools of the machine, and no Python, in PATH."""
    tools = clone / "tools"
    tools.mkdir(exist_ok=True)
    for tool in ("bash", "dirname", "env"):
        if not (tools / tool).exists():
            (tools / tool).symlink_to(str(shutil.which(tool)))
    environment = {"PATH": str(tools), "HOME": os.environ.get("HOME", "/")} | variables
    return subprocess.run(
        [clone / "scripts" / script, "--seed", "1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_shell_understands_it(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.parametrize("script", ["train.sh", "train_cifar10.sh"])
def test_a_training_without_packages_asks_for_the_setup(clone, script):
    done = start(clone, script)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.splitlines() == [
        "error: no Python with the packages of requirements.lock; run ./scripts/setup.sh first"
    ]
    bare = clone / "tools" / "python3"  # one without the packages
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    done = start(clone, script)
    assert done.returncode == 2 and "run ./scripts/setup.sh first" in done.stderr
    done = start(clone, script, PYTHON="nowhere")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "PYTHON=nowhere is no Python with the packages" in done.stderr


@pytest.mark.parametrize("place", ["PYTHON", ".venv"])
def test_a_training_starts_where_the_packages_are(clone, place):
    variables = {"PYTHON": sys.executable}
    if place == ".venv":
        python = clone / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        variables = {}
    done = start(clone, "train_cifar10.sh", **variables)
    assert done.returncode == 0, done.stderr
    assert pathlib.Path(done.stdout.split()[0]).exists()
    assert "['train_drift.py', '--dataset_name', 'cifar10', '--seed', '1']" in done.stdout
