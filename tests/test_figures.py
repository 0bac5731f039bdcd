"""Figures: the right pixels and panels, whole files."""

import os

import matplotlib.image
import numpy as np
import pytest
from PIL import Image

from utils import figures
from utils.errors import UserError
from utils.figures import save_comparison, save_curves, save_grid, save_lines, to_uint8


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))


def find_tile(page, tile):
    """Returns the set of (y, x) at which `tile` [h, w, 3] lies in `page`."""
    windows = np.lib.stride_tricks.sliding_window_view(page, tile.shape)[:, :, 0]
    return {
        tuple(int(v) for v in place) for place in np.argwhere((windows == tile).all(axis=(2, 3, 4)))
    }


def enlarged(image, scale):
    rgb = np.broadcast_to(image, (*image.shape[:2], 3))
    return np.kron(rgb, np.ones((scale, scale, 1), np.uint8))


# ---- grids ----


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_in_its_row_and_column(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels), np.uint8)
    save_grid(
        tmp_path / "grid.png", images, columns=2, row_labels=["a", "b", "c"], title="t", scale=3
    )
    page = read(tmp_path / "grid.png")
    places = []
    for image in images:
        (place,) = find_tile(page, enlarged(image, 3))
        places.append(place)
    ys, xs = sorted({y for y, _ in places}), sorted({x for _, x in places})
    assert places == [(ys[i // 2], xs[i % 2]) for i in range(5)]
    assert len(ys) == 3 and len(xs) == 2
    labels = page[:, : xs[0] - 2]
    for y in ys:  # each row has ink in front of it
        assert (labels[y : y + 12] < 128).any()


def test_small_images_are_enlarged_and_large_ones_are_not(tmp_path):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (1, 8, 8, 1), np.uint8)
    save_grid(tmp_path / "small.png", small, columns=1)
    assert find_tile(read(tmp_path / "small.png"), enlarged(small[0], 6))
    large = rng.integers(0, 256, (1, 64, 64, 3), np.uint8)
    save_grid(tmp_path / "large.png", large, columns=1)
    assert find_tile(read(tmp_path / "large.png"), large[0])


def test_floats_are_scaled_and_clipped_and_nan_is_an_error(tmp_path):
    assert to_uint8(np.array([-2, -1, 0, 1, 7], np.float32)).tolist() == [0, 0, 128, 255, 255]
    back = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(back / np.float32(127.5) - 1), back)
    with pytest.raises(ValueError, match="not finite"):
        save_grid(tmp_path / "grid.png", np.full((1, 4, 4, 1), np.nan), columns=1)
    with pytest.raises(ValueError, match=r"expected images \[N, H, W, 1 or 3\]"):
        save_grid(tmp_path / "grid.png", np.zeros((4, 4, 1)), columns=1)
    with pytest.raises(ValueError, match="1 row labels for 2 rows"):
        save_grid(tmp_path / "grid.png", np.zeros((3, 4, 4, 1)), columns=2, row_labels=["a"])
    assert os.listdir(tmp_path) == []


def test_comparison_shows_generated_left_and_real_right(tmp_path):
    rng = np.random.default_rng(0)
    generated, real = rng.integers(0, 256, (2, 4, 8, 8, 1), np.uint8)
    save_comparison(
        tmp_path / "both.png", generated, real, columns=2, row_labels=["0", "1"], scale=2
    )
    page = read(tmp_path / "both.png")
    for left, right in zip(generated, real, strict=True):
        ((y, x),) = find_tile(page, enlarged(left, 2))
        ((y2, x2),) = find_tile(page, enlarged(right, 2))
        assert y == y2 and x < page.shape[1] / 2 < x2


# ---- curves ----


def records(n=300):
    rng = np.random.default_rng(0)
    keys = (
        "loss",
        "drift_rms_0.02",
        "drift_rms_0.05",
        "drift_rms_0.2",
        "feature_scale",
        "perplexity",
        "grad_norm",
        "update_norm",
        "param_norm",
        "lr",
        "alpha_mean",
        "diversity",
        "images_per_s",
        "data_wait",
        "seconds",
    )
    return [
        {
            "step": 10 * i,
            **dict(zip(keys, rng.random(len(keys)) + 0.1, strict=True)),
            "energy_distance": rng.normal(),
        }
        for i in range(n)
    ]


@pytest.fixture
def panels(monkeypatch):
    """Notes {title: (names of the curves, logarithmic)} of the last figure, which is drawn too."""
    seen, draw = {}, figures._save_figure

    def note(path, panels, title):
        seen.clear()
        seen.update({panel.title: (list(panel.curves), panel.logarithmic) for panel in panels})
        draw(path, panels, title)

    monkeypatch.setattr(figures, "_save_figure", note)
    return seen


def test_curves_have_a_panel_for_each_measure_that_is_there(tmp_path, panels):
    path = tmp_path / "curves.png"
    save_curves(path, records(), collapse_ratio=0.1, title="digits")
    assert panels["drift before normalisation, RMS"] == (
        ["temperature 0.02", "temperature 0.05", "temperature 0.2"],
        True,
    )
    assert panels["energy distance, 0 when equal"] == (["energy distance"], True)
    assert panels["diversity, generated / real"] == (["diversity"], False)
    assert panels["norms and learning rate"] == (
        ["grad norm", "update norm", "param norm", "lr"],
        True,
    )
    assert len(panels) == 7
    picture = matplotlib.image.imread(path)
    assert picture.shape[1] >= 1000 and picture[..., :3].std() > 0.05

    save_curves(
        path, [{"step": 1, "diversity": 1.0, "unheard_of": 3.0}, {"step": 2, "fd_pixels": 1.0}]
    )
    assert panels == {
        "diversity, generated / real": (["diversity"], False),
        "evaluation, distances": (["fd pixels"], True),
    }


def test_curves_stand_odd_records(tmp_path, panels, recwarn):
    path = tmp_path / "curves.png"
    save_curves(path, [])
    save_curves(path, [{"step": 1, "unheard_of": 3.0}])
    assert not path.exists()
    odd = records(60)
    odd[3] |= {"loss": None, "not_finite": {"loss": "nan"}, "lr": 0.0, "perplexity": "text"}
    save_curves(
        path, [{"step": 0, "energy_distance": -1.0}]
    )  # nothing positive to show on a logarithmic axis
    save_curves(path, odd)
    assert path.stat().st_size > 10_000 and not recwarn.list


def test_a_gap_stays_a_gap_and_the_running_mean_is_a_mean():
    class Axes:
        lines = []

        def plot(self, x, y, **_):
            self.lines.append(np.asarray(y))

    y = np.random.default_rng(0).random(81)
    y[40] = np.nan
    figures._draw_curve(Axes(), np.arange(81.0), y, "k", "")
    mean = Axes.lines[1]
    assert np.isnan(mean[40]) and np.isfinite(np.delete(mean, 40)).all()
    for i in (0, 20, 41, 80):
        np.testing.assert_allclose(mean[i], np.nanmean(y[max(i - 2, 0) : i + 3]))


def test_lines_are_drawn(tmp_path):
    save_lines(
        tmp_path / "lines.png",
        [1, 2, 4],
        {"measured": [1, 2, 3], "ideal": [1, 2, 4]},
        "devices",
        "speed",
        "Scaling",
    )
    assert matplotlib.image.imread(tmp_path / "lines.png").shape[:2] == (420, 700)


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    images = np.zeros((1, 8, 8, 1), np.uint8)
    save_grid(tmp_path / "grid.png", images, columns=1)
    before = (tmp_path / "grid.png").read_bytes()

    def full(self, path, **_):
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="could not write .*grid.png: No space left on device"):
        save_grid(tmp_path / "grid.png", images, columns=1)
    assert (tmp_path / "grid.png").read_bytes() == before and os.listdir(tmp_path) == ["grid.png"]
