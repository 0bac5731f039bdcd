"""Pictures of a run: grids of samples, and curves. Files are replaced whole."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from utils.files import replacing

if TYPE_CHECKING:
    import PIL.Image
    import PIL.ImageFont
    from matplotlib.axes import Axes

INK, PAPER = (40, 40, 40), (255, 255, 255)
COLORS = ("#1f6fb4", "#d9730d", "#3a9b4e", "#b8434e", "#7a5bb5", "#6b6b6b")
GREEN, RED, GREY = COLORS[2], COLORS[3], COLORS[5]
SMALLEST_SHOWN = 48  # pixels on the screen for the side of a small image


# ---------------------------------------------------------------- grids of images


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Returns images as uint8: floats in [-1, 1] are scaled and clipped, uint8 stays as it is.

    Raises:
        ValueError: a value is not finite; it must not turn black silently.
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    if not np.isfinite(images).all():
        raise ValueError("images hold values that are not finite")
    return np.round((np.clip(images.astype(np.float32), -1, 1) + 1) * 127.5).astype(np.uint8)


def save_grid(
    path: str | os.PathLike,
    images: np.ndarray,
    columns: int,
    row_labels: Sequence[str] | None = None,
    title: str | None = None,
    scale: int | None = None,
) -> None:
    """Saves images as one PNG, row by row.

    Args:
        path: of the PNG.
        images: [N, H, W, 1 or 3], uint8 or floats in [-1, 1].
        columns: images in a row.
        row_labels: one text per row.
        title: a text above.
        scale: pixels on the screen per pixel, nearest neighbour; None: small images are enlarged.
    Raises:
        ValueError: wrong shapes, or values that are not finite.
        UserError: the file cannot be written.
    """
    _save_page(path, [_draw_grid(images, columns, row_labels, scale)], [title])


def save_comparison(
    path: str | os.PathLike,
    generated: np.ndarray,
    real: np.ndarray,
    columns: int,
    row_labels: Sequence[str] | None = None,
    titles: Sequence[str] = ("generated", "real"),
    scale: int | None = None,
) -> None:
    """Saves two grids side by side, the rows of both with the same label. See `save_grid`."""
    left = _draw_grid(generated, columns, row_labels, scale)
    right = _draw_grid(real, columns, None, scale)
    _save_page(path, [left, right], titles)


class _Grid(NamedTuple):
    """A picture of images in rows.

    Attributes:
        picture: labels on the left, then the images with a thin gap between them.
        label_width: in pixels; the first image begins there.
    """

    picture: PIL.Image.Image
    label_width: int


def _draw_grid(
    images: np.ndarray, columns: int, row_labels: Sequence[str] | None, scale: int | None
) -> _Grid:
    from PIL import Image, ImageDraw

    images = to_uint8(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(f"expected images [N, H, W, 1 or 3], got {list(images.shape)}")
    rows = math.ceil(len(images) / columns)
    if row_labels is not None and len(row_labels) != rows:
        raise ValueError(f"{len(row_labels)} row labels for {rows} rows")

    height, width = images.shape[1:3]
    scale = scale or max(1, math.ceil(SMALLEST_SHOWN / max(height, width)))
    height, width, gap = height * scale, width * scale, max(2, scale // 2)
    font = _font(min(18, max(11, height // 3)))
    label_width = 0
    if row_labels is not None:
        label_width = max(math.ceil(font.getlength(str(text))) for text in row_labels) + 10

    page_width = label_width + columns * (width + gap) - gap
    page_height = rows * (height + gap) - gap
    picture = Image.new("RGB", (page_width, page_height), PAPER)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        tile = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        tile = tile.resize((width, height), Image.Resampling.NEAREST)
        picture.paste(tile, (label_width + column * (width + gap), row * (height + gap)))

    draw = ImageDraw.Draw(picture)
    for row, text in enumerate(row_labels or ()):
        right_middle = (label_width - 10, row * (height + gap) + height // 2)
        draw.text(right_middle, str(text), fill=INK, font=font, anchor="rm")
    return _Grid(picture, label_width)


def _save_page(
    path: str | os.PathLike, grids: Sequence[_Grid], titles: Sequence[str | None]
) -> None:
    """Saves grids side by side, each with its title above its first image."""
    from PIL import Image, ImageDraw

    font, margin, between = _font(16), 12, 28
    top = margin + (26 if any(titles) else 0)
    widths = []
    for grid, title in zip(grids, titles, strict=True):
        title_end = grid.label_width + math.ceil(font.getlength(title or ""))
        widths.append(max(grid.picture.width, title_end))
    page_width = sum(widths) + between * (len(grids) - 1) + 2 * margin
    page_height = max(grid.picture.height for grid in grids) + top + margin

    page = Image.new("RGB", (page_width, page_height), PAPER)
    draw, x = ImageDraw.Draw(page), margin
    for grid, title, width in zip(grids, titles, widths, strict=True):
        page.paste(grid.picture, (x, top))
        if title:
            draw.text((x + grid.label_width, margin), title, fill=INK, font=font, anchor="lt")
        x += width + between
    with replacing(path) as temporary:
        page.save(temporary, format="PNG", optimize=False)


def _font(size: int) -> PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


# ---------------------------------------------------------------- panels of curves


class Panel(NamedTuple):
    """One panel of a figure.

    Attributes:
        title: above it.
        curves: {name: (x, y)}.
        xlabel: below it; "step" is written in thousands where the numbers are large.
        ylabel: beside it.
        logarithmic: whether y is.
        levels: (y, name, colour) of dashed horizontal lines.
    """

    title: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    xlabel: str
    ylabel: str
    logarithmic: bool
    levels: Sequence[tuple[float, str, str]] = ()


def save_curves(
    path: str | os.PathLike,
    records: Sequence[Mapping[str, Any]],
    collapse_ratio: float | None = None,
    title: str | None = None,
) -> None:
    """Saves the curves of a run as a PNG, with a panel for each measure that is there.

    Args:
        path: of the PNG. Without any known measure it is not written.
        records: those of `metrics.jsonl`. Unknown keys are ignored, null values leave a gap.
        collapse_ratio: drawn as a line under the diversity.
        title: above all panels.
    """
    found = {key for record in records for key in record} - {"step"}
    series = {key: _series(records, key) for key in found}
    series = {key: (steps, values) for key, (steps, values) in series.items() if steps}
    levels = [(1.0, "as diverse as the reals", GREEN)]
    if collapse_ratio:
        levels.append((collapse_ratio, "collapse", RED))

    panels = []
    for panel_title, keys, logarithmic in _measures(series):
        if keys:
            curves = {_short(key): series[key] for key in keys}
            lines = levels if keys == ["diversity"] else ()
            panels.append(Panel(panel_title, curves, "step", "", logarithmic, lines))
    if panels:
        _save_figure(path, panels, title)


def _measures(known: Iterable[str]) -> list[tuple[str, list[str], bool]]:
    """Returns (title, keys, logarithmic) of the panels of a run.

    The keys are those of the known ones that belong there, so there may be none.
    """

    def beginning(*prefixes: str) -> list[str]:
        return sorted((key for key in known if key.startswith(prefixes)), key=_natural)

    def named(*names: str) -> list[str]:
        return [name for name in names if name in known]

    drifts = beginning("drift_rms_")
    of_encoders = beginning("loss/"), beginning("drift/")
    scores = beginning("precision", "recall", "agreement", "class_agreement")
    sizes = named("grad_norm", "update_norm", "param_norm", "lr")
    # A drifting loss is the size of a drift that is normalised, so it hardly changes.
    loss_title = "loss (nearly constant by construction)" if drifts else "loss"
    return [
        (loss_title, named("loss"), False),
        ("drift before normalisation, RMS", drifts, True),
        ("loss of each encoder", of_encoders[0], True),
        ("drift of each encoder, RMS", of_encoders[1], True),
        ("energy distance, 0 when equal", named("energy_distance"), True),
        ("diversity, generated / real", named("diversity"), False),
        ("evaluation, distances", beginning("fd_", "fid", "kid"), True),
        ("evaluation, shares", scores, False),
        ("perplexity: reals sharing the attraction", named("perplexity"), False),
        ("norms and learning rate", sizes, True),
        ("images per second", named("images_per_s"), False),
        ("share of the devices' matrix arithmetic (MFU)", named("mfu"), False),
    ]


def _series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Returns (steps, values) of the records that have a number, or null, for the key."""
    steps, values = [], []
    for record in records:
        value = record.get(key, "")
        if not isinstance(value, str | dict | list):
            steps.append(record["step"])
            values.append(math.nan if value is None else value)
    return steps, values


def _short(key: str) -> str:
    """Returns the name of a curve in the legend."""
    name = key.removeprefix("loss/").removeprefix("drift/")
    return name.replace("drift_rms_", "temperature ").replace("_", " ")


def _natural(key: str) -> tuple[str, float]:
    """Returns what sorts drift_rms_0.05 before drift_rms_0.2, by number."""
    head, _, tail = key.rpartition("_")
    is_number = tail.replace(".", "", 1).isdecimal()
    return (head, float(tail)) if is_number else (key, 0.0)


def save_lines(
    path: str | os.PathLike,
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
    title: str,
    log: bool = False,
) -> None:
    """Saves one panel with the curves {name: y} over `x` as a PNG. log: logarithmic y."""
    curves = {name: (x, y) for name, y in lines.items()}
    _save_figure(path, [Panel(title, curves, xlabel, ylabel, log)], None)


def save_panels(path: str | os.PathLike, panels: Sequence[tuple], title: str | None = None) -> None:
    """Saves panels, each given as a `Panel` or a tuple of its values, as a PNG."""
    _save_figure(path, [Panel(*panel) for panel in panels], title)


# ---------------------------------------------------------------- drawing


def _save_figure(path: str | os.PathLike, panels: Sequence[Panel], title: str | None) -> None:
    """Draws the panels in rows. Without pyplot there is no global state: any thread may do it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = _columns(len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = (7, 4.2) if len(panels) == 1 else (4 * columns, 2.75 * rows)  # inches
    figure = Figure(figsize=(width, height), dpi=100)
    # Fixed margins, in inches, are drawn twice as fast as a layout that is computed.
    above = 0.75 if title else 0.4
    figure.subplots_adjust(
        left=0.6 / width,
        right=1 - 0.2 / width,
        bottom=0.5 / height,
        top=1 - above / height,
        wspace=0.22,
        hspace=0.42,
    )
    for number, panel in enumerate(panels, start=1):
        _draw_panel(figure.add_subplot(rows, columns, number), panel)
    if title:
        figure.text(0.6 / width, 1 - 0.22 / height, title, fontsize=12, va="center")
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def _columns(n_panels: int) -> int:
    """Returns how many panels stand side by side, so that the last row is nearly full."""
    if n_panels in (1, 2):
        return n_panels
    if n_panels == 4:
        return 2
    return 4 if n_panels in (7, 8) else 3


def _draw_panel(axes: Axes, panel: Panel) -> None:
    for i, (label, (x, y)) in enumerate(panel.curves.items()):
        color = COLORS[i % len(COLORS)]
        _draw_curve(axes, np.asarray(x, float), np.asarray(y, float), color, label)
    for level, label, color in panel.levels:
        axes.axhline(level, color=color, linewidth=1, linestyle="--", label=label)
    if panel.logarithmic:
        all_y = [np.asarray(y, float) for _, y in panel.curves.values()]
        _make_logarithmic(axes, np.concatenate(all_y))
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_xlabel(panel.xlabel, fontsize=9)
    axes.set_ylabel(panel.ylabel, fontsize=9)
    axes.locator_params(axis="x", nbins=6)
    if panel.xlabel == "step" and axes.get_xlim()[1] >= 10_000:
        axes.xaxis.set_major_formatter(_in_thousands)
    axes.tick_params(labelsize=8)
    axes.grid(True, color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(panel.curves) > 1 or panel.levels or panel.title.startswith("evaluation"):
        columns = 2 if len(panel.curves) > 3 else 1
        axes.legend(fontsize=8, framealpha=0.8, edgecolor="none", ncols=columns)


def _draw_curve(axes: Axes, x: np.ndarray, y: np.ndarray, color: str, label: str) -> None:
    """Draws a few points with markers, and many as a faint line under their running mean."""
    if len(x) <= 40:
        axes.plot(x, y, color=color, linewidth=1.4, marker="o", markersize=3, label=label)
        return
    axes.plot(x, y, color=color, linewidth=0.8, alpha=0.35)
    mean = _running_mean(y, len(x) // 40 * 2 + 1)
    axes.plot(x, mean, color=color, linewidth=1.5, label=label)


def _running_mean(y: np.ndarray, width: int) -> np.ndarray:
    """Returns the means over windows of `width` points around each; gaps (NaN) stay gaps."""
    window = np.ones(width)
    known = np.isfinite(y)
    total = np.convolve(np.where(known, y, 0), window, mode="same")
    count = np.convolve(known.astype(float), window, mode="same")
    return np.where(known, total / np.maximum(count, 1), np.nan)


def _make_logarithmic(axes: Axes, values: np.ndarray) -> None:
    """Makes y logarithmic, with plain numbers.

    Where some values are not positive, as of an unbiased estimate near its end, the axis is linear
    below a thousandth of the greatest value.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if not len(positive):
        return
    low, high = positive.min(), positive.max()
    if len(positive) < len(values):
        axes.set_yscale("symlog", linthresh=high / 1000, linscale=0.5)
        axes.axhline(0, color=GREY, linewidth=0.8)
    else:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
        labelled = (1, 2, 5) if high / low < 50 else (1,)  # times a power of ten
        axes.yaxis.set_major_locator(LogLocator(subs=labelled))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(_plainly)


def _in_thousands(step: float, _position: float) -> str:
    return f"{step / 1000:g}k"


def _plainly(value: float, _position: float) -> str:
    return f"{value:g}"
