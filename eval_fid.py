"""Scores the generator of a run against the held-out split; the last line of output is JSON.

    python eval_fid.py --load_dir runs/digits              the newest checkpoint
    python eval_fid.py --load_dir runs/digits --all        every checkpoint; rows go to fid.csv in the run folder
    python eval_fid.py --load_dir runs/digits --cfg_scale 1.5 --ema raw --step 500

In raw pixels, and named for it: `fd_pixels` is a Frechet distance between pixels, not an FID. As many samples are generated as the split has, with its labels.
"""

import csv
import dataclasses
import json
import logging
import pathlib

import numpy as np

import data
from data import pipeline
from metrics.class_agreement import class_agreement, fit_classifier
from metrics.fid import frechet_distance, moments
from metrics.precision_recall import precision_recall
from models.sampling import generate
from configs.default import Key
from utils import config as config_lib
from utils.errors import UserError
from utils.logging import replacing, setup_logging

log = logging.getLogger("eval")
SETTINGS = ("step", "ema", "cfg_scale", "seed", "num_samples")  # what tells two rows of fid.csv apart
SCORES = ("fd_pixels", "precision", "recall", "class_agreement")
CLASSIFIER_LIMIT = 20_000  # training samples up to which a classifier on raw pixels is worth its time

FLAGS = (
    Key("step", 0, "checkpoint to score; 0 = the newest", "[0, inf)"),
    Key("all", False, "score every checkpoint of the run that fid.csv does not have yet"),
    Key("ema", "", "parameters: a decay that the run keeps, raw, or empty for the run's first decay"),
    Key("cfg_scale", 1.0, "guidance scale alpha", "[1, inf)"),
    Key("num_samples", 0, "samples to generate; 0 = as many as the held-out split has, with its labels", "[0, inf)"),
    Key("sample_batch_size", 256, "samples per call of the generator; it does not change the result", "[1, inf)"),
)


@dataclasses.dataclass(frozen=True)
class Reference:
    """What generated samples are held against, in pixels: real [S,H,W,C] in [-1,1] and labels of the held-out split, and a classifier of the training split (or None)."""

    name: str
    real: np.ndarray
    labels: np.ndarray
    classifier: object


def load_reference(dataset_name: str, options) -> Reference:
    """The reference of a data set, by its own train and test splits. options: the group `data` of the run's configuration."""
    images, labels = pipeline.everything(data.load(dataset_name, "test", options))
    train, classifier = data.load(dataset_name, options.split, options), None
    if len(train.source) <= CLASSIFIER_LIMIT and train.n_classes > 1:
        x, y = pipeline.everything(train)
        classifier = fit_classifier(pixels(x), y)
    return Reference(dataset_name, pixels(images), labels, classifier)


def pixels(images: np.ndarray) -> np.ndarray:
    """uint8 -> float64 in [-1, 1]."""
    return images.astype(np.float64) / 127.5 - 1


def evaluate(model, params, reference: Reference, *, cfg_scale: float, seed: int, num_samples: int = 0, batch_size: int = 256, sharding=None) -> dict:
    """Scores of one set of parameters: fd_pixels, precision, recall (k = 3), class_agreement where there is a classifier."""
    n = num_samples or len(reference.labels)
    labels = reference.labels[np.arange(n) % len(reference.labels)]
    x = np.concatenate(list(generate(model, params, labels, cfg_scale, seed, batch_size=batch_size, sharding=sharding))).astype(np.float64)
    if not np.isfinite(x).all():
        raise UserError(f"{int((~np.isfinite(x)).any(axis=(1, 2, 3)).sum())} of {n} samples are not finite; the checkpoint is broken, choose an earlier one with --step")
    x = np.clip(x, -1, 1)
    flat, real = x.reshape(n, -1), reference.real.reshape(len(reference.real), -1)
    precision, recall = precision_recall(real, flat, k=3)
    scores = {"fd_pixels": frechet_distance(*moments(flat), *moments(real)), "precision": precision, "recall": recall}
    if reference.classifier is not None:
        scores["class_agreement"] = class_agreement(reference.classifier, x, labels)
    return {"num_samples": n} | {k: float(v) for k, v in scores.items()}


def append_row(path: pathlib.Path, row: dict):
    """One more line of fid.csv, in the place of one with the same settings."""
    same = lambda r: all(str(r.get(k)) == str(row.get(k)) for k in SETTINGS)
    rows = [r for r in read_rows(path) if not same(r)] + [row]
    columns = list(dict.fromkeys(k for r in rows for k in r))
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: pathlib.Path) -> list[dict]:
    """The rows of fid.csv, numbers as numbers."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{k: v if k == "ema" else _number(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _number(text: str):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def main(flag_values):
    from models.runs import is_run, load_run
    from utils.checkpoint import Checkpoints

    setup_logging()
    flags = config_lib.all_flags(flag_values)
    if not flags.load_dir:
        raise UserError("--load_dir is missing: give the folder of a run, for example --load_dir runs/digits")
    folder = pathlib.Path(flags.load_dir)
    if not is_run(folder):
        raise UserError(f"--load_dir {folder}: no config.json there; give the folder of a run")
    run = config_lib.from_json(folder / "config.json")
    reference = load_reference(run.dataset_name, run.data)
    settings = {"cfg_scale": flags.cfg_scale, "seed": flags.seed, "num_samples": flags.num_samples or len(reference.labels)}
    steps = [flags.step or None]
    if flags.all:
        done = {tuple(r[k] for k in SETTINGS): r for r in read_rows(folder / "fid.csv")}
        steps = Checkpoints(folder / "checkpoints").steps()
    for step in steps:
        model, params, metadata = load_run(folder, step, flags.ema)
        row = {"step": metadata["step"], "ema": metadata["ema"]} | settings
        if flags.all and tuple(row[k] for k in SETTINGS) in done:
            log.info("step %d: in fid.csv already", metadata["step"])
            row = done[tuple(row[k] for k in SETTINGS)]
            continue
        row |= evaluate(model, params, reference, **settings, batch_size=flags.sample_batch_size)
        append_row(folder / "fid.csv", row)
        log.info("step %d: %s", row["step"], ", ".join(f"{k} {row[k]:.3f}" for k in SCORES if k in row))
    print(json.dumps(row | {"dataset_name": run.dataset_name, "split": "test", "load_dir": str(folder)}))


if __name__ == "__main__":
    config_lib.define_flags(("load_dir", "seed"), FLAGS)
    config_lib.run_main(main)
