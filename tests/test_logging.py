"""metrics.jsonl, log lines, progress and wandb without a network."""

import io
import json
import logging
import os
import subprocess
import sys
import time
import types

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from utils import files
from utils.errors import UserError
from utils.files import write_json_atomic
from utils.logging import Progress, RunLog, read_metrics, setup_logging


def options(mode="disabled"):
    return types.SimpleNamespace(mode=mode, project="drift", name="", entity="")


def metrics(folder):
    return (folder / "metrics.jsonl").read_text()


# ---- metrics.jsonl ----


def test_lines_are_strict_json_with_step_first_and_flushed(tmp_path):
    run = RunLog(tmp_path, options(), 0)
    values = {
        "loss": jnp.float32(0.1),
        "n": np.int64(3),
        "none": None,
        "bad": float("nan"),
        "worse": np.float32("-inf"),
    }
    run.log(7, values)

    def no_constants(name):
        raise AssertionError(f"{name} is not JSON")

    line = metrics(tmp_path)  # before close: another process reads it while the run goes on
    record = json.loads(line, parse_constant=no_constants)
    assert list(record) == ["step", "loss", "n", "none", "bad", "worse", "not_finite"]
    assert np.float32(record["loss"]) == np.float32(0.1) and record["n"] == 3
    assert record["bad"] is None and record["not_finite"] == {"bad": "nan", "worse": "-inf"}
    run.close()


def test_nine_digits_keep_every_float32(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**32, 300, np.uint32).view(np.float32)
    bits = bits[np.isfinite(bits)]
    with RunLog(tmp_path, options(), 0) as run:
        for step, value in enumerate(bits):
            run.log(step, {"x": value})
    np.testing.assert_array_equal(
        np.array([r["x"] for r in read_metrics(tmp_path / "metrics.jsonl")], np.float32), bits
    )


def test_killed_and_resumed_has_the_lines_of_an_uninterrupted_run(tmp_path):
    def run(folder, first, last, resume_step):
        log = RunLog(folder, options(), resume_step)
        for step in range(first, last + 1):
            log.log(step, {"loss": step / 7})
            if step % 4 == 0:
                log.log(step, {"fd_pixels": step / 3})  # two lines of one step
        return log

    run(tmp_path / "whole", 1, 12, 0).close()
    killed = run(tmp_path / "killed", 1, 10, 0)  # the checkpoint was at step 8
    killed._file.write('{"step": 11, "lo')  # the kill came in the middle of a line
    killed.close()
    run(tmp_path / "killed", 9, 12, 8).close()
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert os.listdir(tmp_path / "killed") == ["metrics.jsonl"]
    run(tmp_path / "killed", 1, 1, 0).close()  # a new run in the same folder
    assert metrics(tmp_path / "killed").count("\n") == 1


def test_reading_skips_damaged_lines(tmp_path):
    (tmp_path / "m").write_bytes(
        b'{"step": 1, "a": 2}\n\xff\xfe\n[3]\n{"step": "x"}\n{"a": 1}\n{"step": 2}\n{"step": 3}'
    )
    assert [r["step"] for r in read_metrics(tmp_path / "m")] == [1, 2]
    assert read_metrics(tmp_path / "absent") == []


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not write .*metrics.jsonl: "):
        RunLog(tmp_path / "file", options(), 0)
    run = RunLog(tmp_path / "run", options(), 0)
    run._file._file.close()
    run._file._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(UserError, match="could not write .*metrics.jsonl: No space left on device"):
        run.log(1, {"loss": 1.0})
    run.close()


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_json_atomic(path, {"a": [1, 2.5, "ä", None]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, "ä", None]}
    before = path.read_text()
    with pytest.raises(ValueError):
        write_json_atomic(path, {"a": float("nan")})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        write_json_atomic(path, {"a": 2})
    assert path.read_text() == before and os.listdir(tmp_path) == ["config.json"]


def test_only_process_zero_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    with RunLog(tmp_path, options("online"), 0) as run, run.progress(0, 10) as bar:
        run.log(1, {"loss": 1.0})
        run.image(1, "grid", "grid.png")
        bar.show(1, {"loss": 1.0}, 10.0)
    assert os.listdir(tmp_path) == []


# ---- log lines and progress ----

VALUES = {
    "loss": 0.41234,
    "drift_rms_0.02": 0.5,
    "drift_rms_0.2": 0.031,
    "drift_rms_0.05": 9.0,
    "energy_distance": 0.0123,
    "diversity": 0.97,
    "lr": 1e-3,
}


@pytest.fixture
def root_logger():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = before[0], before[1]


def test_log_lines_have_level_and_message(root_logger, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    setup_logging()
    logging.getLogger("train").warning("low %s", "diversity")
    logging.getLogger("absl").info("noise")
    setup_logging(quiet=True)
    logging.getLogger("train").warning("another process")
    assert sys.stderr.getvalue() == "warning: low diversity\n"


def test_without_a_terminal_progress_is_one_line_per_interval(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with RunLog(tmp_path, options(), 0) as run, run.progress(50, 2000) as bar:
        bar.show(100, VALUES, 312.4)
        bar._began = time.perf_counter() - 150
        bar.show(200, VALUES, 12345.6)
    first, second = caplog.messages
    assert first.startswith(
        "step  100/2000, 312 images/s, loss 0.412, drift 0.031, energy 0.0123, diversity 0.97, "
    )
    assert second.startswith("step  200/2000, 12,346 images/s, ") and second.endswith(
        ", 30:00 left"
    )
    assert sys.stderr.getvalue() == ""


def test_on_a_terminal_progress_is_a_bar_and_log_lines_stay_whole(root_logger, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    setup_logging()
    bar = Progress(50, 200, bar=True)
    bar.show(100, VALUES, 312.4)
    logging.getLogger("train").info("saved")
    bar.show(200, VALUES, 312.4)
    bar.close()
    text = sys.stderr.getvalue()
    assert (
        "100/200" in text and "200/200" in text and "312 images/s, loss 0.412, drift 0.031" in text
    )
    assert "info: saved" in text.replace("\r", "\n").split("\n")


# ---- wandb ----


def ignore(*_, **__):
    """Does nothing, as those calls of wandb that a test does not look at."""


def test_wandb_is_not_imported_when_disabled():
    code = (
        "import sys, utils.logging\n"
        "sys.exit(bool({'wandb', 'tqdm', 'jax', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("problem", ["missing", "init", "log"])
def test_wandb_trouble_is_one_warning(tmp_path, caplog, monkeypatch, problem):
    def fail(*_, **__):
        raise ConnectionError("no\nnetwork")

    def start(**_):
        return types.SimpleNamespace(define_metric=ignore, url=None, log=fail, finish=fail)

    init = fail if problem == "init" else start
    fake = types.SimpleNamespace(Settings=dict, Image=str, init=init)
    monkeypatch.setitem(sys.modules, "wandb", None if problem == "missing" else fake)
    with RunLog(tmp_path, options("online"), 0) as run:
        run.log(1, {"loss": 1.0})
        run.log(2, {"loss": 1.0})
        run.image(2, "grid", "grid.png")
    (line,) = caplog.messages
    assert line.startswith("wandb does not ") and "going on without it" in line and "\n" not in line
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_resumed_run_continues_the_same_wandb_run(tmp_path, monkeypatch):
    calls, logged = [], []

    def start(**given):
        calls.append(given)
        return types.SimpleNamespace(
            define_metric=ignore, url=None, log=logged.append, finish=ignore
        )

    fake = types.SimpleNamespace(Settings=dict, Image=str, init=start)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for resume_step in (0, 5):
        with RunLog(tmp_path / "name", options("online"), resume_step, config={"seed": 0}) as log:
            log.log(resume_step + 1, {"loss": 0.5})
    assert calls[0]["id"] == calls[1]["id"] and calls[0]["resume"] == "allow"
    assert calls[0]["name"] == "name" and calls[0]["entity"] is None
    assert calls[0]["config"] == {"seed": 0}
    assert logged == [{"step": 1, "loss": 0.5}, {"step": 6, "loss": 0.5}]


def test_wandb_offline_needs_no_network(tmp_path, caplog):
    pytest.importorskip("wandb")
    with RunLog(tmp_path, options("offline"), 0) as run:
        run.log(1, {"loss": 1.0})
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    (data,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert data.stat().st_size > 0
