#!/usr/bin/env python
"""Statistics of real images for eval_fid.py --fid_stats, computed once; the last line of output \
is JSON with their provenance.

    python scripts/compute_fid_stats.py --dataset_name digits --reference_split train \
--out fid_stats/digits.npz
    python scripts/compute_fid_stats.py --dataset_name folder:/path --data.image_size 256 \
--out fid_stats/mine_256.npz
    python scripts/compute_fid_stats.py --dataset_name imagenet --features inception+dinov2 \
--out "fid_stats/imagenet_{network}.npz"
    python scripts/compute_fid_stats.py --images folder_or.npz --out fid_stats/mine.npz

The file holds mu and sigma (float64), as pytorch-fid reads them, and `provenance`: data set, \
split, count, image shape, network, resize mode and weights, which eval_fid.py
checks. With --keep_features also the features, for KID and the nearest-neighbour metrics.
"""

import json
import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import data
from configs.default import BUCKET, DISTRIBUTED, Key
from evaluation.dataset_images import DatasetImages, data_options
from evaluation.flags import RESIZE, Flags
from evaluation.image_files import batches, read_images
from evaluation.load_reference import for_network
from evaluation.networks import load_network, resize_of, split_networks
from evaluation.progress import with_bar
from evaluation.reference import RealImages
from metrics.collect import Collector
from metrics.networks import Network
from metrics.statistics import write_statistics
from utils import config as config_lib
from utils import distributed, processes
from utils.errors import UserError
from utils.logging import setup_logging
from utils.memory import keep_freed_memory
from utils.paths import to_path
from utils.sharding import local_sharding, round_up

log = logging.getLogger("stats")

SHARED = ("dataset_name", "features", "inception_weights", "data")
FLAGS = (
    Key("images", "", "a folder or an .npz of images, in the place of a data set", BUCKET),
    Key("reference_split", "train", "split of the data set"),
    RESIZE,
    Key(
        "out",
        "",
        "the .npz to write, with {network} in its name for several networks; "
        "empty = fid_stats/<dataset_name>_<split>_<network>.npz",
        BUCKET,
    ),
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
    """Runs the program, in this process of the job."""
    setup_logging()
    flags = config_lib.all_flags(flag_values)
    with distributed.all_processes(flags.distributed):
        compute(flags, config_lib.given_flags(flag_values))


def compute(flags: Flags, given: dict) -> None:
    """Writes the statistics that the flags ask for; the first process prints their provenance.

    Several networks look at the images in one pass.
    """
    keep_freed_memory(of_threads=True)
    images, facts = open_images(flags, given)
    names = split_networks(flags.features or "inception")
    if len(names) > 1 and flags.out and "{network}" not in flags.out:
        raise UserError(
            f"--out {flags.out}: {len(names)} networks have a file each; put {{network}} in the "
            "name, where that of each network goes"
        )
    sharding = local_sharding()
    batch_size = round_up(min(flags.sample_batch_size, len(images)), sharding.mesh.size)
    collectors = {}
    for name in names:
        network = load_network(name, resize_of(name, names, flags.resize), flags.inception_weights)
        usual = f"fid_stats/{default_name(facts, flags.images, network)}.npz"
        out = to_path(for_network(flags.out, name) or usual)
        if out.suffix != ".npz":
            raise UserError(f"--out {out}: expected a name that ends in .npz")
        if out in collectors:
            raise UserError(f"--features: two networks would be written to {out}; do one by one")
        collectors[out] = Collector(network, batch_size, flags.keep_features, sharding)
    own = processes.own_range(len(images))
    for batch in with_bar(batches(images, own, batch_size), len(own), "images"):
        for collector in collectors.values():
            collector.add(batch)
    for out in list(collectors):
        collector = collectors.pop(out)
        real = collector.result()
        provenance = facts | collector.network.facts
        provenance |= {"image_shape": list(images.shape), "count": real.count}
        if processes.is_first():
            write_statistics(out, real, provenance, flags.keep_features)
            print(json.dumps({"out": str(out)} | provenance))


def open_images(flags: Flags, given: dict) -> tuple[RealImages, dict]:
    """Returns the images, and what the provenance says of them: data set and split, or nothing.

    Raises:
        UserError: not exactly one of --images and --dataset_name is given, or it cannot be read.
    """
    if bool(flags.images) == ("dataset_name" in given):
        raise UserError(
            f"--images {flags.images or '(none)'} and "
            f"--dataset_name {given.get('dataset_name', '(none)')}: give one of them"
        )
    if flags.images:
        return read_images(flags.images), {}
    options = data_options(given, flags.dataset_name)
    dataset = data.load(flags.dataset_name, flags.reference_split, options)
    facts = {"dataset_name": flags.dataset_name, "split": dataset.split}
    return DatasetImages(dataset), facts


def default_name(facts: dict, images: str, network: Network) -> str:
    """Returns a file name without suffix that says what the statistics are of."""
    if facts:
        parts = [facts["dataset_name"], facts["split"], network.name]
    else:
        parts = [pathlib.Path(images).stem, "images", network.name]
    return "_".join(parts).replace("/", "_").replace(":", "_")


if __name__ == "__main__":
    config_lib.define_flags(SHARED, FLAGS)
    config_lib.run_main(main)
