"""The scores of images that are there already."""

import dataclasses
import logging
from collections import Counter

from evaluation.fid_csv import append_row, describe_scores
from evaluation.image_files import batches, read_images
from evaluation.progress import with_bar
from evaluation.reference import Reference
from evaluation.request import Request
from evaluation.scoring import Scored, check_count, score_in_networks, with_mean_ratio
from metrics.table import METRICS
from utils import processes
from utils.errors import UserError

log = logging.getLogger("eval")


def score_images(request: Request) -> Scored:
    """Returns the scores of the images that --load_dir names, and adds their row to fid.csv.

    Raises:
        UserError: there are no images, too few, or they do not fit the reference.
    """
    source = request.flags.load_dir
    images = read_images(source)
    references = []
    for features in request.networks:
        reference = without_class_agreement(request.load_reference(images.shape, features))
        reference.check_shape(images.shape)
        check_count(len(images), reference.metrics)
        references.append(reference)
    check_names(references)
    own = processes.own_range(len(images))
    found = score_in_networks(
        with_bar(batches(images, own, request.batch_size), len(own), "samples"),
        references,
        None,
        request.batch_size,
        request.sharding,
        request.flags.error_groups > 0,
    )
    joined = join(found)
    row = request.row_settings | {"samples": source} | joined.row
    log.info("%s: %s", source, describe_scores(row))
    if request.table and processes.is_first():
        append_row(request.table, row)
    return joined._replace(row=row)


def join(found: list[Scored]) -> Scored:
    """Returns the scores of the same images in several networks as one row.

    What the networks have of their own is joined by +. Scores that each network has under the same
    name, such as precision, are left out; the mean ratio is that over all networks.
    """
    if len(found) == 1:
        return found[0]
    rows = [scored.row for scored in found]
    counts = Counter(name for scored in found for name in scored.estimates)
    estimates = {}
    for scored in found:
        own = {name: value for name, value in scored.estimates.items() if counts[name] == 1}
        estimates |= own
    shared = ("num_samples", "reference", "reference_count", "held_out_count")
    shared += ("directions", "directions_seed")
    settings = {name: rows[0][name] for name in shared if name in rows[0]}
    for name in ("features", "resize", "weights"):
        settings[name] = "+".join(row[name] for row in rows)
    return with_mean_ratio(settings, estimates)


def check_names(references: list[Reference]) -> None:
    """Raises UserError where two networks have one name, and their scores would too."""
    networks = Counter(reference.network.name for reference in references)
    name, times = networks.most_common(1)[0]
    if times > 1:
        raise UserError(f"--features: {times} networks are called {name}; score them one by one")


def without_class_agreement(reference: Reference) -> Reference:
    """Returns the reference without metrics of labels that were asked for: images have none."""
    metrics = [name for name in reference.metrics if METRICS[name].needs != "classifier"]
    return dataclasses.replace(reference, metrics=tuple(metrics))
