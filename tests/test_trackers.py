"""TensorBoard and Trackio show what metrics.jsonl has, also of a resumed run."""

import types

import numpy as np
import pytest
from PIL import Image

from utils import config as config_lib
from utils import trackers
from utils.errors import UserError
from utils.logging import RunLog, read_metrics

OPTIONS = types.SimpleNamespace(mode="disabled", project="drift", name="", entity="")


def run(folder, name, first, last, resume_step, finish=True):
    """Logs some steps, two records and a picture at every fourth one."""
    picture = folder.parent / "grid.png"
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(picture)
    log = RunLog(folder, OPTIONS, resume_step, {"seed": 0}, trackers=name)
    for step in range(first, last + 1):
        log.log(step, {"loss": step / 8, "note": "text", "bad": float("nan")})
        if step % 4 == 0:
            log.log(step, {"fd_pixels": step / 4})
            log.show(step, {"recall": step / 16})  # metrics.jsonl does without
            log.image(step, "samples", picture)
    log.close()


def written(folder, name):
    """Returns [(step, value)] of a number in metrics.jsonl."""
    records = read_metrics(folder / "metrics.jsonl")
    return [(record["step"], record[name]) for record in records if name in record]


def test_tensorboard_shows_what_metrics_jsonl_has(tmp_path, caplog):
    pytest.importorskip("tensorboard", reason="pip install -r requirements-log.txt")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    run(folder, "tensorboard", 1, 7, 0)
    run(folder, "tensorboard", 5, 12, 4)  # the checkpoint was at step 4
    shown = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert sorted(shown.Tags()["scalars"]) == ["fd_pixels", "loss", "recall"]
    recalls = [(event.step, event.value) for event in shown.Scalars("recall")]
    assert recalls == [(4, 0.25), (8, 0.5), (12, 0.75)] and not written(folder, "recall")
    for name in ("loss", "fd_pixels"):
        values = [(event.step, event.value) for event in shown.Scalars(name)]
        assert values == written(folder, name)
    assert [event.step for event in shown.Images("samples")] == [4, 8, 12]
    picture = shown.Images("samples")[0]
    assert (picture.width, picture.height) == (5, 4)
    assert picture.encoded_image_string == (tmp_path / "grid.png").read_bytes()
    assert "does not" not in caplog.text


def test_trackio_shows_what_metrics_jsonl_has(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="pip install -r requirements-log.txt")
    from trackio.sqlite_storage import SQLiteStorage

    folder = tmp_path / "run"
    run(folder, "trackio", 1, 7, 0)
    run(folder, "trackio", 5, 12, 4)
    name = (folder / "trackio_name.txt").read_text()
    assert name.startswith("run-") and SQLiteStorage.get_runs("drift") == [name]
    records = SQLiteStorage.get_logs("drift", name)
    for key in ("loss", "fd_pixels"):
        values = [(record["step"], record[key]) for record in records if key in record]
        assert sorted(values) == written(folder, key)
    pictures = [record for record in records if "samples" in record]
    assert [record["step"] for record in pictures] == [4, 8, 12]
    assert pictures[0]["samples"]["_type"] == "trackio.image"
    run(folder, "trackio", 1, 2, 0)  # a new run in the same folder is another one there
    assert len(SQLiteStorage.get_runs("drift")) == 2
    assert "does not" not in caplog.text and capsys.readouterr().out == ""


def test_a_tracker_that_fails_is_one_warning(tmp_path, monkeypatch, caplog):
    class Broken:
        def __init__(self, facts):
            assert facts.resume_step == 0 and facts.config == {"seed": 0}

        def log(self, record):
            raise OSError("no space")

    monkeypatch.setattr("utils.tensorboard_run.TensorBoardRun", Broken)
    run(tmp_path / "run", "tensorboard", 1, 5, 0)
    (line,) = caplog.messages
    assert line.startswith("tensorboard does not log (no space); going on without it")
    assert len(written(tmp_path / "run", "loss")) == 5


def test_what_cannot_be_is_one_line(monkeypatch):
    with pytest.raises(UserError, match="--log tensorbord: expected .*did you mean tensorboard"):
        config_lib.resolve({"recipe": "digits", "log": "trackio,tensorbord"})
    with pytest.raises(UserError, match="--log wandb: give --wandb.mode"):
        config_lib.resolve({"recipe": "digits", "log": "wandb"})
    monkeypatch.setitem(trackers.TRACKERS, "trackio", ("x", "y", "no_such_package"))
    with pytest.raises(UserError, match="no_such_package is missing.*requirements-log.txt"):
        trackers.check_packages("trackio")
