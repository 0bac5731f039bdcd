"""Installing: the locks of pip and uv, scripts/setup.sh, and the method as a library.

The library is built, checked, installed into an empty environment and used there:
./scripts/test.sh -m slow tests/test_install.py      needs the package index, and build and twine
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from conftest import ROOT

import drifting

NO_INDEX = ("Could not find a version", "No matching distribution", "Failed to establish")
# What the base installation must not grow by: packages of the trainer and of single features.
NOT_OURS = {"datasets", "wandb", "tensorflow-datasets", "scikit-learn", "matplotlib", "gradio"}
NOT_OURS |= {"huggingface_hub", "trackio", "tensorboard", "mkdocs", "jax2onnx", "onnx"}
# As `python -c` of scripts/setup.sh sees an environment of a version that does not fit.
OTHER_PYTHON = "#!/bin/sh\nexit 1\n"


def test_uv_installs_the_versions_of_the_lock():
    """uv.lock has each package of requirements.lock, in the same version and no other."""
    lock = (ROOT / "requirements.lock").read_text()
    ours = {plain(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock, re.M)}
    theirs = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    theirs = [(plain(package["name"]), package.get("version")) for package in theirs]
    how = "the comment above dependency-groups in pyproject.toml says how to make uv.lock"
    assert sorted(ours.items()) == sorted(pair for pair in theirs if pair[0] in ours), how


def plain(name: str) -> str:
    """Returns the name of a package as the index knows it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("python", "lock_of_before", "code", "words"),
    [(OTHER_PYTHON, "", 2, "rm -r .venv"), ("", "the lock", 0, "")],
    ids=["another Python", "done before"],
)
def test_setup_with_an_environment_that_is_there(tmp_path, python, lock_of_before, code, words):
    folder = tmp_path / ".venv" / "bin"
    for name in ("python", "pytest"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(python)
        (folder / name).chmod(0o755)
    (tmp_path / "requirements.lock").write_text("the lock")
    (folder.parent / "requirements.lock").write_text(lock_of_before)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    script = tmp_path / "scripts" / "setup.sh"
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run([script], capture_output=True, text=True, env=environment)
    assert done.returncode == code and words in done.stderr, done.stderr
    assert not (code == 0 and done.stdout)


# ---------------------------------------------------------------- the library


def run(*command, cwd=ROOT):
    """Returns what a command prints; the test is skipped where the index is out of reach."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    if done.returncode and any(text in done.stdout + done.stderr for text in NO_INDEX):
        pytest.skip("no package index here")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the project, in which building leaves its traces."""
    ignored = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("source") / "drift", ignore=ignored)


@pytest.mark.slow
def test_it_builds_and_the_index_would_take_it(source):
    pytest.importorskip("build", reason="pip install build twine")
    pytest.importorskip("twine", reason="pip install build twine")
    run(sys.executable, "-m", "build", cwd=source)
    files = sorted((source / "dist").iterdir())
    assert [file.suffix for file in files] == [".whl", ".gz"]
    assert "PASSED" in run(sys.executable, "-m", "twine", "check", "--strict", *files)
    names = zipfile.ZipFile(files[0]).namelist()
    assert {"drifting/step.py", "drifting/fields/kernel.py", "drifting/py.typed"} <= set(names)
    assert all(name.startswith(("drifting/", "jax_drift-")) for name in names)


@pytest.mark.slow
def test_the_snippet_of_the_readme_runs_in_an_empty_environment(source, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", source)
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    empty = tmp_path / "empty"
    empty.mkdir()
    generated, real = map(float, run(python, "-c", snippet, cwd=empty).split())
    assert abs(generated - 3) < 0.5 and abs(real - 3) < 0.5
    where = "import drifting; print(drifting.__file__, drifting.__version__)"
    file, version = run(python, "-c", where, cwd=empty).split()
    assert version == drifting.__version__ and file.startswith(str(tmp_path / "env"))
    found = json.loads(run(python, "-m", "pip", "list", "--format=json"))
    assert not {package["name"] for package in found} & NOT_OURS
    ours = sum(f.stat().st_size for f in pathlib.Path(file).parent.rglob("*") if f.suffix != ".pyc")
    assert ours < 1_000_000
    print(f"ours: {ours / 1e3:.0f} kB; {len(found)} packages")  # -s shows it
