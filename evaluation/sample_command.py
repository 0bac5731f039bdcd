"""The command of sample.py: grids of samples, sweeps of alpha, PNG files, an .npz."""

import dataclasses
import logging
import math
import pathlib
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from baselines.flow import with_steps
from evaluation.alphas import warn_beyond_training
from evaluation.conditions import nearest, read_conditions, spread
from evaluation.flags import Flags
from evaluation.image_files import write_npz
from models.latents import LatentSpace, latent_space_of
from models.runs import is_run, load_conditions, load_run
from models.sampling import generate
from models.weights import load_generator
from utils import config as config_lib
from utils import storage
from utils.compiler import keep_programs
from utils.errors import UserError
from utils.figures import save_comparison, save_grid, to_uint8
from utils.files import replacing
from utils.logging import setup_logging
from utils.memory import host_memory, require_memory
from utils.paths import refuse_checkpoint, to_path
from utils.sharding import local_sharding

log = logging.getLogger("sample")

CONDITIONS_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A generator with its parameters, and how samples are drawn from it.

    Attributes:
        model, params: the generator.
        metadata: what its run or artifact says of itself.
        space: the VAE that decodes samples which are latents; None = samples stay as they are.
        seed: of the noise.
        batch_size: samples per call of the generator.
        conditions: [C, E], of a generator that takes these, where they are counted as classes are:
            label i is the condition i. None for classes.
    """

    model: Any
    params: Any
    metadata: dict
    space: LatentSpace | None
    seed: int
    batch_size: int
    conditions: np.ndarray | None = None

    @property
    def n_classes(self) -> int:
        """The number of classes, or of conditions."""
        return self.model.num_classes if self.conditions is None else len(self.conditions)

    def given(self, labels: np.ndarray) -> np.ndarray:
        """Returns what the generator takes for labels [N]: these, or conditions [N, E]."""
        if self.conditions is None:
            return labels
        no_condition = np.full_like(self.conditions[:1], np.nan)
        return np.concatenate([self.conditions, no_condition])[labels]

    def draw(self, labels: np.ndarray, alpha: float, first: int = 0) -> np.ndarray:
        """Returns samples [N,H,W,C] of the labels [N], the numbers `first` and after it.

        Sample i depends on (seed, i), its label and alpha alone.
        """
        samples = generate(
            self.model,
            self.params,
            self.given(labels),
            alpha,
            self.seed,
            first=first,
            batch_size=self.batch_size,
        )
        if self.space:
            samples = map(self.space.decode, samples)
        return np.concatenate(list(samples))

    @property
    def makes_pictures(self) -> bool:
        """Whether samples are images, rather than vectors or undecoded latents."""
        shape = self.model.sample_shape
        return self.space is not None or (len(shape) == 3 and shape[-1] in (1, 3))

    def class_name(self, label: int) -> str:
        """Returns the name of a class; without names, its number."""
        if label == self.n_classes:
            return "no class" if self.conditions is None else "no condition"
        if self.conditions is not None:
            return f"condition {label}"
        names = self.metadata.get("dataset", {}).get("class_names")
        return names[label] if names else str(label)


def main(flag_values: flags.FlagValues) -> None:
    """Runs the command."""
    setup_logging()
    keep_programs()
    log.info("%s", write_result(config_lib.all_flags(flag_values)))


def write_result(all_flags: Flags) -> pathlib.Path:
    """Draws what the flags ask for and writes it; returns the file or folder."""
    model, params, metadata = load(all_flags.load_dir, all_flags.step, all_flags.ema)
    warn_beyond_training(metadata, max(all_flags.cfg_scale))
    model = with_steps(model, all_flags.denoise_timesteps)
    conditions = choose_conditions(model, metadata, all_flags)
    n_classes = model.num_classes if conditions is None else len(conditions)
    classes = parse_classes(all_flags.classes, n_classes, model.null_class)
    sampler = Sampler(
        model=model,
        params=params,
        metadata=metadata,
        space=choose_latent_space(model, metadata, all_flags),
        seed=all_flags.seed,
        batch_size=all_flags.sample_batch_size,
        conditions=conditions,
    )
    if all_flags.num_samples:
        return write_samples(sampler, classes, all_flags)
    return draw_grid(sampler, classes, all_flags)


# ---------------------------------------------------------------- what is sampled


def load(source: str, step: int, ema: str):
    """Returns (model, params, metadata) of a run folder or a published artifact.

    Args:
        source: --load_dir.
        step: of a run's checkpoint; 0 = the newest.
        ema: a decay that the run keeps, or "raw"; "" = the run's first decay.
    Raises:
        UserError: there is no generator, or an artifact is asked for a step or an average.
    """
    if not source:
        raise UserError("--load_dir is missing: give the folder of a run, or a published artifact")
    refuse_checkpoint("load_dir", source, step_flag=True)
    if is_run(source):
        return load_run(source, step or None, ema)
    if not source.startswith("hf://") and not to_path(source).exists():
        raise UserError(
            f"--load_dir {source}: no such folder; give a run, a published artifact, or hf://NAME"
        )
    if step or ema:
        raise UserError(
            f"--step, --ema: {source} is an artifact with one set of parameters; leave them out"
        )
    return load_generator(source)


def open_sampler(flags: Flags, batch_size: int = 1) -> Sampler:
    """Returns the generator that flags name, with pictures decoded where it makes latents."""
    model, params, metadata = load(flags.load_dir, flags.step, flags.ema)
    model = with_steps(model, flags.denoise_timesteps)
    space = None
    if len(model.sample_shape) == 3:
        space = latent_space_of(model, metadata, flags.vae, local_sharding())
    conditions = run_conditions(model, metadata, flags.load_dir)
    return Sampler(model, params, metadata, space, 0, batch_size, conditions)


def choose_conditions(model, metadata: dict, all_flags: Flags) -> np.ndarray | None:
    """Returns the conditions [C, E] that samples are drawn from; None of a generator of classes.

    They are those of --conditions, or some of those that the run has learned from: for a grid
    CONDITIONS_SHOWN, for files one for each sample, if there are as many.
    """
    if all_flags.conditions:
        if not model.condition_width:
            raise UserError(
                f"--conditions {all_flags.conditions}: the generator takes classes; give --classes"
            )
        return read_conditions("conditions", all_flags.conditions, model.condition_width)
    n = all_flags.num_samples or CONDITIONS_SHOWN
    return run_conditions(model, metadata, all_flags.load_dir, n)


def run_conditions(
    model, metadata: dict, folder: str | pathlib.Path, n: int = CONDITIONS_SHOWN
) -> np.ndarray | None:
    """Returns n of the conditions that a run has learned from; None of a generator of classes."""
    if not model.condition_width:
        return None
    return spread(load_conditions(folder, metadata), n)


def choose_latent_space(model, metadata: dict, all_flags: Flags) -> LatentSpace | None:
    """Returns the VAE that decodes the samples; None where they stay as they are.

    Raises:
        UserError: --latents is given, but there are no latents, or --vae beside it.
    """
    if all_flags.latents:
        if all_flags.vae or model.sample_shape[-1] in (1, 3):
            raise UserError(
                "--latents 1: it leaves the latents of a generator undecoded; "
                "leave it out for one of images, or --vae for one of latents"
            )
        return None
    if len(model.sample_shape) != 3:
        return None
    return latent_space_of(model, metadata, all_flags.vae, local_sharding())


def parse_classes(text: str, n_classes: int, null_class: bool) -> list[int]:
    """Returns the labels of a comma list; all classes for "".

    Args:
        text: --classes.
        n_classes: number of classes of the generator.
        null_class: whether it knows the label n_classes too, which means no class.
    Raises:
        UserError: the text is no such list, or the generator does not know a label.
    """
    if not text:
        return list(range(n_classes))
    try:
        labels = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(
            f"--classes {text}: expected labels separated by commas, such as 3,7"
        ) from None
    known = range(n_classes + null_class)
    if not all(label in known for label in labels):
        no_class = f", and {n_classes} for no class" if null_class else ""
        raise UserError(
            f"--classes {text}: the generator knows the labels 0 to {n_classes - 1}{no_class}"
        )
    return labels


def check_pictures(sampler: Sampler) -> None:
    """Raises UserError when the samples are no pictures."""
    if not sampler.makes_pictures:
        raise UserError(
            "samples that are not pictures go to a file: give --num_samples 100 --out samples.npz"
        )


# ---------------------------------------------------------------- samples in files


def write_samples(sampler: Sampler, classes: list[int], all_flags: Flags) -> pathlib.Path:
    """Writes --num_samples samples, labels in turn, into an .npz or a folder; returns its path."""
    if len(all_flags.cfg_scale) > 1 or all_flags.compare:
        raise UserError(
            "--cfg_scale with several scales and --compare make a grid; "
            "leave them or --num_samples out"
        )
    out = to_path(all_flags.out or "samples.npz")
    if out.suffix not in ("", ".npz"):
        raise UserError(
            f"--out {out}: with --num_samples expected an .npz, or a folder for PNG files"
        )
    if out.suffix != ".npz":
        check_pictures(sampler)
    shape = sampler.model.sample_shape
    if sampler.space:
        shape = sampler.space.image_shape(shape)
    require_memory(
        f"--num_samples {all_flags.num_samples}: holding the samples, twice when they are joined,",
        all_flags.num_samples * (4 + 2 * 4 * math.prod(shape)),
        host_memory(),
        "write fewer at a time, with another --seed",
    )
    labels = np.resize(np.array(classes, np.int32), all_flags.num_samples)
    samples = sampler.draw(labels, all_flags.cfg_scale[0])
    if out.suffix == ".npz":
        write_arrays(out, samples, sampler.given(labels))
    else:
        write_pngs(out, samples, labels)
    return out


def write_arrays(path: pathlib.Path, samples: np.ndarray, labels: np.ndarray) -> None:
    """Writes an .npz of uint8 images, or of latents as they are, with labels or conditions."""
    are_images = samples.shape[-1] in (1, 3)
    write_npz(path, to_uint8(samples) if are_images else samples, labels, compressed=True)


def write_pngs(folder: pathlib.Path, samples: np.ndarray, labels: np.ndarray) -> None:
    """Writes a PNG per sample, named by its number and its label."""
    if not storage.is_bucket(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for i, (image, label) in enumerate(zip(to_uint8(samples), labels, strict=True)):
        pixels = image.squeeze(-1) if image.shape[-1] == 1 else image
        with replacing(folder / f"{i:06d}_{label}.png") as temporary:
            Image.fromarray(pixels).save(temporary)


# ---------------------------------------------------------------- a grid


def draw_grid(sampler: Sampler, classes: list[int], all_flags: Flags) -> pathlib.Path:
    """Draws a row of samples for each class and alpha; returns the path of the PNG."""
    out = pathlib.Path("grid.png")
    if all_flags.out:
        out = to_path(all_flags.out)
    elif "dataset" in sampler.metadata:
        out = to_path(all_flags.load_dir) / "samples" / "grid.png"
    if out.suffix != ".png":
        raise UserError(f"--out {out}: a grid is a .png; for other files give --num_samples")
    check_pictures(sampler)

    columns, alphas = all_flags.per_class, all_flags.cfg_scale
    rows, row_labels = [], []
    for label in classes:
        for alpha in alphas:
            labels = np.full(columns, label)
            # The noise depends on the class alone, so all rows of a sweep have the same.
            rows.append(sampler.draw(labels, alpha, first=label * columns))
            name = sampler.class_name(label)
            row_labels.append(name if len(alphas) == 1 else f"{name}  alpha {alpha:g}")
    generated = np.concatenate(rows)
    if all_flags.compare:
        real = real_rows(sampler, classes, all_flags)
        save_comparison(out, generated, real, columns=columns, row_labels=row_labels)
    else:
        save_grid(out, generated, columns=columns, row_labels=row_labels)
    return out


def real_rows(sampler: Sampler, classes: list[int], all_flags: Flags) -> np.ndarray:
    """Returns held-out images of the run's data set for each row of a grid, uint8 [N,H,W,C].

    A class that has too few begins again. The label of no class gets images of all classes, and a
    condition those with the nearest conditions.

    Raises:
        UserError: the generator does not name its data set, or that cannot be read.
    """
    # Only --compare needs the data sets, and Grain takes half a second to import.
    import data
    from data import pipeline

    metadata, per_class = sampler.metadata, all_flags.per_class
    if "dataset" not in metadata:
        raise UserError(
            f"--compare: {all_flags.load_dir} does not name a data set; "
            "it needs the folder of a run"
        )
    name, options = data.origin(metadata["dataset"]["name"], metadata["config"]["data"])
    images, labels = pipeline.everything(data.load(name, "test", options))
    rows = []
    for label in classes:
        if label == sampler.n_classes:
            of_class = np.arange(len(labels))
        elif sampler.conditions is None:
            of_class = np.flatnonzero(labels == label)
        else:
            of_class = nearest(labels, sampler.conditions[label], per_class)
        row = np.full((per_class, *images.shape[1:]), 128, np.uint8)  # grey where there is none
        if len(of_class):
            row = images[np.resize(of_class, per_class)]
        rows += [row] * len(all_flags.cfg_scale)
    return np.concatenate(rows)
