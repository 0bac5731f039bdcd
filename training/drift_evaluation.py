"""How well a generator does while it trains: scores in fid.csv, samples and curves as pictures.

All of it is made with the first average of the parameters, without guidance (scale 1).
"""

import logging
import pathlib
from typing import Any

import numpy as np

from baselines import flow
from data import Dataset
from evaluation import evaluate
from evaluation.conditions import spread
from evaluation.fid_csv import append_row, describe_scores, read_rows, scores
from evaluation.judge import warn_of_teachers
from evaluation.load_reference import for_network, load_reference
from evaluation.networks import check_features
from evaluation.reference import Reference
from models.sampling import generate
from training.generator_parts import GeneratorParts
from utils import processes
from utils.errors import UserError
from utils.figures import save_curves, save_grid
from utils.logging import read_metrics
from utils.paths import to_path

log = logging.getLogger("train")

CLASSES_DRAWN = 16  # the first so many
SAMPLES_DRAWN = 8  # of each


# ---- scores ----


def check_settings(config: Any) -> None:
    """Raises UserError for settings of scores that cannot work, before they are stored.

    Later commands would inherit them from config.json.
    """
    check_features(config.features)
    for name in ("fid_stats", "inception_weights"):
        source = for_network(config[name], config.features)
        if source and not to_path(source).exists():
            raise UserError(
                f"--{name} {source}: there is no such file; give another, or leave it out"
            )


def reference_of(parts: GeneratorParts) -> Reference:
    """Returns what samples are compared with; it depends on the configuration alone.

    A warning says where their network is the run's own encoder.
    """
    config, shape = parts.config, parts.dataset.shape
    if parts.space:
        shape = parts.space.image_shape(shape)
    reference = load_reference(
        config.dataset_name,
        features=config.features,
        inception_weights=config.inception_weights,
        fid_stats=config.fid_stats,
        data_options=config.data,
        shape=shape,
        runs=[config],
        **parts.sampling,
    )
    warn_of_teachers([reference.network.asked], config)
    return reference


def try_evaluation(parts: GeneratorParts, params: Any, reference: Reference) -> None:
    """Evaluates a few samples, so that what cannot work fails now and not after hours."""
    evaluate.sanity_check(
        parts.model,
        params,
        reference,
        cfg_scale=1.0,
        seed=parts.config.seed,
        space=parts.space,
        **parts.sampling,
    )


def score(
    parts: GeneratorParts, params: Any, reference: Reference, step: int, folder: pathlib.Path
) -> dict[str, float]:
    """Scores samples of `params` as a row of fid.csv in the run folder, and in the log.

    Returns the scores. The samples are fewer than those of a published figure, and the score's name
    says how many.
    """
    settings = {"step": step, "ema": parts.first_ema, "cfg_scale": 1.0, "seed": parts.config.seed}
    found = evaluate.evaluate(
        parts.model,
        params,
        reference,
        cfg_scale=1.0,
        seed=parts.config.seed,
        num_samples=sample_count(parts, reference),
        space=parts.space,
        **parts.sampling,
    )
    row = settings | flow.settings(parts.model) | found
    if processes.is_first():
        append_row(folder / "fid.csv", row)
    log.info("step %d: %s", step, describe_scores(row))
    return scores(row)


def sample_count(parts: GeneratorParts, reference: Reference) -> int:
    """Returns the number of samples of an evaluation while training."""
    usual = min(evaluate.usual_count([reference]), evaluate.WHILE_TRAINING)
    return parts.config.eval_samples or usual


# ---- pictures ----


def draw_samples(parts: GeneratorParts, params: Any, path: pathlib.Path) -> None:
    """Draws a row of samples for each of the first classes, as a PNG at `path`."""
    labels, names = rows_drawn(parts.dataset)
    labels = np.repeat(labels, SAMPLES_DRAWN, 0)
    samples = generate(parts.model, params, labels, 1.0, parts.config.seed, **parts.sampling)
    if parts.space:
        samples = map(parts.space.decode, samples)
    images = np.concatenate(list(samples))
    save_grid(path, images, columns=SAMPLES_DRAWN, row_labels=names)


def rows_drawn(dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """Returns the labels, or the conditions, of the rows of a picture, and their names."""
    if dataset.conditions is not None:
        conditions = spread(dataset.conditions, CLASSES_DRAWN)
        return conditions, [f"condition {i}" for i in range(len(conditions))]
    names = list(dataset.class_names[:CLASSES_DRAWN])
    return np.arange(len(names)), names


def draw_curves(parts: GeneratorParts, folder: pathlib.Path) -> None:
    """Draws curves.png of the run in `folder`, from its metrics.jsonl and fid.csv."""
    records = read_metrics(folder / "metrics.jsonl")
    for row in read_rows(folder / "fid.csv"):
        if row.get("cfg_scale") == 1 and "step" in row:
            records.append({"step": row["step"]} | scores(row))
    save_curves(folder / "curves.png", records, collapse_ratio=parts.config.collapse_ratio)
