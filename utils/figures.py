"""Pictures of a run: grids of samples and the curves of training. All are replaced atomically."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.files import replacing

INK, PAPER = (40, 40, 40), (255, 255, 255)
COLORS = ("#1f6fb4", "#d9730d", "#3a9b4e", "#b8434e", "#7a5bb5", "#6b6b6b")
SMALLEST_SHOWN = 48  # pixels on the screen for the side of a small image


# ---- grids ----


def to_uint8(images: np.ndarray) -> np.ndarray:
    """uint8 as it is; floats in [-1, 1], clipped, to uint8. Raises ValueError for NaN, which must not
    turn black silently."""
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
    """A PNG of `images` [N, H, W, 1 or 3] (uint8, or floats in [-1, 1]), row by row with `columns` in a
    row.

    row_labels: one text per row.  scale: screen pixels per pixel, nearest neighbour; None: small images
    are enlarged.
    Raises ValueError for wrong shapes, UserError when `path` cannot be written.
    """
    _save(path, [_grid(images, columns, row_labels, scale)], [title])


def save_comparison(
    path: str | os.PathLike,
    generated: np.ndarray,
    real: np.ndarray,
    columns: int,
    row_labels: Sequence[str] | None = None,
    titles: Sequence[str] = ("generated", "real"),
    scale: int | None = None,
) -> None:
    """Two grids side by side, the rows of both with the same label; arguments as in `save_grid`."""
    _save(
        path,
        [_grid(generated, columns, row_labels, scale), _grid(real, columns, None, scale)],
        titles,
    )


def _grid(images: np.ndarray, columns: int, row_labels: Sequence[str] | None, scale: int | None):
    """(PIL image, where its tiles start): labels on the left, tiles with a thin gap."""
    from PIL import Image, ImageDraw

    images = to_uint8(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(f"expected images [N, H, W, 1 or 3], got {list(images.shape)}")
    n, height, width, _ = images.shape
    scale = scale or max(1, math.ceil(SMALLEST_SHOWN / max(height, width)))
    height, width, gap = height * scale, width * scale, max(2, scale // 2)
    rows = -(-n // columns)
    if row_labels is not None and len(row_labels) != rows:
        raise ValueError(f"{len(row_labels)} row labels for {rows} rows")
    font = _font(min(18, max(11, height // 3)))
    left = (
        0
        if row_labels is None
        else max(math.ceil(font.getlength(str(text))) for text in row_labels) + 10
    )
    canvas = Image.new(
        "RGB", (left + columns * (width + gap) - gap, rows * (height + gap) - gap), PAPER
    )
    draw = ImageDraw.Draw(canvas)
    for i, image in enumerate(images):
        tile = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        place = left + i % columns * (width + gap), i // columns * (height + gap)
        canvas.paste(tile.resize((width, height), Image.Resampling.NEAREST), place)
    for row, text in enumerate(row_labels or ()):
        draw.text(
            (left - 10, row * (height + gap) + height // 2),
            str(text),
            fill=INK,
            font=font,
            anchor="rm",
        )
    return canvas, left


def _save(path: str | os.PathLike, grids: list, titles: Sequence[str | None]) -> None:
    from PIL import Image, ImageDraw

    font, margin, between = _font(16), 12, 28
    top = margin + (26 if any(titles) else 0)
    widths = [
        max(grid.width, left + math.ceil(font.getlength(title or "")))
        for (grid, left), title in zip(grids, titles, strict=True)
    ]
    height = max(grid.height for grid, _ in grids)
    page = Image.new(
        "RGB", (sum(widths) + between * (len(grids) - 1) + 2 * margin, height + top + margin), PAPER
    )
    draw, x = ImageDraw.Draw(page), margin
    for (grid, left), title, width in zip(grids, titles, widths):
        page.paste(grid, (x, top))
        if title:
            draw.text((x + left, margin), title, fill=INK, font=font, anchor="lt")
        x += width + between
    with replacing(path) as temporary:
        page.save(temporary, format="PNG", optimize=False)


def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size)


# ---- curves ----


def save_curves(
    path: str | os.PathLike,
    records: Sequence[Mapping[str, Any]],
    collapse_ratio: float | None = None,
    title: str | None = None,
) -> None:
    """The curves of a run as a PNG, from the records of its `metrics.jsonl`; a panel for each measure
    that is there.

    collapse_ratio: drawn as a line under the diversity. Unknown keys are ignored, null values leave a gap.
    """
    series = {
        key: _series(records, key)
        for key in {key for record in records for key in record} - {"step"}
    }
    series = {key: xy for key, xy in series.items() if len(xy[0])}
    starting = lambda *prefixes: sorted((k for k in series if k.startswith(prefixes)), key=_natural)
    known = lambda *names: [name for name in names if name in series]
    drifts = starting("drift_rms_")
    panels = [  # title, keys, logarithmic
        ("loss (nearly constant by construction)" if drifts else "loss", known("loss"), False),
        ("drift before normalisation, RMS", drifts, True),
        ("energy distance, 0 when equal", known("energy_distance"), True),
        ("diversity, generated / real", known("diversity"), False),
        ("evaluation, distances", starting("fd_", "fid", "kid"), True),
        (
            "evaluation, shares",
            starting("precision", "recall", "agreement", "class_agreement"),
            False,
        ),
        ("perplexity: reals sharing the attraction", known("perplexity"), False),
        ("norms and learning rate", known("grad_norm", "update_norm", "param_norm", "lr"), True),
        ("images per second", known("images_per_s"), False),
    ]
    plots = [
        (name, {_short(key): series[key] for key in keys}, "step", "", log)
        for name, keys, log in panels
        if keys
    ]
    if not plots:
        return
    lines = {"diversity, generated / real": [(1.0, "as diverse as the reals", "#3a9b4e")]}
    if collapse_ratio:
        lines["diversity, generated / real"].append((collapse_ratio, "collapse", "#b8434e"))
    _figure(path, plots, lines, title)


def save_lines(
    path: str | os.PathLike,
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
    title: str,
    log: bool = False,
) -> None:
    """One panel with the curves {name: y} over `x`, as a PNG. log: logarithmic y."""
    _figure(
        path, [(title, {name: (x, y) for name, y in lines.items()}, xlabel, ylabel, log)], {}, None
    )


def save_panels(path: str | os.PathLike, panels: Sequence[tuple], title: str | None = None) -> None:
    """Panels (title, {name: (x, y)}, xlabel, ylabel, logarithmic y) as a PNG."""
    _figure(path, panels, {}, title)


def _figure(path, plots, reference_lines, title) -> None:
    """plots: (title, {name: (x, y)}, xlabel, ylabel, logarithmic). Without pyplot: no global state, safe
    in any thread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = {1: 1, 2: 2, 4: 2}.get(len(plots), 4 if len(plots) in (7, 8) else 3)
    rows = -(-len(plots) // columns)
    width, height = (7, 4.2) if len(plots) == 1 else (4 * columns, 2.75 * rows)
    figure = Figure(figsize=(width, height), dpi=100)
    above = 0.75 if title else 0.4  # inches; fixed margins draw twice as fast as a computed layout
    figure.subplots_adjust(
        left=0.6 / width,
        right=1 - 0.2 / width,
        bottom=0.5 / height,
        top=1 - above / height,
        wspace=0.22,
        hspace=0.42,
    )
    for number, (name, curves, xlabel, ylabel, log) in enumerate(plots):
        axes = figure.add_subplot(rows, columns, number + 1)
        for i, (label, (x, y)) in enumerate(curves.items()):
            _curve(axes, np.asarray(x, float), np.asarray(y, float), COLORS[i % len(COLORS)], label)
        for level, text, color in reference_lines.get(name, ()):
            axes.axhline(level, color=color, linewidth=1, linestyle="--", label=text)
        if log:
            _logarithmic(axes, np.concatenate([np.asarray(y, float) for _, y in curves.values()]))
        axes.set_title(name, fontsize=10, loc="left")
        axes.set_xlabel(xlabel, fontsize=9)
        axes.set_ylabel(ylabel, fontsize=9)
        axes.locator_params(axis="x", nbins=6)
        if xlabel == "step" and axes.get_xlim()[1] >= 10_000:
            axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k")
        axes.tick_params(labelsize=8)
        axes.grid(True, color="#e4e4e4", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if len(curves) > 1 or name in reference_lines or name.startswith("evaluation"):
            axes.legend(
                fontsize=8, framealpha=0.8, edgecolor="none", ncols=2 if len(curves) > 3 else 1
            )
    if title:
        figure.text(0.6 / width, 1 - 0.22 / height, title, fontsize=12, va="center")
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def _curve(axes, x: np.ndarray, y: np.ndarray, color: str, label: str) -> None:
    """A few points with markers; many as a faint line under their running mean."""
    if len(x) <= 40:
        axes.plot(x, y, color=color, linewidth=1.4, marker="o", markersize=3, label=label)
        return
    window = np.ones(len(x) // 40 * 2 + 1)
    known = np.isfinite(y)
    total, count = (
        np.convolve(a, window, mode="same") for a in (np.where(known, y, 0), known.astype(float))
    )
    axes.plot(x, y, color=color, linewidth=0.8, alpha=0.35)
    axes.plot(
        x,
        np.where(known, total / np.maximum(count, 1), np.nan),
        color=color,
        linewidth=1.5,
        label=label,
    )


def _logarithmic(axes, values: np.ndarray) -> None:
    """Logarithmic y with plain numbers; linear below a thousandth of the greatest where values are <= 0 (an unbiased
    estimate near its end)."""
    from matplotlib.ticker import LogLocator, NullLocator

    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if not len(positive):
        return
    low, high = positive.min(), positive.max()
    if len(positive) < len(values):
        axes.set_yscale("symlog", linthresh=high / 1000, linscale=0.5)
        axes.axhline(0, color=COLORS[-1], linewidth=0.8)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        return
    axes.set_yscale("log")
    axes.set_ylim(low / 1.3, high * 1.3)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 50 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    pairs = [(record["step"], record[key]) for record in records if key in record]
    pairs = [
        (step, math.nan if value is None else value)
        for step, value in pairs
        if not isinstance(value, (str, dict, list))
    ]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _short(key: str) -> str:
    return key.replace("drift_rms_", "temperature ").replace("_", " ")


def _natural(key: str) -> tuple:
    head, _, tail = key.rpartition("_")
    return (head, float(tail)) if tail.replace(".", "", 1).isdecimal() else (key, 0.0)
