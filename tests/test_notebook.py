"""The notebook: its commands parse, and all of it runs at toy size.

./scripts/test.sh -m slow tests/test_notebook.py      needs ipython and requirements-web.txt
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import test_readme
from conftest import ROOT
from test_web_page import with_exporter

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
TOY = {'DATA = "mnist_5k"': 'DATA = "digits"', "STEPS = 1300": "STEPS = 110"}


def code_of(notebook):
    """Returns the code of a notebook, cell by cell, without that of the installation."""
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and "install" not in cell["metadata"].get("tags", ()):
            cells.append("".join(cell["source"]))
    return "\n".join(cells)


def test_it_has_no_outputs_and_names_programs_that_are_there():
    notebook = json.loads(NOTEBOOK.read_text())
    lines = code_of(notebook).splitlines()
    programs = {line.split()[1] for line in lines if line.startswith("!python")}
    assert len(programs) == 5 and all((ROOT / program).is_file() for program in programs)
    assert all(not cell.get("outputs") for cell in notebook["cells"])


def commands():
    """Returns the commands of the notebook, with the values of its variables."""
    code = code_of(json.loads(NOTEBOOK.read_text()))
    lines = "\n".join(line[1:] for line in code.splitlines() if line.startswith("!python "))
    for name, value in re.findall(r"^([A-Z]+) = (.*)", code, re.MULTILINE):
        lines = re.sub(rf"\${name}\b", value.strip('"'), lines)
    return test_readme.commands_of(f"```bash\n{lines}\n```")


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_its_commands_parse(command, monkeypatch):
    test_readme.test_commands_parse(command, monkeypatch)


@pytest.mark.slow
def test_it_runs_at_toy_size(tmp_path):
    pytest.importorskip("IPython", reason="pip install ipython")
    with_exporter()
    if shutil.which("npm") is None:
        pytest.skip("npm is needed for the page")
    ignored = shutil.ignore_patterns(".*", "runs", "tests", "__pycache__")
    copy = shutil.copytree(ROOT, tmp_path / "jax-drift", ignore=ignored)
    (copy / ".cache").symlink_to(ROOT / ".cache")
    text = code_of(json.loads(NOTEBOOK.read_text()))
    for full, toy in TOY.items():
        assert full in text
        text = text.replace(full, toy)
    (copy / "toy.ipy").write_text(text.replace("!python ", f"!{sys.executable} "))
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", "toy.ipy"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=environment)
    output = done.stdout + done.stderr
    assert done.returncode == 0 and "Error" not in output and "error:" not in output, output
    run = copy / "runs" / "notebook"
    assert (run / "samples" / "grid.png").is_file() and (run / "fid.csv").is_file()
    assert {"index.html", "model.onnx"} <= set(zipfile.ZipFile(copy / "page.zip").namelist())
