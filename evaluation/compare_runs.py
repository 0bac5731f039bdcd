"""Several runs on one page: their scores, curves, samples of the same noise, nearest real images.

Everything but the samples comes from the run folders; the samples are drawn anew, so that all runs
get the same noise and labels.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from einops import rearrange
from jax.sharding import NamedSharding

import data
from data import pipeline
from evaluation.fid_csv import (
    NEITHER,
    SETTINGS,
    describe_parameters,
    is_better_larger,
    read_rows,
    scores,
)
from evaluation.generators import open_run
from evaluation.reference import flatten_images
from evaluation.sample_command import Sampler, run_conditions
from metrics.neighbours import nearest, usual_distance
from metrics.networks import ERROR
from models.latents import latent_space_of
from models.runs import is_run
from utils import page
from utils.errors import UserError
from utils.figures import to_uint8
from utils.paths import absolute, to_path

log = logging.getLogger("compare")

COLUMNS = 8  # samples in a row of a grid
QUERIES, NEIGHBOURS = 6, 5
CLASSES_SHOWN = 10  # rows of a grid
LARGEST_GALLERY = 20_000  # training images among which neighbours are looked for
IMAGE_SIDE = 56  # points of the screen that a small image of a grid has on a side, about
HALF_PAGE = 540  # points, the widest of two grids beside one another
SAMPLE_BATCH = 256
GREY = 128  # of the lines between images


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        name: of the folder, as short as it is told apart from the others.
        folder: where it is.
        rows: of its fid.csv.
    """

    name: str
    folder: pathlib.Path
    rows: list[dict]


def open_runs(folders: Sequence[str]) -> list[Run]:
    """Returns the runs in some folders.

    Raises:
        UserError: there are none, one is no run, or one is named twice.
    """
    if not folders:
        raise UserError("no run is given; for example: scripts/compare.py runs/a runs/b")
    paths = [absolute(to_path(folder)) for folder in folders]
    for path, given in zip(paths, folders, strict=True):
        if not is_run(path):
            raise UserError(f"{given} is no run folder; give folders that the trainer has written")
        if paths.count(path) > 1:
            raise UserError(f"{given} is given twice; name each run once")
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [Run(name, path, own_rows(path)) for name, path in zip(names, paths, strict=True)]


def own_rows(folder: pathlib.Path) -> list[dict]:
    """Returns the rows of a run's fid.csv that are of its own samples.

    `eval_fid.py --load_dir OTHER --out RUN` adds rows of others.
    """
    return [row for row in read_rows(folder / "fid.csv") if not row.get("samples")]


def comparison_page(
    runs: Sequence[Run], *, seed: int, alpha: float, per_class: int, sharding: NamedSharding
) -> str:
    """Returns the page as HTML.

    Args:
        runs: what is compared.
        seed: of the samples' noise.
        alpha: their guidance scale.
        per_class: samples of each class.
        sharding: over the devices that draw them.
    """
    parts = [page.section("Scores", score_table(runs), page.note(SCORES_NOTE))]
    drawn = curves_of(runs, "step") + curves_of(runs, "cfg_scale")
    parts.append(page.section("Curves", page.beside(*drawn) if drawn else page.note(NO_CURVES)))
    parts += sample_sections(runs, seed, alpha, per_class, sharding)
    return page.page(" against ".join(run.name for run in runs), parts)


# ---------------------------------------------------------------- scores

SCORES_NOTE = (
    "Rows of the newest checkpoint in fid.csv. The best of a column is bold where all rows were "
    "made with the same settings. A figure after ± is a standard error; two figures that differ "
    "by less than twice their errors together are not told apart."
)
NO_CURVES = "fid.csv has scores at one step and one alpha only; eval_fid.py --all adds to it."


def newest_rows(run: Run) -> list[dict]:
    """Returns the rows of a run's newest checkpoint that was scored."""
    newest = max((row["step"] for row in run.rows if "step" in row), default=None)
    return [row for row in run.rows if row.get("step") == newest and newest is not None]


def score_table(runs: Sequence[Run]) -> str:
    """Returns the table of the scores of all runs' newest checkpoints."""
    of_runs = [(run, row) for run in runs for row in newest_rows(run)]
    if not of_runs:
        return page.note("no run has scores yet: eval_fid.py --load_dir RUN adds them")
    names = list(dict.fromkeys(name for _, row in of_runs for name in scores(row)))
    best = {name: best_value(name, [row for _, row in of_runs]) for name in names}
    body = []
    for run, row in of_runs:
        cells: list[Any] = [run.name, page.Cell(str(row["step"])), describe_parameters(row)]
        cells += [page.Cell(f"{row.get('cfg_scale', 1.0):g}")]
        cells += [f"{row['features']}, {row['num_samples']:,}"]
        cells += [score_cell(row, name, best[name]) for name in names]
        body.append(cells)
    columns = ["run", "step", "parameters", "alpha", "network, samples", *names]
    return page.table(columns, body)


def score_cell(row: dict, name: str, best: float | None) -> page.Cell:
    """Returns a score with its standard error, where it has them."""
    if name not in row:
        return page.Cell("")
    text = f"{row[name]:.4g}"
    if f"{name}{ERROR}" in row:
        text += f" ± {row[name + ERROR]:.2g}"
    return page.Cell(text, row[name] == best)


def best_value(name: str, rows: list[dict]) -> float | None:
    """Returns the best value of a score; None where the rows do not compare, or none is best.

    None is best where all are equal.
    """
    settings = {compared_settings(row) for row in rows}
    values = [row[name] for row in rows if name in row]
    if len(settings) > 1 or len(set(values)) < 2 or name.startswith(NEITHER):
        return None
    return max(values) if is_better_larger(name) else min(values)


def compared_settings(row: dict) -> tuple[str, ...]:
    """Returns the settings of a row in which rows must agree to be compared."""
    free = ("samples", "step", "ema", "cfg_scale", "seed", "denoise_timesteps")
    return tuple(str(row.get(name, "")) for name in SETTINGS if name not in free)


# ---------------------------------------------------------------- curves


AXES = {"step": "step", "cfg_scale": "alpha"}


def curves_of(runs: Sequence[Run], x: str) -> list[str]:
    """Returns a figure for each score, against the setting `x`: "step" or "cfg_scale".

    A curve has the rows of a run that differ in `x` alone. Those of one point are left out.
    """
    names = dict.fromkeys(name for run in runs for row in run.rows for name in scores(row))
    figures = []
    for name in names:
        series = {}
        for run in runs:
            series |= curves_of_run(run, name, x)
        if series:
            figures.append(page.curves(f"{name} by {AXES[x]}", series, AXES[x], name))
    return figures


def curves_of_run(run: Run, score: str, x: str) -> dict[str, list[tuple[float, float]]]:
    """Returns the curves of a score, {label: points}; a label has what tells its curve apart."""
    fixed = [setting for setting in SETTINGS if setting not in (x, "samples")]
    rows = [row for row in run.rows if {score, x} <= row.keys()]
    curves: dict[tuple, list] = {}
    for row in rows:
        values = tuple(row.get(setting, "") for setting in fixed)
        curves.setdefault(values, []).append((row[x], row[score]))
    varied = [i for i in range(len(fixed)) if len({values[i] for values in curves}) > 1]
    found = {}
    for values, points in curves.items():
        parts = [f"{AXES.get(fixed[i], fixed[i])} {values[i]}" for i in varied]
        if len(points) > 1:
            found[", ".join([run.name, *parts])] = sorted(points)
    return found


# ---------------------------------------------------------------- samples


def sample_sections(
    runs: Sequence[Run], seed: int, alpha: float, per_class: int, sharding: NamedSharding
) -> list[str]:
    """Returns the sections with samples, and with the training images nearest to some of them."""
    grids, neighbours = [], []
    for run in runs:
        log.info("%s: drawing samples", run.name)
        images, metadata = draw_samples(run, seed, alpha, per_class, sharding)
        if images is None:
            grids.append(page.note(f"{run.name}: its samples are no pictures"))
            continue
        grids.append(picture(images, per_class, f"samples of {run.name}", run.name))
        neighbours.append(neighbour_picture(run, images, metadata))
    text = f"The same noise (seed {seed}) and labels for all runs, alpha {alpha:g}; a row a class."
    return [
        page.section("Samples", page.note(text), page.beside(*grids)),
        page.section(
            "Nearest training images", page.note(NEIGHBOURS_NOTE), page.beside(*neighbours)
        ),
    ]


NEIGHBOURS_NOTE = (
    "A sample at the left of each row, then the training images nearest to it in pixels. A sample "
    "that is much nearer than training images are to one another repeats one."
)


def draw_samples(
    run: Run, seed: int, alpha: float, per_class: int, sharding: NamedSharding
) -> tuple[np.ndarray | None, dict]:
    """Returns samples of the newest checkpoint, uint8 [N,H,W,C], and the run's metadata.

    None in their place if they are no pictures.
    """
    sampler = open_sampler(run, seed, per_class, sharding)
    if not sampler.makes_pictures:
        return None, sampler.metadata
    labels = labels_shown(sampler, per_class)
    return to_uint8(sampler.draw(labels, alpha)), sampler.metadata


def open_sampler(run: Run, seed: int, per_class: int, sharding: NamedSharding) -> Sampler:
    """Returns the generator of a run's newest checkpoint, which draws a grid in few calls.

    Args:
        run: whose generator it is.
        seed: of the noise.
        per_class: samples of each class of the grid.
        sharding: over the devices that draw.
    """
    generator = open_run(run.folder, None, "", sharding)
    model = generator.model
    conditions = run_conditions(model, generator.metadata, run.folder, CLASSES_SHOWN)
    n_classes = model.num_classes if conditions is None else len(conditions)
    return Sampler(
        model=model,
        params=generator.params,
        metadata=generator.metadata,
        space=latent_space_of(model, generator.metadata, "", sharding),
        seed=seed,
        batch_size=min(SAMPLE_BATCH, per_class * min(n_classes, CLASSES_SHOWN)),
        conditions=conditions,
    )


def labels_shown(sampler: Sampler, per_class: int) -> np.ndarray:
    """Returns the labels of a grid: the first classes, row by row."""
    classes = min(sampler.n_classes, CLASSES_SHOWN)
    return np.repeat(np.arange(classes, dtype=np.int32), per_class)


def neighbour_picture(run: Run, images: np.ndarray, metadata: dict) -> str:
    """Returns a picture of some samples and the training images nearest to each.

    Where the training images are not at hand, or too many, a line says so.
    """
    try:
        name, options = data.origin(metadata["dataset"]["name"], metadata["config"]["data"])
        dataset = data.load(name, "train", options)
        if len(dataset.samples) > LARGEST_GALLERY:
            raise UserError(f"more than {LARGEST_GALLERY:,} training images")
        gallery = pipeline.everything(dataset)[0]
    except UserError as error:
        return page.note(f"{run.name}: no neighbours ({error})")
    if gallery.shape[1:] != images.shape[1:]:
        return page.note(f"{run.name}: no neighbours (its training images have another size)")
    queries = images[np.linspace(0, len(images) - 1, QUERIES).astype(int)]
    features = flatten_images(gallery)
    count = min(NEIGHBOURS, len(gallery))
    order, distances = nearest(flatten_images(queries), features, count)
    rows = np.concatenate([queries[:, None], gallery[order]], 1)  # [QUERIES, 1 + count, H, W, C]
    caption = (
        f"{run.name}: nearest at {np.median(distances[:, 0]):.2f} (median); training images have "
        f"another one at {usual_distance(features):.2f}"
    )
    text = f"samples of {run.name} and their nearest training images"
    return picture(rows.reshape(-1, *images.shape[1:]), 1 + count, text, caption)


def picture(
    images: np.ndarray, columns: int, text: str, caption: str, widest: int = HALF_PAGE
) -> str:
    """Returns images [N,H,W,C] as one, row by row, enlarged up to a width in points."""
    apart = np.pad(images, [(0, 0), (0, 1), (0, 1), (0, 0)], constant_values=GREY)
    grid = rearrange(apart, "(r c) h w d -> (r h) (c w) d", c=columns)
    scale = max(1, min(round(IMAGE_SIDE / images.shape[2]), widest // grid.shape[1]))
    return page.image(grid, text, caption, scale)
