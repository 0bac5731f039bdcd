"""The scores of images that are there already."""

import dataclasses
import logging

from evaluation.fid_csv import append_row, describe_scores
from evaluation.image_files import batches, read_images
from evaluation.progress import with_bar
from evaluation.reference import Reference
from evaluation.request import Request
from evaluation.scoring import Scored, check_count, networks_of, score_in_networks
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
    references = [without_class_agreement(r) for r in request.load_references(images.shape)]
    for reference in references:
        check_count(len(images), reference.metrics)
    own = processes.own_range(len(images))
    scored = score_in_networks(
        with_bar(batches(images, own, request.batch_size), len(own), "samples"),
        references,
        None,
        request.batch_size,
        request.sharding,
        request.flags.error_groups > 0,
    )
    row = request.row_settings | {"samples": source} | scored.row
    log.info("%s: %s", source, describe_scores(row))
    if request.table and processes.is_first():
        append_row(request.table, row)
    return scored._replace(row=row, networks=networks_of(references))


def without_class_agreement(reference: Reference) -> Reference:
    """Returns the reference without metrics of labels that were asked for: images have none.

    Raises UserError where nothing else was wanted.
    """
    metrics = [name for name in reference.metrics if METRICS[name].needs != "classifier"]
    if not metrics:
        raise UserError(
            "--metrics class_agreement: images do not say which class was asked for; score the "
            "generator that made them"
        )
    return dataclasses.replace(reference, metrics=tuple(metrics))
