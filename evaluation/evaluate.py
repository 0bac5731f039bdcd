"""The scores of one set of parameters."""

import logging
from collections.abc import Callable

import jax

from evaluation.clock import Clock
from evaluation.labels import choose_labels, label_kind
from evaluation.reference import Reference
from evaluation.scoring import check_count, round_up, score
from metrics import networks
from models.sampling import generate
from utils import processes
from utils.logging import without_warnings

log = logging.getLogger("eval")
WHILE_TRAINING = 5_000  # samples


def evaluate(
    model,
    params,
    reference: Reference,
    *,
    cfg_scale: float,
    seed: int,
    num_samples: int = 0,
    batch_size: int = 256,
    sharding=None,
    labels: str = "",
    on_batch: Callable = lambda images: None,
    space=None,
) -> dict:
    """Scores of one set of parameters, with their settings. The trainer calls it too.

    num_samples: 0 = the usual count. sharding: over this process's devices; it must divide batch_size. labels: as the flag. on_batch(images): is shown every batch.
    space: the VAE that decodes samples which are latents, see `models.latents`.
    Sample i depends on (seed, i) and its label alone: batches, devices and processes do not change it.
    """
    n = num_samples or usual_count(reference)
    reference.check_shape(space.image_shape(model.sample_shape) if space else model.sample_shape)
    check_count(n, reference.metrics)
    kind = label_kind(labels, reference)
    y = choose_labels(kind, reference, n, model.num_classes)
    mine = processes.own_range(n)
    batch_size = min(batch_size, round_up(len(mine), sharding.mesh.size if sharding else 1))
    reference.real  # read before the clock starts
    samples = generate(
        model,
        params,
        y[mine.start : mine.stop],
        cfg_scale,
        seed,
        first=mine.start,
        batch_size=batch_size,
        sharding=sharding,
    )
    clock = Clock(map(space.decode, samples) if space else samples, on_batch)
    row = score(clock, reference, y, batch_size, sharding)
    log.info("%d samples: %s", n, clock.report(len(mine)))
    return row | {"labels": kind}


def usual_count(reference: Reference) -> int:
    """Samples to generate when nothing is said: as published figures do, or as many as there are reals to compare pixels with."""
    return (
        networks.STANDARD_COUNT
        if reference.network.counted
        else reference.count or networks.STANDARD_COUNT
    )


def sanity_check(model, params, reference: Reference, **settings) -> None:
    """All of an evaluation on a few samples, its scores thrown away: what cannot work fails now, not at the first evaluation."""
    with without_warnings("metrics", "evaluation"):  # of the few samples
        evaluate(model, params, reference, num_samples=32 * jax.process_count(), **settings)
