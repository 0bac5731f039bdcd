"""One page of HTML that needs nothing but itself: no server, no script of others, no request.

    body = [section("Scores", table(["run", "fid"], [["a", 8.43]]))]
    path.write_text(page("Two runs", body))

All functions return HTML as text, and escape what they are given; parts are put together as
strings. A page reads in the dark and on a narrow screen, images have texts in their place, and
curves tell their values where the pointer is. The browser is told to load nothing, so a mistake
here cannot make a request.
"""

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

# What the browser may load: images that are inside the page, and its own style and script.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
COLOURS = ("#3b7dd8", "#d9792b", "#3a9d5d", "#c2405a", "#8a63c4", "#8a7a2f")

STYLE = """
:root { color-scheme: light dark; --ink: #1c1f24; --paper: #fdfdfb; --line: #c9ccd1; --soft: #667; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --paper: #17191d; --line: #454a52; --soft: #9aa; }
}
body { margin: 0 auto; max-width: 70rem; padding: 1rem; background: var(--paper);
       color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p.note, figcaption, output { color: var(--soft); font-size: 0.9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { border-bottom: 1px solid var(--line); padding: 0.3rem 0.5rem; text-align: left;
         white-space: nowrap; }
td.number, th.number { text-align: right; }
td:not(.number) { white-space: normal; overflow-wrap: anywhere; min-width: 6rem; }
td.best { font-weight: 700; }
.beside { display: flex; flex-wrap: wrap; gap: 1.5rem; }
.beside > figure.curves { flex: 1 1 24rem; max-width: 34rem; }
.beside > figure:not(.curves) figcaption { max-width: 21rem; }
figure { margin: 0; } figure img { max-width: 100%; height: auto; image-rendering: pixelated; }
svg { width: 100%; max-width: 34rem; height: auto; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .axis { stroke: var(--line); }
@media (max-width: 36rem) { svg text { font-size: 15px; } }
output { display: block; min-height: 1.5em; }
p.lead { font-size: 1.2rem; margin: 0.5rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line);
      border-radius: 6px; padding: 0.7rem; font-size: 0.85rem; }
input[type="range"] { width: min(100%, 34rem); }
.slides img[hidden] { display: none; }
"""

# The point nearest to the pointer is told below its curves; arrows on a keyboard go through them.
SCRIPT = """
for (const figure of document.querySelectorAll("figure.curves")) {
  const points = [...figure.querySelectorAll("circle")];
  const output = figure.querySelector("output");
  let chosen = -1;
  const choose = (index) => {
    if (chosen >= 0) points[chosen].setAttribute("r", 3);
    chosen = index;
    points[chosen].setAttribute("r", 6);
    output.textContent = points[chosen].querySelector("title").textContent;
  };
  const svg = figure.querySelector("svg");
  svg.addEventListener("pointermove", (event) => {
    const matrix = svg.getScreenCTM().inverse();
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
    const distances = points.map((point) =>
      Math.hypot(point.cx.baseVal.value - at.x, point.cy.baseVal.value - at.y));
    choose(distances.indexOf(Math.min(...distances)));
  });
  svg.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    event.preventDefault();  // the page would scroll
    const from = chosen < 0 && step < 0 ? 0 : chosen;
    choose((from + step + points.length) % points.length);
  });
}
// A slider shows one of its pictures.
for (const figure of document.querySelectorAll("figure.slides")) {
  const slider = figure.querySelector("input");
  const images = [...figure.querySelectorAll("img")];
  const show = () => {
    images.forEach((image, index) => { image.hidden = index !== Number(slider.value); });
    const text = images[slider.value].dataset.label;
    figure.querySelector("output").textContent = text;
    slider.setAttribute("aria-valuetext", text);
  };
  slider.addEventListener("input", show);
  show();
}
"""


# ---------------------------------------------------------------- a page and its parts


def page(
    title: str,
    parts: Iterable[str],
    *,
    policy: str = POLICY,
    style: str = "",
    end: str = f"<script>{SCRIPT}</script>",
) -> str:
    """Returns a whole page.

    Args:
        title: of the page.
        parts: HTML, one after the other.
        policy: what the browser may load.
        style: rules for this page alone.
        end: HTML after all parts; as it stands, the script for curves and slides.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,"/>
<title>{html.escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<main>
<h1>{html.escape(title)}</h1>
{"".join(parts)}
</main>
{end}
</body>
</html>
"""


def section(title: str, *parts: str) -> str:
    """Returns parts under a title."""
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>\n"


def note(text: str) -> str:
    """Returns a paragraph of small text."""
    return f'<p class="note">{html.escape(text)}</p>'


def lead(text: str) -> str:
    """Returns a paragraph of large text, for what a page has to say."""
    return f'<p class="lead">{html.escape(text)}</p>'


def code(text: str) -> str:
    """Returns commands, or other text whose lines stay as they are."""
    return f"<pre><code>{html.escape(text)}</code></pre>"


def slides(title: str, files: Mapping[str, bytes]) -> str:
    """Returns pictures of which a slider shows one, the last at first.

    Args:
        title: what they are of.
        files: PNG files by their labels, such as "step 100".
    """
    images = []
    for label, content in files.items():
        data, text = base64.b64encode(content).decode(), html.escape(f"{title}, {label}")
        images.append(
            f'<img src="data:image/png;base64,{data}" alt="{text}" '
            f'data-label="{html.escape(label)}" hidden>'
        )
    last = len(images) - 1
    return (
        f'<figure class="slides"><figcaption>{html.escape(title)}</figcaption>'
        f'<input type="range" min="0" max="{last}" value="{last}" '
        f'aria-label="{html.escape(title)}"><output></output>{"".join(images)}</figure>'
    )


def beside(*parts: str) -> str:
    """Returns parts beside one another, or one below the other where the screen is narrow."""
    return f'<div class="beside">{"".join(parts)}</div>'


def image(pixels: np.ndarray, text: str, caption: str = "", scale: int = 1) -> str:
    """Returns an image.

    Args:
        pixels: uint8 [H,W,1 or 3].
        text: what stands in its place for who cannot see it.
        caption: below it.
        scale: how many points of the screen a pixel has on a side.
    """
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    height, width = (scale * side for side in pixels.shape[:2])
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(text)}" '
        f'width="{width}" height="{height}">{below}</figure>'
    )


class Cell(NamedTuple):
    """A cell of a table, marked as the best of its column or not."""

    text: str
    best: bool = False


def table(columns: Sequence[str], rows: Iterable[Sequence[str | float | Cell]]) -> str:
    """Returns a table; numbers stand at the right, to four digits.

    Args:
        columns: their titles.
        rows: text, numbers or cells, as many as there are columns.
    """
    rows = list(rows)
    is_text = [isinstance(value, str) for value in rows[0]] if rows else [True] * len(columns)
    head = "".join(map(_column, columns, is_text))
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def _column(title: str, is_text: bool) -> str:
    """Returns the head of a column, over its values."""
    names = "" if is_text else ' class="number"'
    return f'<th scope="col"{names}>{html.escape(title)}</th>'


def _cell(value: str | float | Cell) -> str:
    if isinstance(value, Cell):
        names = "number best" if value.best else "number"
        return f'<td class="{names}">{html.escape(value.text)}</td>'
    if isinstance(value, str):
        return f"<td>{html.escape(value)}</td>"
    return f'<td class="number">{value:.4g}</td>'


# ---------------------------------------------------------------- curves

WIDTH, HEIGHT = 560, 320  # of a drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 44  # margins
TICKS = 5
FLAT = 1e-5  # share of its values below which a curve is a straight line, rounding beside

Points = Sequence[tuple[float, float]]


def curves(title: str, series: Mapping[str, Points], x_name: str, y_name: str) -> str:
    """Returns curves that tell their values where the pointer is, and under the arrow keys.

    Args:
        title: above them.
        series: the points (x, y) of each, in the order of x, by name. Points that are not finite
            are left out.
        x_name, y_name: of the axes; the upper one is named where values are told.
    """
    finite = {
        name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()
    }
    all_points = [point for points in finite.values() for point in points]
    if not all_points:
        return note(f"{title}: no values")
    xs, ys = zip(*all_points, strict=True)
    x_axis = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y_axis = _Axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP)
    drawn = [_axes(x_axis, y_axis, x_name)]
    legend = []
    for number, (name, points) in enumerate(finite.items()):
        colour = COLOURS[number % len(COLOURS)]
        drawn.append(_curve(name, points, colour, x_axis, y_axis, (x_name, y_name)))
        legend.append(f'<span style="color:{colour}">&#9679;</span> {html.escape(name)}')
    return (
        f'<figure class="curves"><figcaption>{html.escape(title)}<br>{" ".join(legend)}'
        f'</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" '
        f'aria-label="{html.escape(title)}">{"".join(drawn)}</svg>'
        f'<output aria-live="polite"></output></figure>'
    )


class _Axis:
    """From values to places of a drawing."""

    def __init__(self, low: float, high: float, start: float, end: float):
        if high - low <= FLAT * max(abs(low), abs(high)):
            margin = abs(low) / 2 or 0.5
            low, high = low - margin, high + margin
        self.step = _round_step((high - low) / TICKS)
        self.low = math.floor(low / self.step) * self.step
        self.high = math.ceil(high / self.step) * self.step
        self.start, self.end = start, end

    def place(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        count = round((self.high - self.low) / self.step)
        first = round(self.low / self.step)
        return [(first + i) * self.step for i in range(count + 1)]

    def label(self, value: float) -> str:
        """Returns a number with as many digits as tell it from the next one."""
        largest = max(abs(self.low), abs(self.high))
        decimals = max(0, -math.floor(math.log10(self.step) + 1e-9))
        if largest < 1e6 and decimals <= 5:
            return f"{value:,.{decimals}f}"
        digits = max(4, math.ceil(math.log10(largest / self.step)) + 1)
        return f"{value:.{digits}g}"


def _round_step(step: float) -> float:
    """Returns the least of 1, 2, 5, 10, 20 ..., 0.1 ... that is at least a step."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= step * (1 - 1e-9))


def _axes(x_axis: _Axis, y_axis: _Axis, x_name: str) -> str:
    """Returns lines and numbers of both axes, and the name of the lower one."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in x_axis.ticks():
        x = x_axis.place(value)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{x_axis.label(value)}</text>'
        )
    for value in y_axis.ticks():
        y = y_axis.place(value)
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{y_axis.label(value)}</text>'
        )
    middle = (LEFT + right) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x_name)}</text>'
    )
    return "".join(parts)


def _curve(
    name: str,
    points: Points,
    colour: str,
    x_axis: _Axis,
    y_axis: _Axis,
    axis_names: tuple[str, str],
) -> str:
    """Returns a line through points, and a dot with its values at each."""
    x_name, y_name = axis_names
    places = [(x_axis.place(x), y_axis.place(y)) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for (x, y), (left, top) in zip(points, places, strict=True):
        told = html.escape(f"{name}: {x_name} {x:.6g}, {y_name} {y:.5g}")
        parts.append(
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3" fill="{colour}">'
            f"<title>{told}</title></circle>"
        )
    return "".join(parts)
