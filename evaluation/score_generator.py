"""Scores of a generator: of each checkpoint and alpha that is asked for."""

import functools
import logging
import pathlib

import jax

from baselines import flow
from evaluation.alphas import parse_alphas
from evaluation.choose_metrics import parse_metrics
from evaluation.curves import draw_curves
from evaluation.evaluate import evaluate, usual_count
from evaluation.fid_csv import parameters
from evaluation.image_files import write_npz
from evaluation.labels import choose_labels, label_kind
from evaluation.pictures import draw_samples
from evaluation.sweep import score_alphas
from metrics.collect import replicated
from metrics.table import METRICS
from models.latents import latent_space_of
from models.runs import describe_run, load_run
from models.weights import load_generator
from utils import processes
from utils.checkpoint import Checkpoints
from utils.errors import UserError

log = logging.getLogger("eval")


def score_generator(flags, run, folder, out, load_reference, batch_size, sharding) -> dict:
    """A row of fid.csv for each checkpoint and alpha; returns the last, or the best of a search."""
    if not run and (flags.step or flags.ema or flags.all):
        raise UserError(
            f"--step, --ema, --all: {flags.load_dir} is an artifact with one set of parameters; leave them out"
        )
    if flags.step and flags.all:
        raise UserError(f"--step {flags.step} and --all: give one of them")
    alphas, interval = parse_alphas(flags.cfg_scale)
    if interval and "fid" not in (parse_metrics(flags.metrics) or METRICS):
        raise UserError(
            "--cfg_scale search: it looks for the least Frechet distance; add fid to --metrics"
        )
    reference, space, row, drawn = None, None, {}, []
    for step in steps_of(folder) if flags.all else [flags.step or None]:
        model, metadata, params = open_generator(
            flags.load_dir, run and folder, step, flags.ema, sharding
        )
        model = flow.with_steps(model, flags.denoise_timesteps)
        space = space or latent_space_of(model, metadata, flags.vae, sharding)
        reference = reference or load_reference(
            shape=space.image_shape(model.sample_shape) if space else tuple(model.sample_shape)
        )
        n, network = flags.num_samples or usual_count(reference), reference.network
        settings = {
            "samples": "" if run and out == folder else flags.load_dir,
            "step": metadata.get("step", 0),
            "ema": str(metadata.get("ema", "")),
            "seed": flags.seed,
            "num_samples": n,
            "features": network.name,
            "resize": network.facts["resize"],
            "weights": network.facts["weights"],
            "reference": reference.name,
            "labels": label_kind(flags.labels, reference),
        } | flow.settings(model)
        skips = (flags.all or interval) and not flags.samples_npz
        row, preview = score_alphas(
            lambda alpha, see: evaluate(
                model,
                params(),
                reference,
                cfg_scale=alpha,
                seed=flags.seed,
                num_samples=n,
                batch_size=batch_size,
                sharding=sharding,
                labels=flags.labels,
                on_batch=see,
                space=space,
            ),
            alphas,
            interval,
            settings,
            out and out / "fid.csv",
            reference.score_names(n) if skips else [],
            bool(flags.samples_npz),
        )
        if preview and out and processes.is_first():
            title = f"step {row['step']}, {parameters(row)}, alpha {row['cfg_scale']:g}"
            drawn += draw_samples(
                out / "samples" / f"eval_step_{row['step']:08d}.png",
                preview.images,
                reference,
                title,
            )
    if flags.samples_npz:
        write_npz(
            flags.samples_npz,
            preview.images,
            choose_labels(row["labels"], reference, row["num_samples"], model.num_classes),
        )
    if out and processes.is_first():
        for path in [*drawn, *draw_curves(out, row)]:
            log.info("%s", path)
    return row


def open_generator(where: str, run_folder, step: int | None, ema: str, sharding):
    """(model, metadata, params()), on the devices. Of a run, parameters are read when they are needed: what is scored already needs none."""
    if run_folder:
        model, metadata = describe_run(run_folder, step, ema)
        read = lambda: load_run(run_folder, metadata["step"], ema)[1]
    else:
        model, given, metadata = load_generator(where)
        read = lambda: given
    return model, metadata, functools.cache(lambda: jax.device_put(read(), replicated(sharding)))


def steps_of(folder: pathlib.Path) -> list[int]:
    steps = Checkpoints(folder / "checkpoints").steps()
    if not steps:
        raise UserError(
            f"--all: no checkpoint in {folder}; give the folder of a run that has saved one"
        )
    return steps
