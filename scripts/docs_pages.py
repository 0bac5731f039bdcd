"""A hook of MkDocs: the pages of the site that are generated, see mkdocs.yml.

flags.md           every flag of every program, from the tables of flags
recipes.md         every recipe, from the headers of configs/
api/NAME.md        the library `drifting`, from its docstrings; nothing is imported for it
gallery.md         every figure of the docs
contributing.md    CONTRIBUTING.md
changes.md         CHANGELOG.md
"""

import ast
import html
import importlib
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from configs.default import DISTRIBUTED, TABLE, Key
from configs.mae.default import MAE_TABLE
from evaluation.flags import EVALUATION, SAMPLING
from utils.config.values import as_text, expected

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "drifting"
# Scripts with flags of their own. They are imported now: MkDocs forgets the path after this line.
NAMES = ("export", "play", "compare", "plan", "cache_latents", "compute_fid_stats", "toy2d")
SCRIPTS = {name: importlib.import_module(f"scripts.{name}") for name in NAMES}


# ---------------------------------------------------------------- what MkDocs calls


def on_config(config: Any) -> Any:
    """Adds the pages of the API to the navigation."""
    for section in config["nav"]:
        if "Reference" in section:
            section["Reference"].append({"The library drifting": list(api_paths())})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages."""
    File = importlib.import_module("mkdocs.structure.files").File
    for path, text in generated_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Returns a page whose links out of docs/ lead to the pages made of those files."""
    links = {"../CONTRIBUTING.md": "contributing.md", "../CHANGELOG.md": "changes.md"}
    for before, after in links.items():
        markdown = markdown.replace(f"]({before}", f"]({after}")
    return markdown


def generated_pages() -> dict[str, str]:
    """Returns {path: Markdown} of all pages that are not in docs/."""
    pages = {
        "flags.md": flags_page(),
        "recipes.md": recipes_page(),
        "gallery.md": gallery_page(),
    }
    for name, file in (("contributing", "CONTRIBUTING"), ("changes", "CHANGELOG")):
        text = (ROOT / f"{file}.md").read_text(encoding="utf-8")
        pages[f"{name}.md"] = text.replace("](docs/", "](")
    for path, module in api_paths().items():
        pages[path] = api_page(module)
    return pages


# ---------------------------------------------------------------- flags


def flags_page() -> str:
    """Returns the reference of all flags."""
    mae_only = [key for key in MAE_TABLE if key not in TABLE]
    parts = [
        "# Every flag\n\nMade of the tables that the programs read (`configs/default.py` and "
        "others). Flags are `--name value` or `--name=value`; a list has commas, and a switch is "
        "on without a value. `--help` of a program prints its own, and `--dry_run` what they "
        "come to.\n",
        "## train_drift.py\n",
        *grouped_tables(TABLE),
        "### distributed\n\nOf one process of a job; `pretrain_mae.py` and `eval_fid.py` have them "
        "too.\n",
        table(DISTRIBUTED),
        "## pretrain_mae.py\n\nWhat it does not share with `train_drift.py`, or has another "
        "default for.\n",
        table(mae_only),
        "## eval_fid.py\n",
        table(key for key in EVALUATION if key not in DISTRIBUTED),
        "## sample.py\n",
        table(SAMPLING),
    ]
    for name, module in SCRIPTS.items():
        about = (module.__doc__ or "").partition("\n")[0]
        parts.append(f"## scripts/{name}.py\n\n{about}\n\n{table(module.FLAGS)}")
    return "\n".join(parts)


def grouped_tables(keys: Iterable[Key]) -> Iterator[str]:
    """Yields a title and a table for each group of flags."""
    groups: dict[str, list[Key]] = {}
    for key in keys:
        groups.setdefault(key.name.rpartition(".")[0], []).append(key)
    for group, rows in groups.items():
        yield f"### {group or 'the run'}\n"
        yield table(rows)


def table(keys: Iterable[Key]) -> str:
    """Returns a table of flags."""
    lines = ["| flag | default | meaning | accepts |", "|---|---|---|---|"]
    for key in keys:
        default = as_text(key.default)
        shown = f"`{default}`" if default else ""
        cells = [f"`--{key.name}`", shown, html.escape(key.help, quote=False), expected(key)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- recipes


def recipes_page() -> str:
    """Returns the headers of all recipes: what each learns, on what, and what to expect."""
    parts = [
        "# Every recipe\n\nMade of the headers of the files in `configs/`. A recipe whose result "
        "nobody has measured says so.\n"
    ]
    programs = {"configs": "train_drift.py", "configs/mae": "pretrain_mae.py"}
    for folder, program in programs.items():
        parts.append(f"## {program}\n")
        for file in sorted((ROOT / folder).glob("*.py")):
            header = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            title, _, rest = header.partition("\n\n")
            if re.search(r"^Command ", rest, re.MULTILINE):
                parts.append(f"### {file.stem}\n\n{title}\n\n```text\n{rest}\n```\n")
    return "\n".join(parts)


# ---------------------------------------------------------------- the API


def api_paths() -> dict[str, pathlib.Path]:
    """Returns {path of the page: module} of the library, the package first."""
    paths = {}
    for file in sorted(LIBRARY.rglob("*.py"), key=lambda file: (file.name != "__init__.py", file)):
        name = dotted(file)
        paths[f"api/{name}.md"] = file
    return paths


def dotted(file: pathlib.Path) -> str:
    """Returns the name by which a file is imported."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def api_page(file: pathlib.Path) -> str:
    """Returns what a module says of itself, of its public functions, and of its classes."""
    source = file.read_text(encoding="utf-8")
    module = ast.parse(source)
    parts = [f"# {dotted(file)}\n", markdown_of(ast.get_docstring(module) or "")]
    for node in public(module.body):
        parts.append(f"## {node.name}\n\n{described(node, source)}")
        if isinstance(node, ast.ClassDef):
            for method in public(node.body):
                parts.append(f"### {node.name}.{method.name}\n\n{described(method, source)}")
    return "\n".join(parts)


def public(body: Iterable[ast.stmt]) -> list[ast.FunctionDef | ast.ClassDef]:
    """Returns the functions and classes among statements that others may use."""
    found = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [node for node in found if not node.name.startswith("_")]


def described(node: Any, source: str) -> str:
    """Returns the first lines of a definition as code, and its docstring."""
    return f"```python\n{head(node, source)}\n```\n\n{markdown_of(ast.get_docstring(node) or '')}"


def head(node: Any, source: str) -> str:
    """Returns the text of a definition: a signature, or a class with its fields."""
    lines = source.splitlines()
    if isinstance(node, ast.FunctionDef):
        last = node.body[0].lineno - 1
        return clean(lines[node.lineno - 1 : last]).rstrip(":")
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    shown = lines[node.lineno - 1 : node.lineno]
    for field in fields:
        shown += lines[field.lineno - 1 : field.end_lineno]
    return clean(shown)


def clean(lines: list[str]) -> str:
    """Returns lines of code without their common indentation."""
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[indent:] for line in lines).rstrip()


SECTIONS = ("Args", "Returns", "Raises", "Yields", "Attributes")


def markdown_of(docstring: str) -> str:
    """Returns a docstring in Markdown: its sections as lists, all else as it stands."""
    lines, section = [], ""
    for line in html.escape(docstring, quote=False).splitlines():
        title = line.strip().removesuffix(":")
        if title in SECTIONS and line == f"{title}:":
            section = title
            lines += ["", f"**{title}**", ""]
        elif section and line and not line.startswith(" "):
            section = ""
            lines.append(line)
        elif section in ("Returns", "Yields"):
            lines.append(line.strip())
        elif section:
            lines.append(item(line))
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def item(line: str) -> str:
    """Returns a line of a section: "    name: what" begins an item, deeper lines go on."""
    found = re.fullmatch(r" {4}([\w*][\w*, ()]*): (.*)", line)
    if found:
        return f"- `{found[1]}`: {found[2]}"
    return f"    {line.strip()}" if line.strip() else ""


# ---------------------------------------------------------------- the gallery


def gallery_page() -> str:
    """Returns every figure of the docs, with the page that explains it."""
    parts = ["# Gallery\n\nEach figure stands on the page that says how it was made.\n"]
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for text, path in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", page.read_text()):
            where = f"[{page.stem.capitalize()}]({page.name})"
            if page.name == "README.md":
                where = "The demo, `scripts/demo.sh`"
            path = path.removeprefix("docs/")
            parts.append(f"## {text}\n\n![{text}]({path})\n\n{where}\n")
    return "\n".join(parts)
