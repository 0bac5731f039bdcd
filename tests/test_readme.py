"""The pages say what is true: their snippets run, their commands parse, what they name exists."""

import ast
import re
import runpy
import shlex
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from conftest import ROOT

from configs.default import OF_TRAINERS
from utils import config as config_lib
from utils.config import KEYS, MAE_KEYS

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES if page.exists()}
SNIPPETS = {
    page: re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)
    for page in ("docs/library.md", "docs/metrics.md")
}

every_page = pytest.mark.parametrize("page", PAGES)


# ---------------------------------------------------------------- snippets


def run(i, page="docs/library.md"):
    """Runs snippet i of a page and returns its variables."""
    names = {}
    exec(compile(SNIPPETS[page][i], f"snippet {i} of {page}", "exec"), names)
    return names


def test_generate():
    names = run(0)
    assert names["images"].shape == (4, 32, 32, 3) and np.isfinite(names["images"]).all()


def test_loss_and_gradient():
    """A small step against the gradient brings the generated images nearer to the real ones."""
    names = run(1)
    generated, real, gradient = names["generated"], names["real"], names["gradient"]
    assert gradient.shape == (32, 8, 8, 1) and jnp.abs(gradient).max() > 0
    moved = generated - 0.1 * gradient / jnp.abs(gradient).max()

    def distance(images):
        return jnp.linalg.norm(images.mean(0) - real.mean(0))

    assert distance(moved) < distance(generated)


def test_a_loop_of_your_own_learns():
    """The linear generator ends with the mean and the spread of its data."""
    params = run(2)["state"].ema["0.99"]
    np.testing.assert_allclose(params["b"], [3, 3], atol=0.3)
    spread = np.sqrt(np.sum(np.asarray(params["w"]) ** 2, 0))
    np.testing.assert_allclose(spread, [1, 0.2], atol=0.25)


def test_scores_of_arrays(capsys):
    """Half of the digits against the others, brighter ones, and one function by itself."""
    scores = run(0, "docs/metrics.md")["scores"]
    assert {"fd_pixels", "kd_pixels", "precision", "density", "class_agreement"} <= scores.keys()
    assert {"fdr_pixels", "memorised", "fd_pixels_error", "recall_error"} <= scores.keys()
    assert 0.5 < scores["fdr_pixels"] < 2 and scores["class_agreement"] > 0.9
    assert "fd_pixels" in capsys.readouterr().out
    names = run(1, "docs/metrics.md")
    assert names["worse"] > 2 * names["distance"] > 0 and 0 < names["recall"] <= 1


# ---------------------------------------------------------------- commands


def code_of(text: str) -> list[str]:
    """Returns the command lines of a page: those of its bash blocks, and its inline code."""
    text = re.sub(r"\\\n\s*", " ", text)  # a line that goes on
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return lines + [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose)]


def commands_of(text: str) -> list[list[str]]:
    """Returns [program, argument, ...] of each Python program that a page runs with arguments."""
    commands = []
    for line in code_of(text):
        match = re.search(r"python ([\w/]+\.py)\b(.*)", line)
        if match:
            words = shlex.split(match[2].split(" &")[0], comments=True)
            commands.append([match[1], *without_placeholders(words)])
    return commands


def without_placeholders(words: list[str]) -> list[str]:
    """Drops values that stand for others, such as S or ..., and the flags before them."""
    kept = []
    for word in words:
        if re.fullmatch(r"[A-Z_]+|\.\.\.|\$\w+", word):
            if kept and kept[-1].startswith("--"):
                kept.pop()
        else:
            kept.append(word)
    return kept


def has_flags(command: list[str]) -> bool:
    """Whether the program reads flags of ours; a few benchmarks take plain words."""
    return "run_main(" in (ROOT / command[0]).read_text() and "--help" not in command


COMMANDS = [command for text in PAGES.values() for command in commands_of(text)]
COMMANDS = sorted({tuple(command) for command in COMMANDS if has_flags(command)})


def test_commands_are_found():
    assert len(COMMANDS) >= 40
    assert {"train_drift.py", "sample.py", "eval_fid.py"} <= {command[0] for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_parse(command, monkeypatch):
    """Every command is understood by the program that it names, which stops before its work."""
    program, *arguments = command
    parsed = []

    def parse_alone(main, flag_values=flags.FLAGS):
        # scripts/compare.py has taken its runs out of the command line by now.
        parsed.append(config_lib.parse(sys.argv, flag_values))

    before = set(flags.FLAGS)
    monkeypatch.setattr(config_lib, "run_main", parse_alone)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path, str((ROOT / program).parent)])
    try:
        runpy.run_path(str(ROOT / program), run_name="__main__")
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
    assert parsed


def files_started(text: str) -> set[str]:
    """Returns the scripts and lists of packages that the commands of a page name."""
    found = set()
    for line in code_of(text):
        found |= set(re.findall(r"python[\d.]* (?:\./)?([\w/-]+\.py)\b", line))
        for word in line.split():
            match = re.fullmatch(r"(?:\./)?([\w/-]+\.(?:sh|sbatch)|requirements[\w.-]*)", word)
            if match and "NAME" not in word:
                found.add(match[1])
    return found


def test_files_of_commands_are_found():
    text = "`./scripts/a.sh --x 1`, `sbatch --nodes 2 b.sbatch` and `python -m http.server`\n"
    text += (
        "```bash\npip install -q -r requirements-gs.txt\nX=1 python3 benchmarks/e.py && ./f.sh\n```"
    )
    expected = {"scripts/a.sh", "b.sbatch", "requirements-gs.txt", "benchmarks/e.py", "f.sh"}
    assert files_started(text) == expected
    found = set.union(*map(files_started, PAGES.values()))
    assert {"scripts/setup.sh", "scripts/demo.sh", "scripts/slurm.sbatch", "sample.py"} <= found


@every_page
def test_files_of_commands_exist(page):
    missing = {name for name in files_started(PAGES[page]) if not (ROOT / name).is_file()}
    assert not missing


@every_page
def test_settings_exist(page):
    """Every setting that a page names, such as --drift.n_pos, is one."""
    known = {*KEYS, *MAE_KEYS, *(key.name for key in OF_TRAINERS)}
    groups = {name.partition(".")[0] for name in known if "." in name}
    named = set(re.findall(rf"--((?:{'|'.join(groups)})\.\w+)", PAGES[page]))
    assert named <= known


# ---------------------------------------------------------------- files and names

ROOMS = sorted(path.name for path in ROOT.glob("[!.]*") if path.is_dir() and path.name != "runs")
# Folders of the paper's release on the Hugging Face hub, which look like ours.
ON_THE_HUB = ("models/gen/jax/", "models/mae/jax/")


def files_named_in(text: str) -> set[str]:
    """Returns what looks like a file or a folder of the project; * may stand for letters."""
    named = set(re.findall(rf"(?<![\w./:-])((?:{'|'.join(ROOMS)})/[\w./*-]*)", text))
    named |= set(re.findall(r"(?<![\w./*-])([\w-]+\.(?:py|md|toml|txt|lock|cff|ini))\b", text))
    placeholders = {name for name in named if "NAME" in name or name.startswith(ON_THE_HUB)}
    return {name.rstrip(".") for name in named - placeholders}


@every_page
def test_files_exist(page):
    folder = (ROOT / page).parent
    missing = {
        name
        for name in files_named_in(PAGES[page])
        if not any(ROOT.glob(name)) and not any(folder.glob(name))
    }
    assert not missing


# What the code names as an example of a file to add.
EXAMPLES = {"data/flowers.py", "models/encoders/clip.py"}
CODE = [
    path for room in ROOMS for path in (ROOT / room).rglob("*") if room not in ("docs", "tests")
]
CODE = [path for path in CODE if path.suffix in (".py", ".sh", ".sbatch", ".yaml")]


def test_files_that_the_code_names_exist():
    """Docstrings, comments and messages name files by their place, and that is where they are."""
    for path in CODE:
        named = {name for name in files_named_in(path.read_text()) if "/" in name}
        missing = {name for name in named - EXAMPLES if not any(ROOT.glob(name))}
        assert not missing, path


def anchors_of(text: str) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", PAGES[page]):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors_of(path.read_text()), anchor


@every_page
def test_python_names_exist(page):
    """`drifting.loss.drift_loss` is a name at the top of drifting/loss.py, or a module."""
    for name in re.findall(rf"`((?:{'|'.join(ROOMS)})\.[\w.]+)", PAGES[page]):
        is_other = name in KEYS or name.endswith((".py", ".md", ".jsonl"))
        assert is_other or is_defined(name), name


def is_defined(name: str) -> bool:
    """Whether a dotted name is a module, or a function, class or constant in one."""
    parts = name.split(".")
    if is_module(parts):
        return True
    module, attribute = parts[:-1], parts[-1]
    path = ROOT.joinpath(*module)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.exists():
        return False
    return any(attribute in names_of(node) for node in ast.parse(path.read_text()).body)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_names_are_in_the_file_beside_them(page):
    """`measure` in `drifting/measure.py` is defined there; of `Job.checkpoint` the method is."""
    beside = re.findall(r"`([A-Za-z_.]+)`\s+(?:in|of)\s+`([\w/]+\.py)`", PAGES[page])
    beside = [(name, file) for name, file in beside if not name.endswith(".py")]
    assert len(beside) >= 4
    for name, file in beside:
        place = ast.parse((ROOT / file).read_text())
        for part in name.split("."):
            inner = {known: node for node in place.body for known in names_of(node)}
            assert part in inner, f"{name} is not in {file}"
            place = inner[part]


def names_of(node: ast.stmt) -> set[str]:
    """Returns the names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    return set()


def is_module(parts: list[str]) -> bool:
    path = ROOT.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").exists()
