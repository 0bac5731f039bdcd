"""Images from a generator, one pass each: a grid by class, an alpha sweep, PNG files or an .npz.

    python sample.py --load_dir runs/digits                         grid.png, ten samples of each class
    python sample.py --load_dir runs/digits --classes 3,7 --cfg_scale 1,1.5,2,4
    python sample.py --load_dir runs/digits --num_samples 1000 --out samples.npz

Sample i depends on (seed, i) alone: the batch size and the devices do not change it. --load_dir takes a run folder or a published artifact.
"""

import logging
import pathlib

import numpy as np

from configs.default import Key
from models.sampling import generate
from utils import config as config_lib
from utils.errors import UserError
from utils.figures import save_comparison, save_grid, to_uint8
from utils.logging import replacing, setup_logging

log = logging.getLogger("sample")

FLAGS = (
    Key("step", 0, "checkpoint of the run; 0 = the newest", "[0, inf)"),
    Key("ema", "", "parameters: a decay that the run keeps, raw, or empty for the run's first decay"),
    Key("cfg_scale", (1.0,), "guidance scales alpha; several make a sweep, one row of the grid each", "[1, inf)"),
    Key("classes", "", "labels to draw, separated by commas; empty = all"),
    Key("per_class", 10, "samples of each class in a grid", "[1, inf)"),
    Key("compare", False, "grid with real held-out samples beside it; needs a run, whose data set is at hand"),
    Key("num_samples", 0, "samples to write as files or .npz, labels in turn; 0 = a grid", "[0, inf)"),
    Key("out", "", "a .png for a grid, an .npz or a folder with --num_samples; empty = samples/grid.png in the run folder, or samples.npz"),
    Key("sample_batch_size", 256, "samples per call of the generator; it does not change the result", "[1, inf)"),
)


def load(where: str, step: int, ema: str):
    """(model, params, metadata) of a run folder or a published artifact."""
    from models.runs import is_run, load_run
    from models.weights import load_generator

    if not where:
        raise UserError("--load_dir is missing: give the folder of a run, or a published artifact")
    if is_run(where):
        return load_run(where, step or None, ema)
    if step or ema:
        raise UserError(f"--step, --ema: {where} is an artifact with one set of parameters; leave them out")
    return load_generator(where)


def parse_classes(text: str, n_classes: int, null_class: bool) -> list[int]:
    """Labels of a comma list; all classes for "". The label n_classes is the null class, where the generator has one."""
    try:
        labels = [int(word) for word in text.split(",")] if text else list(range(n_classes))
    except ValueError:
        raise UserError(f"--classes {text}: expected labels separated by commas, such as 3,7") from None
    if not all(0 <= k < n_classes + null_class for k in labels):
        raise UserError(f"--classes {text}: the generator knows the labels 0 to {n_classes - 1}{f', and {n_classes} for no class' if null_class else ''}")
    return labels


def real_rows(metadata: dict, classes: list[int], flags) -> np.ndarray:
    """Held-out samples of the run's data set, for each row of the grid; a class that has too few begins again."""
    import data
    from data import pipeline

    if "dataset" not in metadata:
        raise UserError(f"--compare: {flags.load_dir} does not name a data set; it needs the folder of a run")
    images, labels = pipeline.everything(data.load(metadata["dataset"]["name"], "test", metadata["config"]["data"]))
    of_class = lambda k: np.flatnonzero(labels == k) if k < labels.max() + 1 else np.arange(len(labels))
    return np.concatenate([images[np.resize(of_class(k), flags.per_class)] for k in classes for _ in flags.cfg_scale])


def write_arrays(flags, model, samples: np.ndarray, labels: np.ndarray, out: pathlib.Path):
    """arr_0 = samples (uint8 images; latents as they are), arr_1 = labels, in an .npz; or one PNG per sample in a folder."""
    if out.suffix == ".npz":
        with replacing(out) as temporary:
            np.savez_compressed(temporary, arr_0=to_uint8(samples) if drawable(model) else samples, arr_1=labels)
        return
    if out.suffix:
        raise UserError(f"--out {out}: with --num_samples expected an .npz, or a folder for PNG files")
    if not drawable(model):
        raise UserError(f"--out {out}: samples of {model.sample_shape[-1]} channels are not pictures; give --out samples.npz")
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    for i, (image, label) in enumerate(zip(to_uint8(samples), labels)):
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(out / f"{i:06d}_{label}.png")


def drawable(model) -> bool:
    return len(model.sample_shape) == 3 and model.sample_shape[-1] in (1, 3)


def main(flag_values):
    setup_logging()
    flags = config_lib.all_flags(flag_values)
    model, params, metadata = load(flags.load_dir, flags.step, flags.ema)
    classes = parse_classes(flags.classes, model.num_classes, model.null_class)
    names = [*(metadata.get("dataset", {}).get("class_names") or map(str, range(model.num_classes))), "no class"]
    draw = lambda labels, alpha, first: np.concatenate(list(
        generate(model, params, labels, alpha, flags.seed, first=first, batch_size=flags.sample_batch_size)))  # fmt: skip

    if flags.num_samples:
        if len(flags.cfg_scale) > 1 or flags.compare:
            raise UserError("--cfg_scale with several scales and --compare make a grid; leave them or --num_samples out")
        labels = np.resize(np.array(classes, np.int32), flags.num_samples)
        out = pathlib.Path(flags.out or "samples.npz")
        write_arrays(flags, model, draw(labels, flags.cfg_scale[0], 0), labels, out)
    else:
        out = pathlib.Path(flags.out or (pathlib.Path(flags.load_dir) / "samples" / "grid.png" if "dataset" in metadata else "grid.png"))
        if out.suffix != ".png":
            raise UserError(f"--out {out}: a grid is a .png; for other files give --num_samples")
        if not drawable(model):
            raise UserError(f"samples of {model.sample_shape[-1]} channels are not pictures; give --num_samples 100 --out samples.npz")
        rows, row_labels = [], []
        for k in classes:
            for alpha in flags.cfg_scale:  # the same noise in every row of a sweep
                rows.append(draw(np.full(flags.per_class, k), alpha, k * flags.per_class))
                row_labels.append(names[k] if len(flags.cfg_scale) == 1 else f"{names[k]}  alpha {alpha:g}")
        if flags.compare:
            save_comparison(out, np.concatenate(rows), real_rows(metadata, classes, flags), columns=flags.per_class, row_labels=row_labels)
        else:
            save_grid(out, np.concatenate(rows), columns=flags.per_class, row_labels=row_labels)
    log.info("%s", out)


if __name__ == "__main__":
    config_lib.define_flags(("load_dir", "seed"), FLAGS)
    config_lib.run_main(main)
