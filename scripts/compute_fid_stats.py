#!/usr/bin/env python
"""Statistics of real images for eval_fid.py --fid_stats, computed once; the last line of output is JSON with their provenance.

    python scripts/compute_fid_stats.py --dataset_name digits --reference_split train --out fid_stats/digits.npz
    python scripts/compute_fid_stats.py --dataset_name folder:/path --data.image_size 256 --out fid_stats/mine_256.npz
    python scripts/compute_fid_stats.py --images folder_or.npz --out fid_stats/mine.npz

The file holds mu and sigma (float64), as pytorch-fid reads them, and `provenance`: data set, split, count, image shape, network, resize mode and weights, which eval_fid.py
checks. With --keep_features also the features, for KID and the nearest-neighbour metrics.
"""

import json
import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import data
from configs.default import DISTRIBUTED, Key
from evaluation.dataset_images import DatasetImages, data_options
from evaluation.image_files import batches, read_images
from evaluation.networks import load_network
from evaluation.scoring import round_up
from metrics.collect import collect
from metrics.resize import MODES
from metrics.statistics import write_statistics
from utils import config as config_lib
from utils import distributed, processes
from utils.errors import UserError
from utils.logging import setup_logging
from utils.sharding import local_sharding

log = logging.getLogger("stats")

FLAGS = (
    Key("images", "", "a folder or an .npz of images, in the place of a data set"),
    Key("reference_split", "train", "split of the data set"),
    Key(
        "resize",
        "",
        f"how Inception's input is resized: {', '.join(MODES)}; empty = tf, the standard",
    ),
    Key("out", "", "the .npz to write; empty = fid_stats/<dataset_name>_<split>_<network>.npz"),
    Key("keep_features", False, "also keep the features: 8 kB for each image with Inception"),
    Key(
        "sample_batch_size",
        256,
        "images per call of the network; it does not change the result",
        "[1, inf)",
    ),
    *DISTRIBUTED,
)


def main(flag_values):
    setup_logging()
    flags, given = config_lib.all_flags(flag_values), config_lib.given_flags(flag_values)
    with distributed.job(flags.distributed):
        compute(flags, given)


def compute(flags, given):
    if bool(flags.images) == ("dataset_name" in given):
        raise UserError(
            f"--images {flags.images or '(none)'} and --dataset_name {given.get('dataset_name', '(none)')}: give one of them"
        )
    if flags.images:
        images = read_images(flags.images)
        facts, shape = {}, images.shape
    else:
        dataset = data.load(
            flags.dataset_name,
            flags.reference_split,
            data_options(given, flags.dataset_name),
        )
        images = DatasetImages(dataset)
        facts, shape = {"dataset_name": flags.dataset_name, "split": dataset.split}, images.shape
    network = load_network(flags.features or "inception", flags.resize, flags.inception_weights)
    out = pathlib.Path(flags.out or f"fid_stats/{default_name(facts, flags.images, network)}.npz")
    if out.suffix != ".npz":
        raise UserError(f"--out {out}: expected a name that ends in .npz")
    sharding = local_sharding()
    batch_size = round_up(min(flags.sample_batch_size, len(images)), sharding.mesh.size)
    real = collect(
        network,
        batches(images, processes.own_range(len(images)), batch_size),
        batch_size,
        flags.keep_features,
        sharding,
    )
    provenance = facts | network.facts | {"image_shape": list(shape), "count": real.count}
    if processes.is_first():
        write_statistics(out, real, provenance, flags.keep_features)
        print(json.dumps({"out": str(out)} | provenance))


def default_name(facts: dict, images: str, network) -> str:
    parts = (
        (facts["dataset_name"], facts["split"]) if facts else (pathlib.Path(images).stem, "images")
    )
    return "_".join([*parts, network.name]).replace("/", "_").replace(":", "_")


if __name__ == "__main__":
    config_lib.define_flags(("dataset_name", "features", "inception_weights", "data"), FLAGS)
    config_lib.run_main(main)
