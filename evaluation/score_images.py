"""The scores of images that are there already."""

import dataclasses
import logging

from evaluation.fid_csv import append_row, describe_scores
from evaluation.image_files import batches, read_images
from evaluation.reference import Reference
from evaluation.request import Request
from evaluation.scoring import check_count, score
from metrics.table import METRICS
from utils import processes

log = logging.getLogger("eval")


def score_images(request: Request) -> dict:
    """Returns the row of the images that --load_dir names, and adds it to fid.csv.

    Raises:
        UserError: there are no images, too few, or they do not fit the reference.
    """
    source = request.flags.load_dir
    images = read_images(source)
    reference = without_class_agreement(request.load_reference(images.shape))
    reference.check_shape(images.shape)
    check_count(len(images), reference.metrics)
    own_batches = batches(images, processes.own_range(len(images)), request.batch_size)
    scores = score(own_batches, reference, None, request.batch_size, request.sharding)
    row = {"samples": source} | scores
    log.info("%s: %s", source, describe_scores(row))
    if request.table and processes.is_first():
        append_row(request.table, row)
    return row


def without_class_agreement(reference: Reference) -> Reference:
    """Returns the reference without metrics of labels that were asked for: images have none."""
    metrics = [name for name in reference.metrics if METRICS[name].needs != "classifier"]
    return dataclasses.replace(reference, metrics=tuple(metrics))
