"""The rules that keep the house in order: who may import whom, and how long a file may be.

What workflows, Dockerfiles and pages name must be there, and the tools must find nothing. Imports
are read from the syntax trees of all files, so that an import inside a function counts too.
The table of rooms stands in docs/architecture.md for people as well, and both must agree.
"""

import ast
import functools
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from benchmarks import style

# Each folder, and the folders of ours that its files may import; "all above" in this table.
MAY_IMPORT = {
    "configs": "",
    "drifting": "",
    "utils": "configs",
    "data": "configs utils",
    "metrics": "utils",
    "baselines": "drifting utils",
    "models": "drifting utils baselines",
    "evaluation": "configs utils data metrics baselines models",
    "training": "configs drifting utils data baselines models evaluation",
    "planning": "all above",
    "scripts": "all above",
    "benchmarks": "all above",
}
# The four programs at the top, which people start and which nothing but tests may import.
DOORS = ("train_drift.py", "pretrain_mae.py", "sample.py", "eval_fid.py")
DOORS_MAY_IMPORT = "configs utils evaluation training"
LONGEST_DOOR = 80
LONGEST_LINE = 100

# Files with more lines of code than style.LONGEST_FILE, and why each is one file.
LONG_FILES: dict[str, str] = {
    "configs/default.py": "the one table of all flags of the trainer, a row for each",
}


def may_import(room: str) -> list[str]:
    """Returns the rooms that a room, or a program at the top, may import."""
    if room in DOORS:
        return DOORS_MAY_IMPORT.split()
    if MAY_IMPORT[room] == "all above":
        rooms = list(MAY_IMPORT)
        return rooms[: rooms.index(room)]
    return MAY_IMPORT[room].split()


# ---------------------------------------------------------------- the files and their imports


@functools.cache
def sources() -> dict[str, pathlib.Path]:
    """Returns {module name: file} of every Python file of the project, tests left out."""
    files = [ROOT / door for door in DOORS]
    for room in MAY_IMPORT:
        files += sorted((ROOT / room).rglob("*.py"))
    return {module_name(file): file for file in files}


def module_name(file: pathlib.Path) -> str:
    """Returns "utils.config.values" for utils/config/values.py, and "data" for data/__init__.py."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


@functools.cache
def imports(module: str) -> set[str]:
    """Returns the modules of ours that `module` imports, anywhere in its file."""
    found = set()
    for node in ast.walk(ast.parse(sources()[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import; write the whole name"
            for alias in node.names:
                # `from data import digits` imports a file; `from data import load` a name of it.
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in sources() else node.module)
    return found & set(sources())


def room_of(module: str) -> str:
    """Returns the folder of a module; a program at the top is its own room."""
    return module.partition(".")[0]


# ---------------------------------------------------------------- who may import whom


def test_every_folder_with_python_has_a_row():
    folders = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("[!.]*/*.py")}
    assert folders - {"tests", "runs"} == set(MAY_IMPORT)


def test_the_table_has_no_way_around():
    """A folder that may be imported stands above in the table, so no two lead to each other."""
    above = set()
    for room in MAY_IMPORT:
        assert set(may_import(room)) <= above, f"{room} may import a room below it"
        above.add(room)


def test_the_page_has_the_same_table():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)/` \| .* \| (.*) \|$", page, re.MULTILINE)
    table = {}
    for room, allowed in rows:
        folders = " ".join(re.findall(r"`(\w+)`", allowed))
        table[room] = folders if allowed != "all above" else allowed
    assert table == MAY_IMPORT
    doors = re.search(r"The four programs import (.*), and only tests import one", page)
    assert doors and re.findall(r"`(\w+)`", doors[1]) == DOORS_MAY_IMPORT.split()


@pytest.mark.parametrize("room", [*MAY_IMPORT, *DOORS])
def test_imports_follow_the_arrows(room):
    name = room.removesuffix(".py")
    allowed = may_import(room)
    wrong = [
        f"{module} imports {target}"
        for module in sources()
        if room_of(module) == name
        for target in sorted(imports(module))
        if room_of(target) not in (name, *allowed)
    ]
    assert not wrong, f"{room} may import {allowed or 'nothing of ours'}: {wrong}"


def test_no_circles_between_files():
    """No file imports itself by way of others: each can be read after those it imports."""
    circles, finished = [], set()

    def visit(module, path):
        if module in path:
            circles.append([*path[path.index(module) :], module])
        elif module not in finished:
            for target in sorted(imports(module)):
                visit(target, [*path, module])
            finished.add(module)

    for module in sources():
        visit(module, [])
    assert not circles


def is_program(module: str) -> bool:
    """Whether a file does something when it is started."""
    body = ast.parse(sources()[module].read_text()).body
    return any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in body)


def test_nothing_imports_a_program():
    """What two programs need lies in a room, where both find it."""
    wrong = [
        f"{module} imports {target}"
        for module in sources()
        for target in sorted(imports(module))
        if is_program(target)
    ]
    assert not wrong


# ---------------------------------------------------------------- how long


@pytest.mark.parametrize("door", DOORS)
def test_doors_are_thin(door):
    """A door reads its flags and makes one call."""
    assert len((ROOT / door).read_text().splitlines()) <= LONGEST_DOOR


def test_files_are_short():
    """A longer file is cut by purpose, or says in LONG_FILES why not. Tests may be longer."""
    long = {
        str(file.relative_to(ROOT))
        for file in sources().values()
        if style.count_code_lines(file.read_text()) > style.LONGEST_FILE
    }
    assert long == set(LONG_FILES)


# ---------------------------------------------------------------- how it reads

PAGES = [
    *sources().values(),
    *sorted((ROOT / "tests").glob("*.py")),
    *sorted(ROOT.glob("*.[mt]*")),  # .md, .txt, .toml
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "scripts").glob("[!_]*.[sy]*")),  # .sh, .sbatch, .yaml
    *sorted((ROOT / "benchmarks").glob("*.sh")),
]


def test_lines_fit():
    """No line is over 100 columns, but Markdown tables and links."""
    wrong = []
    for file in PAGES:
        for number, line in enumerate(file.read_text().splitlines(), 1):
            may_be_long = "://" in line or (file.suffix == ".md" and line.startswith("|"))
            if len(line) > LONGEST_LINE and not may_be_long:
                wrong.append(f"{file.relative_to(ROOT)}:{number}")
    assert not wrong


def test_no_named_lambdas():
    """What has a name is a function, and can say what it does."""
    wrong = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in PAGES
        if file.suffix == ".py"
        for line in style.named_lambdas(ast.parse(file.read_text()))
    ]
    assert not wrong


def test_the_method_reads_like_a_page():
    """In drifting/ lines are short, and a tenth of them or more explain the others."""
    files = sorted((ROOT / "drifting").rglob("*.py"))
    counts = style.total(style.measure(file.read_text()) for file in files)
    assert counts.mean_line < 50
    assert counts.explained >= 0.1


# ---------------------------------------------------------------- what is named is there

DOCKERFILES = sorted(ROOT.glob("Dockerfile*"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))
MADE = {"snippet.py"}  # by commands of the workflows


def files_named(text: str) -> set[str]:
    """Returns the words of a command that look like files of ours."""
    words = re.findall(r"(?<![\w./$*-])[\w./-]+\.(?:py|sh|txt|lock|toml|yml|md)(?![\w*])", text)
    return {word.removeprefix("./") for word in words} - MADE


def test_requirement_files_that_are_named_are_there():
    pages = [*PAGES, *DOCKERFILES, *WORKFLOWS, *ACTIONS, ROOT / "docs" / "notebook.ipynb"]
    found = set()
    for page in pages:
        if page.name != "CHANGELOG.md":  # which tells of files that were
            named = re.findall(r"(?<!/)\brequirements[\w-]*\.(?:txt|lock)", page.read_text())
            assert all((ROOT / name).is_file() for name in named), page
            found.update(named)
    assert {"requirements.txt", "requirements.lock", "requirements-extra.txt"} <= found


def test_workflows_name_what_is_there():
    """They parse; jobs, actions of ours, scripts and tests that they name exist."""
    yaml = pytest.importorskip("yaml")
    inputs = {}
    for file in ACTIONS:
        action = yaml.safe_load(file.read_text())
        inputs[f"./{file.parent.relative_to(ROOT)}"] = set(action["inputs"])
        for step in action["runs"]["steps"]:
            for named in files_named(step.get("run", "")):
                assert (ROOT / named).is_file(), named
    for file in WORKFLOWS:
        workflow = yaml.safe_load(file.read_text())
        assert "jobs" in workflow and True in workflow  # YAML takes `on` for true
        for name, job in workflow["jobs"].items():
            assert set(job.get("needs", ())) <= set(workflow["jobs"]), name
            for step in job["steps"]:
                assert len({"uses", "run"} & set(step)) == 1, (name, step)
                if step.get("uses", "").startswith("./"):
                    assert set(step.get("with", ())) <= inputs[step["uses"]], step
                for named in files_named(step.get("run", "")):
                    assert (ROOT / named).is_file(), (name, named)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_images_copy_what_is_there(file):
    """What Dockerfiles copy exists, and their packages come from what they have copied."""
    text = file.read_text()
    copied = {word for line in re.findall(r"^COPY (.*)", text, re.M) for word in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    (installed,) = re.findall(r"^RUN pip install (.*)", text, re.M)
    assert files_named(installed) and files_named(installed) <= copied


# ---------------------------------------------------------------- the tools


def run_tool(*command: str):
    """Runs a program of the environment at the root of the project; fails with what it printed."""
    program = pathlib.Path(sys.executable).parent / command[0]
    done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_ruff_format():
    """`ruff format` writes every file the same way."""
    run_tool("ruff", "format", "--check", "--no-cache", ".")


def test_ruff_check():
    """No unused names, long lines, likely bugs. The rules are in pyproject.toml."""
    run_tool("ruff", "check", "--no-cache", ".")


def test_types():
    """They are right in the folders that pyproject.toml names."""
    run_tool("ty", "check", "--python", sys.prefix)
