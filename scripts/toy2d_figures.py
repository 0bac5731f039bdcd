"""The pictures of scripts/toy2d.py: samples and field over time, and the curves."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.figures import save_panels
from utils.files import replacing

POINTS, REAL, ARROWS = "#d9730d", "#b9c3cc", "#1f6fb4"
ARROW_COUNT = 40
VIEW = (-2.9, 4.3)  # what is shown of the plane, along both axes
# The shares of the training that the strip shows: early steps change most.
SHARES_SHOWN = (0, 1 / 50, 1 / 15, 1 / 5, 1 / 2, 1)
GIF_FRAMES = 40


def steps_shown(last: int) -> set[int]:
    """Returns the steps that the strip and the animation show, of a training of `last` steps."""
    strip = {round(share * last) for share in SHARES_SHOWN}
    # The square makes them denser at the start.
    animation = {round(last * (i / GIF_FRAMES) ** 2) for i in range(GIF_FRAMES + 1)}
    return strip | animation


def draw_frame(axes: Any, real: np.ndarray, frame: tuple, largest: float) -> None:
    """Draws generated samples over real ones, and V at some of them.

    The length of an arrow grows with the root of |V|; the longest stands for `largest`.

    Args:
        axes: of Matplotlib.
        real: [N, 2].
        frame: (step, x [N, 2], V [N, 2]).
        largest: the greatest |V| of the training.
    """
    _, x, v = frame
    axes.scatter(*real.T, s=2, color=REAL, linewidths=0, rasterized=True)
    axes.scatter(*x.T, s=5, color=POINTS, alpha=0.75, linewidths=0)
    x, v = x[:ARROW_COUNT], v[:ARROW_COUNT]
    length = np.linalg.norm(v, axis=1, keepdims=True)
    arrows = v / np.maximum(length, 1e-9) * np.sqrt(length / largest)
    axes.quiver(
        *x.T,
        *arrows.T,
        angles="xy",
        scale_units="xy",
        scale=1,
        color=ARROWS,
        width=0.006,
        headwidth=4,
        alpha=0.8,
        zorder=3,
    )
    axes.set(xlim=VIEW, ylim=VIEW, xticks=[], yticks=[], aspect="equal")
    for spine in axes.spines.values():
        spine.set_color("#dddddd")


def largest_drift(run: dict[str, Any]) -> float:
    """Returns the greatest |V| of a run's frames, or 1 if all are 0."""
    return max(float(np.linalg.norm(v, axis=1).max()) for _, _, v in run["frames"]) or 1.0


def draw_strip(path: pathlib.Path, real: np.ndarray, runs: dict[str, dict], title: str) -> None:
    """Draws a PNG whose rows are starting points and whose columns are steps.

    Args:
        path: of the file.
        real: samples [N, 2] of the distribution.
        runs: {starting point: what `toy2d_lab.train` returned}.
        title: above all of it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    last = next(iter(runs.values()))["frames"][-1][0]
    steps = [round(share * last) for share in SHARES_SHOWN]
    width, height = 2.1 * len(steps) + 0.5, 2.1 * len(runs) + 0.75  # inches
    figure = Figure(figsize=(width, height), dpi=110)
    figure.subplots_adjust(
        left=0.4 / width,
        right=0.995,
        bottom=0.01,
        top=1 - 0.7 / height,
        wspace=0.03,
        hspace=0.03,
    )
    for row, (start, run) in enumerate(runs.items()):
        frames = {frame[0]: frame for frame in run["frames"]}
        for column, step in enumerate(steps):
            axes = figure.add_subplot(len(runs), len(steps), row * len(steps) + column + 1)
            draw_frame(axes, real, frames[step], largest_drift(run))
            if row == 0:
                axes.set_title(f"step {step}", fontsize=10)
            if column == 0:
                axes.set_ylabel(start, fontsize=11)
    figure.suptitle(title, fontsize=12, y=1 - 0.2 / height)
    with replacing(path) as temporary:
        as_image(FigureCanvasAgg(figure)).save(temporary, format="PNG", optimize=True)


def draw_gif(path: pathlib.Path, real: np.ndarray, runs: dict[str, dict]) -> None:
    """Draws the starting points side by side, over time. The arguments are those of the strip."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = []
    for frames in zip(*(run["frames"] for run in runs.values()), strict=True):
        figure = Figure(figsize=(3 * len(runs), 3.3), dpi=80)
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.9, wspace=0.03)
        canvas = FigureCanvasAgg(figure)
        for i, (start, frame) in enumerate(zip(runs, frames, strict=True)):
            axes = figure.add_subplot(1, len(runs), i + 1)
            draw_frame(axes, real, frame, largest_drift(runs[start]))
            axes.set_title(f"{start}, step {frame[0]}", fontsize=10)
        images.append(as_image(canvas))
    milliseconds = [120] * (len(images) - 1) + [1500]  # the end is held
    with replacing(path) as temporary:
        images[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=milliseconds,
            loop=0,
        )


def as_image(canvas: Any) -> Any:
    """Returns a Matplotlib canvas as a Pillow image of 64 colours: a third of the size."""
    from PIL import Image

    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(64)


def draw_curves(
    path: pathlib.Path, runs: dict[str, dict], temperatures: Sequence[float], title: str
) -> None:
    """Draws the metrics of all starting points over the steps."""

    def panel(name: str, key: str, logarithmic: bool) -> tuple:
        curves = {}
        for start, run in runs.items():
            steps = [line["step"] for line in run["metrics"]]
            curves[start] = (steps, [line[key] for line in run["metrics"]])
        return name, curves, "step", "", logarithmic

    drifts = [
        panel(f"drift before normalisation, tau {tau:g}", f"drift_rms_{tau}", True)
        for tau in temperatures
    ]
    panels = [
        panel("loss (nearly constant by construction)", "loss", False),
        *drifts,
        panel("energy distance, 0 when equal", "energy_distance", True),
        panel("diversity, generated / real", "diversity", False),
    ]
    save_panels(path, panels, title)
