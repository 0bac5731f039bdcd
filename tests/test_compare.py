"""The page that compares runs: one file, well formed, without a request, with what runs have."""

import base64
import html.parser
import io
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from browser import opened
from conftest import ROOT
from PIL import Image
from test_eval import train

from evaluation.compare_runs import best_value, compared_settings, comparison_page, open_runs
from evaluation.fid_csv import append_row, read_rows
from scripts.compare import take_runs
from utils import page
from utils.errors import UserError
from utils.sharding import local_sharding

VOID = ("meta", "img", "input", "br", "line", "circle", "polyline")


class Reader(html.parser.HTMLParser):
    """Checks that every element is closed, and collects elements and texts."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.found, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID or tag == "circle":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of two steps with scores at both, and a copy of it with one row of scores more."""
    folder = tmp_path_factory.mktemp("runs")
    first, second = folder / "seed<0>", folder / "copy<0>"
    steps = {"max_steps": 2, "eval_interval": 1, "save_interval": 1, "sample_interval": 0}
    train({"save_dir": str(first)} | steps)
    shutil.copytree(first, second)
    row = read_rows(second / "fid.csv")[-1]
    more = {"cfg_scale": 2.0, "fd_pixels": 1.25, "fd_pixels_error": 0.03}
    append_row(second / "fid.csv", row | more)
    return [str(first), str(second)]


@pytest.fixture(scope="module")
def text(runs):
    """Their page."""
    return comparison_page(
        open_runs(runs), seed=0, alpha=1.0, per_class=4, sharding=local_sharding()
    )


def test_the_page(text):
    read = Reader(text)
    assert not re.search('(src|href|action)="(?!data:)', text) and "url(" not in text
    policy = next(
        meta["content"] for meta in read.all("meta") if "content" in meta and "http-equiv" in meta
    )
    assert policy.startswith("default-src 'none'")
    words = " ".join(read.texts)
    assert "seed<0> against copy<0>" in words and "1.25 ± 0.03" in words
    images = read.all("img")
    assert len(images) == 4 and all(image["alt"] for image in images)
    assert images[0]["src"] == images[1]["src"]  # the same parameters and noise
    titles = [svg["aria-label"] for svg in read.all("svg")]
    assert "fd_pixels by step" in titles and "fd_pixels by alpha" in titles


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width, in_a_row", [(1280, 2), (390, 1)])
def test_a_browser_shows_it_and_asks_for_nothing(text, width, in_a_row, scheme, tmp_path):
    """Pictures stand side by side on a wide screen."""
    (tmp_path / "page.html").write_text(text)
    address = (tmp_path / "page.html").as_uri()
    viewport = {"width": width, "height": 900}
    with opened(address, viewport=viewport, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        images = page.locator("figure:not(.curves) img")
        assert images.count() == 4
        for first in (0, 2):  # samples, neighbours
            tops = {images.nth(i).bounding_box()["y"] for i in (first, first + 1)}
            assert len(tops) == 3 - in_a_row
        page.locator("figure.curves svg").first.hover()
        assert "fd_pixels" in page.locator("figure.curves output").first.inner_text()
        assert [url for url in page.asked if not url.startswith("data:")] == [address]


def test_the_program(runs, tmp_path):
    """Runs may stand before flags, after and between them."""
    words = [runs[0], "--out", str(tmp_path / "page.html"), "--per_class=1", runs[1]]
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    Reader((tmp_path / "page.html").read_text())


def test_a_value_of_a_flag_is_no_run():
    words = ["compare.py", "--seed", "3", "a", "--alpha=2", "b", "--out", "--per_class"]
    assert take_runs(words) == ["a", "b"]
    assert words == ["compare.py", "--seed", "3", "--alpha=2", "--out", "--per_class"]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda runs: [], "no run is given"),
        (lambda runs: [*runs, runs[0]], "given twice"),
        (lambda runs: [runs[0] + "/samples"], "is no run folder"),
    ],
)
def test_what_is_no_run(change, words, runs):
    with pytest.raises(UserError, match=words):
        open_runs(change(runs))


def test_the_best_is_named_only_where_rows_compare():
    rows = [{"fd_pixels": value, "precision": value, "features": "pixels"} for value in (2.0, 1.0)]
    assert (best_value("fd_pixels", rows), best_value("precision", rows)) == (1.0, 2.0)
    assert best_value("fd_pixels", [rows[0], rows[0]]) is None  # all are equal
    rows[1]["features"] = "inception"
    assert best_value("fd_pixels", rows) is None
    assert compared_settings(rows[0]) != compared_settings(rows[1])


def test_curves_tell_all_values():
    text = page.curves("<loss>", {"a": [(1, 0.5), (2, float("nan")), (3, 0.25)]}, "step", "loss")
    read = Reader(text)
    assert [circle["cy"] for circle in read.all("circle")] == ["16.0", "276.0"]
    assert "a: step 3, loss 0.25" in read.texts
    assert "no values" in page.curves("x", {"a": [(1, float("inf"))]}, "step", "loss")
    flat = Reader(page.curves("x", {"a": [(5, 1.0)]}, "step", "loss"))
    assert len(flat.all("circle")) == 1


def test_the_numbers_beside_curves_differ():
    for values in ((3.0000002, 2.9999998), (3.0001, 3.0005), (-0.3, 0.2), (2e-9, 5e-9), (8e6, 9e6)):
        told = page._axes(page._Axis(0, 8, 0, 1), page._Axis(*sorted(values), 0, 1), "step")
        labels = re.findall(r'text-anchor="end">(.*?)</text>', told)
        assert len(set(labels)) == len(labels) >= 4
    rounding = {"a": [(1, 3.0000002), (2, 2.9999998)]}
    heights = {
        circle["cy"] for circle in Reader(page.curves("x", rounding, "a", "b")).all("circle")
    }
    assert len(heights) == 1  # a straight line


def test_images_are_kept_to_the_bit():
    for channels in (1, 3):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 4, channels), np.uint8)
        (image,) = Reader(page.image(pixels, 'a "text"', scale=3)).all("img")
        assert (image["width"], image["height"], image["alt"]) == ("12", "15", 'a "text"')
        file = io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))
        assert np.array_equal(np.asarray(Image.open(file)).reshape(pixels.shape), pixels)
