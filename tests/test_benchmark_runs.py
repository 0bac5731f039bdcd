"""The bookkeeping of the comparisons: runs that are done are skipped, equal time is read off the curves, tables say mean and spread."""

import types

import pytest

from benchmarks import compare, fields, passes, runs
from utils.errors import UserError


def test_rows_are_done_once(tmp_path):
    rows, keys = runs.Rows(tmp_path), [{"field": "kernel", "seed": s} for s in range(3)]
    assert rows.missing(keys, 0) == keys and rows.missing(keys, 2) == keys[:2]
    rows.add({"key": keys[1], "step_ms": 1.0})
    assert runs.Rows(tmp_path).missing(keys, 0) == [keys[0], keys[2]]


def test_a_score_between_two_evaluations():
    curve = [{"step": 100, "fd": 4.0}, {"step": 200, "fd": 2.0}, {"step": 300, "fd": 1.0}]
    assert [runs.at_time(curve, "fd", s) for s in (100, 150, 300)] == [4.0, 3.0, 1.0]
    assert runs.at_time(curve, "fd", 99) is None and runs.at_time(curve, "fd", 301) is None


def test_mean_and_spread():
    assert (
        runs.mean_spread([1.0, 2.0, 3.0]) == "2.000 ± 1.000"
        and runs.mean_spread([None, 2.0]) == "2.000"
        and runs.mean_spread([None]) == "-"
    )


def test_table_of_equal_steps_and_equal_time(tmp_path):
    """A field whose step takes twice as long is read at half of its steps; a run that failed is counted and left out of the mean."""

    def row(field, seed, ms, values, failed=""):
        curve = [
            {
                "step": 100 * (i + 1),
                "fd_pixels": v,
                "precision": 0.5,
                "recall": 0.5,
                "diversity": 1.0,
            }
            for i, v in enumerate(values)
        ]
        return {
            "key": {
                "task": "digits",
                "field": field,
                "temperatures": [0.05],
                "size": 32,
                "max_steps": 400,
                "seed": seed,
            },
            "step_ms": ms,
            "curve": curve,
            "failed": failed,
        }

    rows = [
        row("kernel", 0, 10.0, [4, 3, 2, 1]),
        row("kernel", 1, 10.0, [4, 3, 2, 3]),
        row("slow", 0, 20.0, [3, 2, 1, 0.5]),
        row("slow", 1, 20.0, [9], failed="not finite"),
    ]
    kernel, slow = fields.summary(rows)[0]
    assert (
        kernel["fd_pixels"] == "2.000 ± 1.414"
        and kernel["fd_pixels at equal time"] == "2.000 ± 1.414"
    )
    assert (slow["fd_pixels"], slow["fd_pixels at equal time"], slow["failed"]) == (
        "0.500",
        "2.000",
        1,
    )
    text = runs.write_table(tmp_path, "digits", [kernel, slow])
    assert (
        text.splitlines()[2].startswith("| kernel | 0.05 | 32 | 2 | 0 |")
        and (tmp_path / "digits.csv").exists()
    )
    fields.draw(tmp_path / "digits.png", fields.summary(rows)[1], "fd_pixels", "digits")
    assert (tmp_path / "digits.png").stat().st_size > 5000


def test_numbers():
    assert fields.numbers("0.02,0.05") == (0.02, 0.05)
    with pytest.raises(UserError, match="numbers separated by commas"):
        fields.numbers("0.02;x")


@pytest.mark.parametrize(
    "words",
    [
        ["--rounds=0", "HEAD", ".", "benchmarks/step.py"],
        ["--rounds=x", "HEAD", ".", "benchmarks/step.py"],
        ["HEAD", "."],
    ],
)
def test_compare_says_what_it_takes(words):
    with pytest.raises(SystemExit, match="error: expected"):
        compare.main(words)


@pytest.mark.parametrize(
    "program, given",
    [
        (fields, {"task": "toy:moons"}),
        (fields, {"task": "cifar10"}),
        (passes, {"passes": "1;4"}),
        (passes, {"passes": "0,4"}),
    ],
)
def test_mistakes_are_refused_before_any_work(tmp_path, monkeypatch, program, given):
    values = (
        {key.name: key.default for key in program.FLAGS} | given | {"out": str(tmp_path / "new")}
    )
    monkeypatch.setattr(program.config_lib, "all_flags", lambda _: types.SimpleNamespace(**values))
    with pytest.raises(UserError, match=next(iter(given.values()))):
        program.main(None)
    assert not list(tmp_path.rglob("*.json*"))
