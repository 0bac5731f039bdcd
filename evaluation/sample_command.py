"""Images from a generator, one pass each: grids, sweeps of alpha, PNG files, an .npz."""

import logging
import pathlib

import numpy as np

from baselines.flow import with_steps
from models.latents import latent_space_of
from models.sampling import generate
from utils import config as config_lib
from utils.errors import UserError
from utils.figures import save_comparison, save_grid, to_uint8
from utils.files import replacing
from utils.logging import setup_logging
from utils.sharding import local_sharding

log = logging.getLogger("sample")


def load(where: str, step: int, ema: str):
    """(model, params, metadata) of a run folder or a published artifact."""
    from models.runs import is_run, load_run
    from models.weights import load_generator

    if not where:
        raise UserError("--load_dir is missing: give the folder of a run, or a published artifact")
    if is_run(where):
        return load_run(where, step or None, ema)
    if step or ema:
        raise UserError(
            f"--step, --ema: {where} is an artifact with one set of parameters; leave them out"
        )
    return load_generator(where)


def parse_classes(text: str, n_classes: int, null_class: bool) -> list[int]:
    """Labels of a comma list; all classes for "". The label n_classes is the null class, where the generator has one."""
    try:
        labels = [int(word) for word in text.split(",")] if text else list(range(n_classes))
    except ValueError:
        raise UserError(
            f"--classes {text}: expected labels separated by commas, such as 3,7"
        ) from None
    if not all(0 <= k < n_classes + null_class for k in labels):
        raise UserError(
            f"--classes {text}: the generator knows the labels 0 to {n_classes - 1}{f', and {n_classes} for no class' if null_class else ''}"
        )
    return labels


def real_rows(metadata: dict, classes: list[int], flags) -> np.ndarray:
    """Held-out samples of the run's data set, for each row of the grid; a class that has too few begins again."""
    import data
    from data import pipeline

    if "dataset" not in metadata:
        raise UserError(
            f"--compare: {flags.load_dir} does not name a data set; it needs the folder of a run"
        )
    name, options = data.origin(metadata["dataset"]["name"], metadata["config"]["data"])
    images, labels = pipeline.everything(data.load(name, "test", options))
    of_class = lambda k: (
        np.flatnonzero(labels == k) if k < labels.max() + 1 else np.arange(len(labels))
    )
    return np.concatenate(
        [images[np.resize(of_class(k), flags.per_class)] for k in classes for _ in flags.cfg_scale]
    )


def write_arrays(out: pathlib.Path, samples: np.ndarray, labels: np.ndarray):
    """arr_0 = samples (uint8 images; latents as they are), arr_1 = labels, in an .npz; or one PNG per sample in a folder."""
    if out.suffix == ".npz":
        with replacing(out) as temporary:
            np.savez_compressed(
                temporary,
                arr_0=to_uint8(samples) if samples.shape[-1] in (1, 3) else samples,
                arr_1=labels,
            )
        return
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    for i, (image, label) in enumerate(zip(to_uint8(samples), labels)):
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
            out / f"{i:06d}_{label}.png"
        )


def check_out(out: pathlib.Path, flags, pictures: bool):
    """What is asked for fits the samples; before the first of them is made."""
    if not flags.num_samples:
        if out.suffix != ".png":
            raise UserError(f"--out {out}: a grid is a .png; for other files give --num_samples")
    elif out.suffix not in ("", ".npz"):
        raise UserError(
            f"--out {out}: with --num_samples expected an .npz, or a folder for PNG files"
        )
    if not pictures and not (flags.num_samples and out.suffix == ".npz"):
        raise UserError(
            "samples that are not pictures go to a file: give --num_samples 100 --out samples.npz"
        )


def main(flag_values):
    setup_logging()
    flags = config_lib.all_flags(flag_values)
    model, params, metadata = load(flags.load_dir, flags.step, flags.ema)
    model = with_steps(model, flags.denoise_timesteps)
    classes = parse_classes(flags.classes, model.num_classes, model.null_class)
    names = [
        *(metadata.get("dataset", {}).get("class_names") or map(str, range(model.num_classes))),
        "no class",
    ]
    space = None
    if flags.latents:
        if flags.vae or model.sample_shape[-1] in (1, 3):
            raise UserError(
                "--latents 1: it leaves the latents of a generator undecoded; leave it out for one of images, or --vae for one of latents"
            )
    elif len(model.sample_shape) == 3:
        space = latent_space_of(model, metadata, flags.vae, local_sharding())

    def draw(labels, alpha, first):
        samples = generate(
            model,
            params,
            labels,
            alpha,
            flags.seed,
            first=first,
            batch_size=flags.sample_batch_size,
        )
        return np.concatenate(list(map(space.decode, samples) if space else samples))

    pictures = (
        space is not None or len(model.sample_shape) == 3 and model.sample_shape[-1] in (1, 3)
    )

    if flags.num_samples:
        if len(flags.cfg_scale) > 1 or flags.compare:
            raise UserError(
                "--cfg_scale with several scales and --compare make a grid; leave them or --num_samples out"
            )
        labels = np.resize(np.array(classes, np.int32), flags.num_samples)
        out = pathlib.Path(flags.out or "samples.npz")
        check_out(out, flags, pictures)
        write_arrays(out, draw(labels, flags.cfg_scale[0], 0), labels)
    else:
        out = pathlib.Path(
            flags.out
            or (
                pathlib.Path(flags.load_dir) / "samples" / "grid.png"
                if "dataset" in metadata
                else "grid.png"
            )
        )
        check_out(out, flags, pictures)
        rows, row_labels = [], []
        for k in classes:
            for alpha in flags.cfg_scale:  # the same noise in every row of a sweep
                rows.append(draw(np.full(flags.per_class, k), alpha, k * flags.per_class))
                row_labels.append(
                    names[k] if len(flags.cfg_scale) == 1 else f"{names[k]}  alpha {alpha:g}"
                )
        if flags.compare:
            save_comparison(
                out,
                np.concatenate(rows),
                real_rows(metadata, classes, flags),
                columns=flags.per_class,
                row_labels=row_labels,
            )
        else:
            save_grid(out, np.concatenate(rows), columns=flags.per_class, row_labels=row_labels)
    log.info("%s", out)
