"""The docs as a site: every flag and every function of the library, and no warning.

./scripts/test.sh -m slow tests/test_docs_site.py
"""

import functools
import http.server
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import pytest
from browser import opened
from conftest import ROOT
from test_web_page import Quiet

from configs.default import DISTRIBUTED
from evaluation.flags import EVALUATION, SAMPLING
from scripts import docs_pages
from utils.config import KEYS, MAE_KEYS, recipes


def test_every_flag_has_a_row():
    text = docs_pages.flags_page()
    found = set(re.findall(r"^\| `--([\w.]+)` \|", text, re.MULTILINE))
    keys = {*KEYS, *MAE_KEYS, *(key.name for key in (*DISTRIBUTED, *EVALUATION, *SAMPLING))}
    assert keys <= found and {"push", "share", "target"} <= found
    assert "| `--drift.n_neg` | `64` |" in text and "runs/&lt;dataset_name&gt;" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)


def test_every_recipe_has_its_header():
    text = docs_pages.recipes_page()
    names = set(re.findall(r"^### (\w+)$", text, re.MULTILINE))
    assert names == {*recipes(), *recipes("configs.mae")}
    assert text.count("\nMeasured ") == len(re.findall("^### ", text, re.MULTILINE))


def test_the_library_is_described():
    pages = docs_pages.generated_pages()
    loss = pages["api/drifting.loss.md"]
    assert "## drift_loss\n\n```python\ndef drift_loss(\n    gen: Float" in loss
    assert "\n**Args**\n\n- `gen`: " in loss and "## _" not in loss
    assert "    L_j        = mean (phi~(x)" in loss  # a formula stays a block
    names = {path.removeprefix("api/").removesuffix(".md") for path in pages if "api/" in path}
    assert {"drifting", "drifting.fields.kernel", "drifting.step"} <= names
    assert "](architecture.md)" in pages["contributing.md"]


DOCSTRING = """Does it.

Args:
    a, b: two
        numbers.
    c: a <text>.

Returns:
    Their sum.

More.
"""


def test_sections_become_lists():
    lines = docs_pages.markdown_of(DOCSTRING).splitlines()
    text = "\n".join(line for line in lines if line)
    assert text == (
        "Does it.\n**Args**\n- `a, b`: two\n    numbers.\n- `c`: a &lt;text&gt;.\n**Returns**\n"
        "Their sum.\nMore."
    )


# ---------------------------------------------------------------- the whole site


def build(folder: pathlib.Path, out: pathlib.Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(out)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    if not importlib.util.find_spec("material"):
        pytest.skip("pip install -r requirements-docs.txt")
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0 and "WARNING -" not in done.stderr, done.stderr
    handler = functools.partial(Quiet, directory=tmp_path / "site")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        for width, name in ((1280, "index"), (390, "flags"), (1280, "api/drifting.step")):
            viewport = {"width": width, "height": 900}
            with opened(f"{address}{name}.html", viewport=viewport) as page:
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                assert page.locator("h1").count() == 1
                elsewhere = [u for u in page.asked if not u.startswith(("data:", address))]
                assert page.asked and not elsewhere
        server.shutdown()


@pytest.mark.slow
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path):
    if not importlib.util.find_spec("material"):
        pytest.skip("pip install -r requirements-docs.txt")
    ignored = shutil.ignore_patterns(".*", "runs", "tests", "__pycache__")
    copy = shutil.copytree(ROOT, tmp_path / "copy", ignore=ignored, symlinks=True)
    with open(copy / "docs" / "step.md", "a") as page:
        page.write("\n[nowhere](training.md#no-such-heading)\n")
    done = build(copy, tmp_path / "site")
    assert done.returncode != 0 and "no-such-heading" in done.stderr
