"""The scores of a generator, for each checkpoint and guidance scale that is asked for."""

import dataclasses
import logging
import pathlib
from collections.abc import Sequence

from baselines import flow
from evaluation.alphas import Alphas, parse_alphas, warn_beyond_training
from evaluation.choose_metrics import parse_metrics
from evaluation.curves import draw_curves
from evaluation.evaluate import measure, usual_count
from evaluation.fid_csv import describe_parameters
from evaluation.generators import Generator, checkpoint_steps, open_artifact, open_run
from evaluation.image_files import write_npz
from evaluation.labels import label_kind, labels_of_samples
from evaluation.pictures import Preview, draw_samples
from evaluation.reference import Reference
from evaluation.request import Request
from evaluation.scoring import Scored, networks_of, score_names, settings_of
from evaluation.sweep import Sweep
from metrics.table import METRICS
from models.latents import LatentSpace, latent_space_of
from utils import processes
from utils.errors import UserError
from utils.paths import absolute

log = logging.getLogger("eval")


def score_generator(request: Request) -> Scored:
    """Adds a row to fid.csv for each checkpoint and alpha, and draws samples and curves.

    Returns:
        The scores of the last row or, of a search, of the best alpha.
    Raises:
        UserError: the flags do not fit together or the generator, or an evaluation fails.
    """
    flags = request.flags
    alphas = check_flags(request)
    steps = checkpoint_steps(request.folder) if flags.all else [flags.step or None]
    generator = open_generator(request, steps[0])
    warn_beyond_training(generator.metadata, max(alphas.interval or alphas.values))
    model = generator.model
    space = latent_space_of(model, generator.metadata, flags.vae, request.sharding)
    shape = space.image_shape(model.sample_shape) if space else model.sample_shape
    references = request.load_references(tuple(shape))
    scored, preview, pictures = Scored({}, {}), None, []
    for step in steps:
        if step != steps[0]:
            generator = open_generator(request, step)
        scored, preview = score_checkpoint(request, generator, references, space, alphas)
        if preview and request.out and processes.is_first():
            pictures += draw_preview(request.out, scored.row, preview, references[0])
    row = scored.row
    if flags.samples_npz and preview:
        labels = labels_of_samples(model, row["labels"], references[0], row["num_samples"])
        write_npz(flags.samples_npz, preview.images, labels)
    if request.out and processes.is_first():
        for path in [*pictures, *draw_curves(request.out, row)]:
            log.info("%s", path)
    return scored._replace(networks=networks_of(references))


def check_flags(request: Request) -> Alphas:
    """Returns the guidance scales of --cfg_scale.

    Raises:
        UserError: the flags do not fit together, or an artifact has no checkpoints to choose from.
    """
    flags = request.flags
    if not request.run and (flags.step or flags.ema or flags.all):
        raise UserError(
            f"--step, --ema, --all: {flags.load_dir} is an artifact with one set of parameters; "
            "leave them out"
        )
    if flags.step and flags.all:
        raise UserError(f"--step {flags.step} and --all: give one of them")
    alphas = parse_alphas(flags.cfg_scale)
    if alphas.interval and "fid" not in (parse_metrics(flags.metrics) or METRICS):
        raise UserError(
            "--cfg_scale search: it looks for the least Frechet distance; add fid to --metrics"
        )
    if alphas.interval and len(request.networks) > 1:
        raise UserError(
            f"--cfg_scale search: it looks in one network, not in {len(request.networks)}; give "
            "one as --features, and then its best alpha with all"
        )
    return alphas


def open_generator(request: Request, step: int | None) -> Generator:
    """Returns the generator of a checkpoint, None = the newest, with the Euler steps asked for."""
    if request.run:
        generator = open_run(request.folder, step, request.flags.ema, request.sharding)
    else:
        generator = open_artifact(request.flags.load_dir, request.sharding)
    model = flow.with_steps(generator.model, request.flags.denoise_timesteps)
    return dataclasses.replace(generator, model=model)


def score_checkpoint(
    request: Request,
    generator: Generator,
    references: Sequence[Reference],
    space: LatentSpace | None,
    alphas: Alphas,
) -> tuple[Scored, Preview | None]:
    """Evaluates one set of parameters at all guidance scales.

    Args:
        request: the command line.
        generator: its parameters are read if an evaluation needs them.
        references: what samples are compared with, the same reals in each network.
        space: the VAE that decodes samples which are latents, or None.
        alphas: the guidance scales.
    Returns:
        (scores, preview) of the last scale or of the best one, as `Sweep.run` returns them.
    """
    flags = request.flags
    num_samples = flags.num_samples or usual_count(references)

    def evaluate_at(alpha: float, preview: Preview) -> Scored:
        return measure(
            generator.model,
            generator.params,
            references,
            cfg_scale=alpha,
            seed=flags.seed,
            num_samples=num_samples,
            batch_size=request.batch_size,
            sharding=request.sharding,
            labels=flags.labels,
            on_batch=preview,
            space=space,
            with_errors=flags.error_groups > 0,
        )

    of_own_run = request.run and request.out and absolute(request.out) == absolute(request.folder)
    settings = request.row_settings | {
        "samples": "" if of_own_run else flags.load_dir,
        "step": generator.metadata.get("step", 0),
        "ema": str(generator.metadata.get("ema", "")),
        "seed": flags.seed,
        "num_samples": num_samples,
        **settings_of(references),
        "labels": label_kind(flags.labels, references[0], generator.model),
    }
    # With --all and in a search, only what fid.csv lacks is evaluated.
    skips_known = (flags.all or alphas.interval) and not flags.samples_npz
    sweep = Sweep(
        evaluate=evaluate_at,
        settings=settings | flow.settings(generator.model),
        table=request.table,
        wanted_scores=score_names(references, num_samples) if skips_known else [],
        all_samples=bool(flags.samples_npz),
    )
    return sweep.run(alphas)


def draw_preview(
    out: pathlib.Path, row: dict, preview: Preview, reference: Reference
) -> list[pathlib.Path]:
    """Draws the samples of a row into `out`/samples; returns the files."""
    title = f"step {row['step']}, {describe_parameters(row)}, alpha {row['cfg_scale']:g}"
    path = out / "samples" / f"eval_step_{row['step']:08d}.png"
    return draw_samples(path, preview.images, reference, title)
