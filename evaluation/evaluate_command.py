"""The command of eval_fid.py."""

import functools
import json
import pathlib

import jax

from evaluation.dataset_images import data_options
from evaluation.load_reference import load_reference
from evaluation.score_generator import score_generator
from evaluation.score_images import score_images
from evaluation.scoring import round_up
from models.runs import is_run
from utils import config as config_lib
from utils import distributed, processes
from utils.errors import UserError
from utils.logging import setup_logging
from utils.sharding import local_sharding

OF_GENERATORS = ("step", "all", "ema", "cfg_scale", "num_samples", "labels", "samples_npz", "seed")


def main(flag_values):
    setup_logging()
    flags = config_lib.all_flags(flag_values)
    with distributed.job(flags.distributed):
        evaluate_command(flags, config_lib.given_flags(flag_values))


def evaluate_command(flags, given):
    where = flags.load_dir
    if not where:
        raise UserError(
            "--load_dir is missing: give a run, a published artifact, a folder of images, or an .npz, for example --load_dir runs/digits"
        )
    if flags.samples_npz and jax.process_count() > 1:
        raise UserError(
            f"--samples_npz: {jax.process_count()} processes hold the samples in parts; run it in one process"
        )
    if flags.samples_npz and not flags.samples_npz.endswith(".npz"):
        raise UserError(f"--samples_npz {flags.samples_npz}: expected a name that ends in .npz")
    folder = pathlib.Path(where).expanduser()
    on_hub = where.startswith("hf://")
    if not on_hub and not folder.exists():
        raise UserError(
            f"--load_dir {where}: no such file or folder; give a run, a published artifact, a folder of images, or an .npz"
        )
    run = config_lib.from_json(folder / "config.json") if is_run(folder) else None
    of_run = lambda name: given.get(name, run[name] if run else flags[name])
    dataset_name = given.get("dataset_name", run.dataset_name if run else "")
    sharding = local_sharding()
    batch_size = round_up(flags.sample_batch_size, sharding.mesh.size)
    reference = functools.partial(
        load_reference,
        dataset_name,
        features=of_run("features"),
        inception_weights=of_run("inception_weights"),
        fid_stats=of_run("fid_stats"),
        resize=flags.resize,
        split=flags.reference_split,
        metrics=flags.metrics,
        data_options=data_options(given, dataset_name, run) if dataset_name else None,
        batch_size=batch_size,
        sharding=sharding,
    )
    out = pathlib.Path(flags.out).expanduser() if flags.out else folder if run else None
    for place in filter(
        None, (out, flags.samples_npz and pathlib.Path(flags.samples_npz).expanduser().parent)
    ):
        make_folder(place)
    if run or on_hub or (folder / "metadata.json").is_file():
        row = score_generator(flags, run, folder, out, reference, batch_size, sharding)
    else:
        useless = [name for name in OF_GENERATORS if name in given]
        if useless:
            raise UserError(
                f"--{', --'.join(useless)}: {where} holds images, which are scored as they are; leave it out, or give a generator"
            )
        row = score_images(where, out, reference, batch_size, sharding)
    row |= {
        "load_dir": where,
        "dataset_name": dataset_name,
        "processes": jax.process_count(),
        "devices": jax.device_count(),
    }
    if processes.is_first():
        print(json.dumps(row))


def make_folder(place: pathlib.Path) -> None:
    """Before the work, not after it."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out, --samples_npz: cannot write in {place} ({error.strerror}); give a folder that can be written"
        ) from None
