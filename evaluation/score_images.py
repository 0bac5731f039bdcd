"""Scores of images that are there already."""

import dataclasses
import logging

from evaluation.fid_csv import append_row, show
from evaluation.image_files import batches, read_images
from evaluation.scoring import check_count, score
from metrics.table import METRICS
from utils import processes

log = logging.getLogger("eval")


def score_images(where: str, out, load_reference, batch_size, sharding) -> dict:
    """One row for images that are there already."""
    images = read_images(where)
    reference = load_reference(shape=images.shape)
    reference.check_shape(images.shape)
    # class agreement is of labels that were asked for; images have none
    reference = dataclasses.replace(
        reference, metrics=tuple(m for m in reference.metrics if METRICS[m].needs != "classifier")
    )
    check_count(len(images), reference.metrics)
    row = {"samples": where} | score(
        batches(images, processes.own_range(len(images)), batch_size),
        reference,
        None,
        batch_size,
        sharding,
    )
    log.info("%s: %s", where, show(row))
    if out and processes.is_first():
        append_row(out / "fid.csv", row)
    return row
