"""How dense the pages of a project are, as a Markdown table with a row for each folder.

    python benchmarks/style.py                      this project
    python benchmarks/style.py PATH/TO/ANOTHER      any other project of Python files

Tests are left out. Everything is read from the tokens and the syntax trees of the files, so a `#`
in a string is no comment, and a string in a call is no docstring. The mean is that of the lines
that are not empty; shares are of all lines. Only the standard library is needed.
"""

import argparse
import ast
import dataclasses
import io
import pathlib
import tokenize
from collections.abc import Iterable, Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIMITS = (100, 120, 160)  # columns; longer lines are counted
LONGEST_FILE = 350  # lines of code; longer files are counted
LEFT_OUT = ("tests", "runs")  # folders, beside those whose name begins with a dot

# Tokens that are no code by themselves.
LAYOUT_TOKENS = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
)


@dataclasses.dataclass(frozen=True)
class Style:
    """What is counted in one file, or in several together.

    Attributes:
        lines: all lines.
        written: lines that are not empty.
        characters: of these, with their indentation.
        over: for each of `LIMITS`, how many lines are longer.
        comments: lines that hold a comment and nothing else.
        docstrings: lines of docstrings that are not empty.
        named_lambdas: lambdas that are bound to a name.
        long_files: files with more than `LONGEST_FILE` lines of code.
    """

    lines: int = 0
    written: int = 0
    characters: int = 0
    over: tuple[int, ...] = (0,) * len(LIMITS)
    comments: int = 0
    docstrings: int = 0
    named_lambdas: int = 0
    long_files: int = 0

    def __add__(self, other: "Style") -> "Style":
        return Style(
            self.lines + other.lines,
            self.written + other.written,
            self.characters + other.characters,
            tuple(a + b for a, b in zip(self.over, other.over, strict=True)),
            self.comments + other.comments,
            self.docstrings + other.docstrings,
            self.named_lambdas + other.named_lambdas,
            self.long_files + other.long_files,
        )

    @property
    def mean_line(self) -> float:
        """Characters of a line that is not empty, on average."""
        return self.characters / max(self.written, 1)

    @property
    def explained(self) -> float:
        """Share of the lines that are comments or docstrings, 0 to 1."""
        return (self.comments + self.docstrings) / max(self.lines, 1)


# ---------------------------------------------------------------- one file


def measure(text: str) -> Style:
    """Returns the counts of one file of Python by its text."""
    tree = ast.parse(text)
    lines = text.splitlines()
    written = [line for line in lines if line.strip()]
    docstrings = docstring_lines(tree)
    code = code_lines(text) - docstrings
    return Style(
        lines=len(lines),
        written=len(written),
        characters=sum(map(len, written)),
        over=tuple(sum(len(line) > limit for line in written) for limit in LIMITS),
        comments=len(comment_lines(text)),
        docstrings=sum(bool(lines[number - 1].strip()) for number in docstrings),
        named_lambdas=len(named_lambdas(tree)),
        long_files=int(len(code) > LONGEST_FILE),
    )


def count_code_lines(text: str) -> int:
    """Returns how many lines of a file are code: not empty, no comment and no docstring."""
    return len(code_lines(text) - docstring_lines(ast.parse(text)))


def code_lines(text: str) -> set[int]:
    """Returns the numbers of the lines that hold a token of code; docstrings count as code here."""
    found = set()
    for token in _tokens(text):
        if token.type not in LAYOUT_TOKENS:
            found |= set(range(token.start[0], token.end[0] + 1))
    return found


def comment_lines(text: str) -> set[int]:
    """Returns the numbers of the lines that hold a comment and nothing else."""
    comments = {token.start[0] for token in _tokens(text) if token.type == tokenize.COMMENT}
    return comments - code_lines(text)


def docstring_lines(tree: ast.Module) -> set[int]:
    """Returns the numbers of the lines of all docstrings, empty ones within them included."""
    found = set()
    for node in ast.walk(tree):
        has_body = isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        )
        if has_body and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            found |= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return found


def named_lambdas(tree: ast.Module) -> list[int]:
    """Returns the line numbers of lambdas that an assignment binds to a name.

    Those in a tuple of several values and in a conditional expression count as well.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            found += [value.lineno for value in _bound_values(node.value) if _is_lambda(value)]
    return found


def _bound_values(value: ast.expr) -> Iterator[ast.expr]:
    """Yields the expressions whose values an assignment may bind."""
    if isinstance(value, ast.Tuple):
        for element in value.elts:
            yield from _bound_values(element)
    elif isinstance(value, ast.IfExp):
        yield from _bound_values(value.body)
        yield from _bound_values(value.orelse)
    else:
        yield value


def _is_lambda(node: ast.expr) -> bool:
    return isinstance(node, ast.Lambda)


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(text).readline)


# ---------------------------------------------------------------- a project


def python_files(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns the Python files below `root`, without tests, run folders and hidden folders."""
    found = []
    for file in sorted(root.rglob("*.py")):
        folders = file.relative_to(root).parts[:-1]
        if not any(name in LEFT_OUT or name.startswith(".") for name in folders):
            found.append(file)
    return found


def by_folder(root: pathlib.Path) -> dict[str, Style]:
    """Returns the counts of each folder of a project, "(top)" for the files beside the folders."""
    found: dict[str, Style] = {}
    for file in python_files(root):
        parts = file.relative_to(root).parts
        folder = f"{parts[0]}/" if len(parts) > 1 else "(top)"
        found[folder] = found.get(folder, Style()) + measure(file.read_text())
    return dict(sorted(found.items()))


def total(styles: Iterable[Style]) -> Style:
    """Returns the counts of several files or folders together."""
    return sum(styles, Style())


# ---------------------------------------------------------------- the table


def markdown_table(styles: dict[str, Style]) -> str:
    """Returns the table of all folders, with all of them together in the last row."""
    heads = ["folder", "lines", "mean line"]
    heads += [f"over {limit}" for limit in LIMITS]
    heads += ["comments", "and docstrings", "lambdas per 1,000", f"files over {LONGEST_FILE}"]
    rows = [heads, ["---"] * len(heads)]
    for folder, style in styles.items():
        rows.append(_cells(folder, style))
    rows.append(_cells("all", total(styles.values())))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cells(folder: str, style: Style) -> list[str]:
    lines = max(style.lines, 1)
    cells = [folder, f"{style.lines:,}", f"{style.mean_line:.1f}"]
    cells += [f"{count} ({100 * count / lines:.1f}%)" for count in style.over]
    cells += [f"{100 * style.comments / lines:.1f}%", f"{100 * style.explained:.1f}%"]
    cells += [f"{1000 * style.named_lambdas / lines:.2f}", str(style.long_files)]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", nargs="?", type=pathlib.Path, default=ROOT)
    print(markdown_table(by_folder(parser.parse_args().path)))


if __name__ == "__main__":
    main()
