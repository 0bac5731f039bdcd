"""The bookkeeping of the benchmarks.

Programs take turns and lines are JSON; runs that are done are skipped, equal time is read off the
curves, and tables say mean and spread.
"""

import collections
import json
import random
import subprocess
import sys
import types

import numpy as np
import pytest
from absl import flags
from conftest import ROOT

from benchmarks import compare, fields, frame, passes, runs, step, style, wrong_commands
from models.artifacts import read_metadata
from utils import config as config_lib
from utils.errors import UserError

# ---------------------------------------------------------------- the frame


def test_programs_take_turns_and_the_first_round_does_not_count(monkeypatch):
    monkeypatch.setattr(frame, "matmul_rate", lambda dtype: 2e9)
    order = []
    programs = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    timing = frame.time_in_turn(programs, rounds=2, calls=2)
    assert order == 3 * ["a", "a", "b", "b"]
    assert len(timing.seconds["a"]) == len(timing.matmul_rates) == 2
    assert timing.matmul_rate == 2e9
    assert timing.milliseconds("b") == 1e3 * timing.median("b") > 0


def test_a_line_is_json_with_six_digits(capsys):
    frame.print_line({"name": "x", "ms": 1.23456789, "n": 3, "inner": {"rate": 1234567.8}})
    line = json.loads(capsys.readouterr().out)
    assert line == {"name": "x", "ms": 1.23457, "n": 3, "inner": {"rate": 1234568}}


def test_a_peer_is_compared_by_the_rate_of_matrix_products():
    peer = frame.Peer("another program", step_s=2.0, matmul_gflop_per_s=100)
    (found,) = frame.beside_peers([peer], step_s=1.0, matmul_rate=300e9).values()
    assert found["step_ms"] == 2000
    assert found["scaled_step_ms"] == 3000  # its machine is three times as slow as ours


def test_flags_of_a_second_step():
    found = step.second_flags("encoder.cache=off --model.remat=1")
    assert found == {"encoder.cache": "off", "model.remat": "1"}
    with pytest.raises(UserError, match="expected NAME=VALUE"):
        step.second_flags("encoder.cache off")


def test_the_random_encoder_is_described_as_one(tmp_path):
    step.describe_mae("8,1,1,1,1", 4, tmp_path)
    assert read_metadata(tmp_path, "mae")["model_config"]["base_channels"] == 8


TINY_STEP = """--recipe none --size 16 --channels 4 --classes 4 --samples_per_class 8
    --sample_interval 0 --eval_interval 0 --random_mae 8,1,1,1,1 --rounds 1 --steps 1
    --model.preset debug --model.patch_size 4 --batch_size 8 --drift.n_neg 4 --drift.n_pos 4
    --drift.n_unc 2 --drift.bank_per_class 8 --drift.bank_global 8 --drift.bank_push 4
    --mesh.devices 1 --encoder.cache_budget_gb 0.000001 --against optim.accumulate=2"""


@pytest.mark.slow
def test_two_steps_with_a_random_encoder():
    """As benchmarks/gpu.sh calls it, at tiny sizes; the build of an encoder writes to the log."""
    command = [sys.executable, "benchmarks/step.py", *TINY_STEP.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "info: " in done.stderr, done.stderr
    row = json.loads(done.stdout.strip().splitlines()[-1])
    assert row["step_ms"] > 0 and row["times_as_fast"] > 0
    assert np.isfinite(row["first_loss"])


# ---------------------------------------------------------------- how dense a page is


PAGE = '''"""A docstring
of two lines."""

# A comment.
x = "# no comment"  # one behind code is no line of comments


def f():
    """Another."""
    return lambda: 1  # not bound to a name


g, h = lambda: 1, 2
k = (lambda: 1) if x else None
'''


def test_style_of_a_page():
    found = style.measure(PAGE)
    assert (found.lines, found.written) == (14, 9)
    assert (found.comments, found.docstrings, found.named_lambdas) == (1, 3, 2)
    assert style.count_code_lines(PAGE) == 5
    assert style.measure("x = 1\n" * 351).long_files == 1
    table = style.markdown_table({"folder/": found})
    assert table.count("\n") == 3 and table.endswith("| 0 |")


# ---------------------------------------------------------------- runs


def test_rows_are_done_once(tmp_path):
    rows = runs.Rows(tmp_path)
    keys = [{"field": "kernel", "seed": s} for s in range(3)]
    assert rows.missing(keys, 0) == keys
    assert rows.missing(keys, 2) == keys[:2]
    rows.add({"key": keys[1], "step_ms": 1.0})
    assert runs.Rows(tmp_path).missing(keys, 0) == [keys[0], keys[2]]


def test_steps_are_timed_once_and_together(tmp_path, monkeypatch):
    monkeypatch.setattr(frame, "matmul_rate", lambda dtype: 2e9)
    built = []
    monkeypatch.setattr(runs, "step_of", lambda settings: built.append(settings) or list)
    file = tmp_path / "new" / "times.json"
    first = runs.step_times_once(file, {"a": {"seed": 0}}, rounds=1)
    assert runs.step_times_once(file, {"a": {"seed": 0}}, rounds=1) == first
    assert built == [{"seed": 0}] and first.keys() == {"a", "GFLOP/s"}
    both = runs.step_times_once(file, {"a": {"seed": 0}, "b": {"seed": 1}}, rounds=1)
    assert len(built) == 3 and json.loads(file.read_text()) == both
    assert runs.step_times_once(file, {"b": {"seed": 1}}, rounds=1) == both and len(built) == 3


def test_a_score_between_two_evaluations():
    curve = [{"step": 100, "fd": 4.0}, {"step": 200, "fd": 2.0}, {"step": 300, "fd": 1.0}]
    assert [runs.at_time(curve, "fd", s) for s in (100, 150, 300)] == [4.0, 3.0, 1.0]
    assert runs.at_time(curve, "fd", 99) is None
    assert runs.at_time(curve, "fd", 301) is None


def test_mean_and_spread():
    assert runs.mean_spread([1.0, 2.0, 3.0]) == "2.000 ± 1.000"
    assert runs.mean_spread([None, 2.0]) == "2.000"
    assert runs.mean_spread([None]) == "-"


def row_of(field, seed, ms, values, failed=""):
    scores = {"precision": 0.5, "recall": 0.5, "diversity": 1.0}
    curve = [{"step": 100 * (i + 1), "fd_pixels": v} | scores for i, v in enumerate(values)]
    key = {"task": "digits", "field": field, "temperatures": [0.05], "size": 32}
    key |= {"max_steps": 400, "seed": seed}
    return {"key": key, "step_ms": ms, "curve": curve, "failed": failed}


def test_table_of_equal_steps_and_equal_time(tmp_path):
    """A field whose step takes twice as long is read at half of its steps.

    A run that failed is counted and left out of the mean.
    """
    rows = [
        row_of("kernel", 0, 10.0, [4, 3, 2, 1]),
        row_of("kernel", 1, 10.0, [4, 3, 2, 3]),
        row_of("slow", 0, 20.0, [3, 2, 1, 0.5]),
        row_of("slow", 1, 20.0, [9], failed="not finite"),
    ]
    (kernel, slow), groups = fields.summary(rows)
    assert kernel["fd_pixels"] == kernel["fd_pixels at equal time"] == "2.000 ± 1.414"
    assert (slow["fd_pixels"], slow["fd_pixels at equal time"]) == ("0.500", "2.000")
    assert slow["failed"] == 1

    text = runs.write_table(tmp_path, "digits", [kernel, slow])
    assert text.splitlines()[2].startswith("| kernel | 0.05 | 32 | 2 | 0 |")
    assert (tmp_path / "digits.csv").exists()
    fields.draw(tmp_path / "digits.png", groups, "fd_pixels", "digits")
    assert (tmp_path / "digits.png").stat().st_size > 5000


def test_other_flags_are_a_line_of_their_own():
    """So that one table holds a field with and without them, and what a judge said of each."""
    plain = row_of("sinkhorn", 0, 10.0, [4, 3, 2, 1])
    other = row_of("sinkhorn", 0, 10.0, [5, 4, 3, 2]) | {"judged": {"fd_efficientnet": 9.0}}
    other["key"] |= {"settings": "drift.iterations=1", "ending": "drift.field=frechet"}
    table, _ = fields.summary([plain, other])
    names = [line["field"] for line in table]
    assert names == ["sinkhorn", "sinkhorn drift.iterations=1, then drift.field=frechet"]
    assert table[1]["fd_efficientnet of the judge"] == "9.000"
    # Steps of two fields are no time of one.
    assert table[1]["ms per step"] == "-" and "fd_pixels at equal time" not in table[1]
    assert fields.settings_of_run(other["key"])["drift.iterations"] == "1"


def test_figure_and_table_of_passes(tmp_path):
    def row(objective, steps, seed):
        found = {
            n: {"fd_pixels": 1.0 + seed, "precision": 0.5, "recall": 0.5, "class_agreement": 1.0}
            for n in (("1",) if objective == "drift" else ("1", "4"))
        }
        key = {"objective": objective, "steps": steps, "seed": seed}
        return {"key": key, "scores": found, "per_second": {n: 100.0 for n in found}}

    rows = [row("drift", 800, seed) for seed in (0, 1)] + [row("flow", 900, 0)]
    table, lines = passes.summary(rows, {"drift": 10.0, "flow": 9.0})
    assert [line["fd_pixels"] for line in table] == ["1.500 ± 0.707", "1.000", "1.000"]
    passes.draw(tmp_path / "passes.png", lines, {"drift": 10.0, "flow": 9.0})
    assert (tmp_path / "passes.png").stat().st_size > 5000


def test_a_spoiled_flag_is_refused_and_the_line_followed():
    """Of every third setting of the trainer: what its line says is understood."""
    advised = collections.Counter()
    given = config_lib.define_flags(flag_values=flags.FlagValues())

    def parse(word):
        config_lib.parse(["program", word], given)

    for key in list(config_lib.KEYS.values())[::3]:
        for kind, word in wrong_commands.spoiled(key, random.Random(0)):
            with pytest.raises(UserError) as error:
                parse(word)
            advice = wrong_commands.advised(config_lib.KEYS, f"error: {error.value}")
            advised[kind] += bool(advice)
            if advice:
                parse(advice)
    assert min(advised[kind] for kind in ("typo", "word", "range", "huge")) > 5
    assert advised["missing"] == 0


def test_numbers():
    assert runs.numbers("0.02,0.05") == (0.02, 0.05)
    with pytest.raises(UserError, match="numbers separated by commas"):
        runs.numbers("0.02;x")


# ---------------------------------------------------------------- mistakes


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


def test_compare_takes_medians_of_the_numbers_that_both_have():
    old = [{"ms": ms, "only_old": 1, "name": "x"} for ms in (1.0, 3.0, 2.0)]
    new = [{"ms": ms, "fits": True, "name": "x"} for ms in (4.0, 4.0, 9.0)]
    assert compare.medians(old, new) == {"ms": {"old": 2.0, "new": 4.0, "ratio": 2.0}}


@pytest.mark.parametrize(
    "program, given",
    [
        (fields, {"task": "toy:moons"}),
        (fields, {"task": "cifar10"}),
        (fields, {"settings": "drift.iteration=1"}),
        (fields, {"ending": "frechet"}),
        (fields, {"settings": "seed=2"}),
        (fields, {"fields": "sinkhor"}),
        (fields, {"ending": "drift.iterations=x"}),
        (passes, {"passes": "1;4"}),
        (passes, {"passes": "0,4"}),
    ],
)
def test_mistakes_are_refused_before_any_work(tmp_path, monkeypatch, program, given):
    defaults = {key.name: key.default for key in program.FLAGS}
    flags = types.SimpleNamespace(**defaults | given | {"out": str(tmp_path / "new")})
    monkeypatch.setattr(program.config_lib, "all_flags", lambda _: flags)
    with pytest.raises(UserError, match=next(iter(given.values()))):
        program.main(None)
    assert not list(tmp_path.rglob("*.json*"))
