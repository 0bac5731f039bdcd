"""The report of a run: what stands in it, and how a browser shows it."""

import json
import os
import re
import shutil
import subprocess
import types

import numpy as np
import pytest
from browser import opened
from test_compare import Reader
from test_eval import train

from evaluation import report
from evaluation.floor import floor_of
from evaluation.report import duration, health, result_line, thinned, write_report
from training import environment
from training.drift import DriftJob
from utils import config as config_lib
from utils.errors import UserError
from utils.logging import read_metrics
from utils.sharding import local_sharding

FLAGS = {"max_steps": 3, "eval_interval": 3, "save_interval": 3, "sample_interval": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that wrote its report at its end."""
    folder = tmp_path_factory.mktemp("runs") / "my<run>"
    train(FLAGS | {"save_dir": str(folder), "drift.alpha_max": 2.0, "drift.n_unc": 4})
    return folder


def test_a_training_ends_with_its_report(run):
    text = (run / "report.html").read_text()
    reader = Reader(text)
    told = " ".join(reader.texts)
    assert "Run my<run>" in told and "my<run>" not in text
    assert "540 training images against the held-out ones have 0.3761" in told  # in pixels
    assert "Recipe digits; what differs from it" in told
    assert "no collapse" in told and "scripts/doctor.py --load_dir" in told
    assert "in steps that count; " in told and told.count("nothing was lost") == 1
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", told) and "No classes by" not in told
    assert "the same noise at alpha 1, 1.5, 2" in told
    images = reader.all("img")
    assert all(image["alt"] and image["src"].startswith("data:image/png") for image in images)
    labels = [image["data-label"] for image in images if "data-label" in image]
    assert labels == ["step 1", "step 2", "step 3"]
    assert "http" not in text.replace("http-equiv", "")


def test_the_environment_is_noted(run):
    start, end = map(json.loads, (run / "environment.jsonl").read_text().splitlines())
    assert (start["event"], end["event"], end["step"]) == ("start", "end", 3)
    assert start["versions"]["jax"] and start["devices"] >= 1
    assert re.fullmatch("([0-9a-f]{40}(-dirty)?)?", start.get("commit", ""))


def test_the_commit_of_a_checkout_is_noted(tmp_path, monkeypatch):
    assert environment.commit_of(tmp_path) == ""
    if shutil.which("git") is None:
        pytest.skip("no git")
    (tmp_path / "a.py").write_text("a = 1\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # as in a hook
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for words in (["init"], ["add", "."], [*who, "commit", "-m", "a"], ["tag", "v1"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)
    commit = environment.commit_of(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert report.code_of({"commit": commit}) == (commit, f"commit {commit}")
    (tmp_path / "a.py").write_text("a = 2\n")
    assert environment.commit_of(tmp_path) == f"{commit}-dirty"
    told = report.code_of({"commit": f"{commit}-dirty"})
    assert told == (commit, f"commit {commit}, with changes since")
    assert report.code_of({}) == ("", "")
    monkeypatch.setenv("PATH", "")
    assert environment.commit_of(tmp_path) == ""


def test_where_the_time_went_is_told(tmp_path):
    assert report.goodput_in_words(tmp_path) == []
    seconds = {"steps": 50.0, "starting": 20.0, "waiting": 0.1, "evaluating": 25.0}
    file = tmp_path / "goodput.json"
    file.write_text(json.dumps({"seconds": seconds | {"saving": 1.9, "lost": 3.0}}))
    assert report.goodput_in_words(tmp_path) == [
        "50% of 1 min 40 s in steps that count; 25 s for scores and pictures, 20 s starting and "
        "compiling, 3 s lost (from a save to the next start, or steps that were taken back), "
        "2 s saving"
    ]
    file.write_text('{"seconds"')
    assert report.goodput_in_words(tmp_path) == []


def test_without_guidance_the_report_says_why_there_is_no_grid_of_it(run):
    config = config_lib.from_json(run / "config.json")
    config = config_lib.from_dict(config.to_dict() | {"drift": {**config.drift, "alpha_max": 1.0}})
    (opened_run,) = report.open_runs([str(run)])
    sampler = report.open_sampler(opened_run, 0, report.PER_CLASS, local_sharding())
    told = " ".join(report.sample_sections(opened_run, sampler, config))
    assert "No classes by alpha: guidance was learned up to 1 (--drift.alpha_max)." in told
    assert "the same noise at alpha" not in told


def test_the_program_writes_it_again(run):
    (run / "report.html").unlink()
    (run / "environment.jsonl").unlink()  # of older runs
    (run / "fid.csv").rename(run / "fid.old")
    path = write_report(run, 0, local_sharding())
    (run / "fid.old").rename(run / "fid.csv")
    assert path.name == "report.html" and "No scores yet" in path.read_text()
    with pytest.raises(UserError, match="is no run folder"):
        write_report(run / "samples", 0, local_sharding())


def test_a_report_that_fails_does_not_fail_the_run(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr("evaluation.report.write_report", fail)
    config = types.SimpleNamespace(sample_interval=1, seed=0)
    DriftJob.report_run(types.SimpleNamespace(config=config, folder=tmp_path))
    assert "no report (no memory); scripts/report.py tries again" in caplog.text


def test_what_is_said():
    row = {"step": 5, "features": "pixels", "num_samples": 540, "fd_pixels": 1.25, "recall": 0.5}
    row |= {"fd_pixels_error": 0.031, "ema": "0.99"}
    line = result_line([row], config_of("digits"))
    assert line.startswith("fd_pixels 1.25 ± 0.031 at step 5, of 540 samples; 540 training images")
    assert line.endswith("recall 0.500.")
    assert thinned(range(100), 3) == [0, 50, 99] and thinned([1, 2], 3) == [1, 2]
    assert [duration(s) for s in (3.4, 200, 7500)] == ["3 s", "3 min 20 s", "2 h 5 min"]


def config_of(dataset_name, **options):
    return types.SimpleNamespace(dataset_name=dataset_name, data=options)


def test_the_floor_is_of_as_many_training_images_as_there_are_samples():
    """That of mnist_5k is the first row of benchmarks/detail.py, which docs/benchmarks.md has."""
    row = {"features": "pixels", "num_samples": 1000, "reference": "mnist_5k:test"}
    value, text = floor_of(config_of("mnist_5k"), row)
    assert value == pytest.approx(12.15, abs=0.005)
    assert text == "1,000 training images against the held-out ones have 12.15"
    value, text = floor_of(
        config_of("digits"), row | {"num_samples": 50_000, "reference": "digits:test"}
    )
    assert value == pytest.approx(0.2901, abs=5e-4) and text.startswith("1,257 training images")


def test_the_report_says_why_there_is_no_floor(tmp_path):
    row = {"features": "pixels", "num_samples": 50_000}
    told = {
        "it is computed in pixels alone": (None, row | {"features": "inception"}),
        "scored against s.npz": (None, row | {"reference": "s.npz"}),
        "other data than the run's": (config_of("digits"), row | {"reference": "mnist_5k:test"}),
        "other options of the data": (None, row | {"data": "image_size=8"}),
        "images of 32x32x3 would take long": (config_of(write_npz(tmp_path)), row),
        "the data cannot be read": (config_of("npz:/nowhere.npz"), row),
    }
    for text, (config, of_row) in told.items():
        floor = floor_of(config, of_row)
        assert floor.value is None and floor.text.startswith("no floor") and text in floor.text
        assert "no floor" in result_line([of_row | {"fd": 1, "fd_x": 2.0, "step": 1}], config)


def write_npz(folder):
    """Writes ten pictures of 32x32 of each split, and returns the name of the set."""
    images = np.zeros((10, 32, 32, 3), np.uint8)
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", images=images)
    return f"npz:{folder}"


def test_a_collapse_is_told(run):
    records = [{"step": i, "diversity": d} for i, d in enumerate([1.0, 0.01])]
    records.append({"step": 2, "loss": None, "not_finite": {"loss": "nan"}})
    rows = dict(health(records, types.SimpleNamespace(collapse_ratio=0.1)))
    assert rows["collapse watch"].startswith("collapsed: diversity 0.01")
    assert rows["not finite"] == "at steps 2"
    assert report.points(read_metrics(run / "metrics.jsonl"), "loss")
    dip = [{"step": i, "diversity": 0.02 if i == 501 else 1.0} for i in range(1001)]
    rows = dict(health(dip, types.SimpleNamespace(collapse_ratio=0.1)))
    assert "0.02 at its least" in rows["collapse watch"]


def test_a_session_is_from_its_start_to_its_end():
    events = [("start", 0), ("rollback", 10), ("end", 1000), ("start", 2000)]
    events = [{"event": event, "time": time} for event, time in events]
    assert report.time_of_sessions(events) == 1000


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_and_asks_for_nothing(run, width):
    write_report(run, 0, local_sharding())
    address = (run / "report.html").as_uri()
    viewport = {"width": width, "height": 900}
    with opened(address, viewport=viewport, color_scheme="dark") as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        visible = page.locator("figure.slides img:visible")
        assert visible.count() == 1 and visible.get_attribute("data-label") == "step 3"
        page.locator("input[type=range]").fill("0")
        assert visible.get_attribute("data-label") == "step 1"
        output = page.locator("figure.curves output")
        drawing = page.locator("main figure.curves svg").last
        drawing.focus()
        points = page.locator("figure.curves").last.locator("circle title").all_text_contents()
        for key, told in (("ArrowLeft", points[-1]), ("ArrowRight", points[0])):
            drawing.press(key)
            assert output.last.inner_text() == told
        page.locator("figure.curves svg").first.hover()
        assert "loss: step" in output.first.inner_text()
        assert [url for url in page.asked if not url.startswith("data:")] == [address]
