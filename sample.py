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
from utils.logging import setup_logging

log = logging.getLogger("sample")

FLAGS = (
    Key("step", 0, "checkpoint of the run; 0 = the newest", "[0, inf)"),
    Key("ema", "", "parameters: a decay that the run keeps, raw, or empty for the run's first decay"),
    Key("cfg_scale", (1.0,), "guidance scales alpha; several make a sweep, one row of the grid each", "[1, inf)"),
    Key("classes", "", "labels to draw, separated by commas; empty = all"),
    Key("per_class", 10, "samples of each class in a grid", "[1, inf)"),
    Key("compare", False, "grid with real held-out samples beside it; needs a run, whose data set is at hand"),
    Key("num_samples", 0, "samples to write as files or .npz, labels in turn; 0 = a grid", "[0, inf)"),
    Key("out", "", "grid: a .png; files: a folder; arrays: an .npz; empty = samples/grid.png in the run folder"),
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


def parse_classes(text: str, n_classes: int) -> list[int]:
    """Labels of a comma list; all classes for ""."""
    try:
        labels = [int(word) for word in text.split(",")] if text else list(range(n_classes))
    except ValueError:
        raise UserError(f"--classes {text}: expected labels separated by commas, such as 3,7") from None
    if not all(0 <= k < n_classes for k in labels):
        raise UserError(f"--classes {text}: the generator knows the labels 0 to {n_classes - 1}")
    return labels


def real_rows(metadata: dict, classes: list[int], flags) -> np.ndarray:
    """Held-out samples of the run's data set, for each row of the grid."""
    import data
    from data import pipeline

    if "dataset" not in metadata:
        raise UserError(f"--compare: {flags.load_dir} does not name a data set; it needs the folder of a run")
    images, labels = pipeline.everything(data.load(metadata["dataset"]["name"], "test", metadata["config"]["data"]))
    return np.concatenate([images[labels == k][: flags.per_class] for k in classes for _ in flags.cfg_scale])


def main(flag_values):
    setup_logging()
    flags = config_lib.all_flags(flag_values)
    model, params, metadata = load(flags.load_dir, flags.step, flags.ema)
    names = metadata.get("dataset", {}).get("class_names") or [str(k) for k in range(model.num_classes)]
    classes = parse_classes(flags.classes, model.num_classes)
    draw = lambda labels, alpha, first: to_uint8(np.concatenate(list(
        generate(model, params, labels, alpha, flags.seed, first=first, batch_size=flags.sample_batch_size))))  # fmt: skip

    if flags.num_samples:
        if len(flags.cfg_scale) > 1:
            raise UserError(f"--cfg_scale {','.join(map(str, flags.cfg_scale))}: a sweep is a grid; give one scale with --num_samples")
        labels = np.resize(np.array(classes, np.int32), flags.num_samples)
        images = draw(labels, flags.cfg_scale[0], 0)
        out = pathlib.Path(flags.out or "samples.npz")
        if out.suffix == ".npz":
            out.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(out, arr_0=images, arr_1=labels)
        else:
            from PIL import Image

            out.mkdir(parents=True, exist_ok=True)
            for i, (image, label) in enumerate(zip(images, labels)):
                Image.fromarray(image.squeeze()).save(out / f"{i:06d}_{label}.png")
    else:
        rows, row_labels = [], []
        for k in classes:
            for alpha in flags.cfg_scale:  # the same noise in every row of a sweep
                rows.append(draw(np.full(flags.per_class, k), alpha, k * flags.per_class))
                row_labels.append(names[k] if len(flags.cfg_scale) == 1 else f"{names[k]}  alpha {alpha:g}")
        out = pathlib.Path(flags.out or pathlib.Path(flags.load_dir if "://" not in flags.load_dir else ".") / "samples" / "grid.png")
        out.parent.mkdir(parents=True, exist_ok=True)
        if flags.compare:
            save_comparison(out, np.concatenate(rows), real_rows(metadata, classes, flags), columns=flags.per_class, row_labels=row_labels)
        else:
            save_grid(out, np.concatenate(rows), columns=flags.per_class, row_labels=row_labels)
    log.info("%s", out)


if __name__ == "__main__":
    config_lib.define_flags(("load_dir", "seed"), FLAGS)
    config_lib.run_main(main)
