"""The scores of one set of parameters. The trainer calls it as eval_fid.py does."""

import logging
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding

from evaluation.clock import Clock
from evaluation.labels import label_kind, labels_of_samples
from evaluation.progress import with_bar
from evaluation.reference import Reference
from evaluation.scoring import Scored, check_count, score_in_networks
from metrics.networks import STANDARD_COUNT
from models.latents import LatentSpace
from models.sampling import generate
from utils import processes
from utils.logging import without_warnings
from utils.sharding import round_up

log = logging.getLogger("eval")

WHILE_TRAINING = 5_000  # samples that an evaluation while training generates at the most
SANITY_SAMPLES = 32  # per process


def evaluate(model, params, reference: Reference, **settings) -> dict:
    """Returns the row of `measure` in one network."""
    return measure(model, params, [reference], **settings).row


def measure(
    model,
    params,
    references: Sequence[Reference],
    *,
    cfg_scale: float,
    seed: int,
    num_samples: int = 0,
    batch_size: int = 256,
    sharding: NamedSharding | None = None,
    labels: str = "",
    on_batch: Callable[[np.ndarray], None] | None = None,
    space: LatentSpace | None = None,
    with_errors: bool = True,
) -> Scored:
    """Returns the scores of a generator with one set of parameters, and the settings of both.

    Sample i depends on (seed, i) and its label alone: the batch size, the devices and the number of
    processes do not change it. All processes must call this; each generates its own range.

    Args:
        model, params: the generator.
        references: what the samples are compared with, the same reals in each network.
        cfg_scale: the guidance scale alpha.
        seed: of the noise.
        num_samples: to generate; 0 = `usual_count`.
        batch_size: samples per call of the generator and of the network.
        sharding: of the leading axis of a batch over this process's devices; it divides batch_size.
        labels: which classes, as the flag --labels says.
        on_batch: is shown every batch of images [B,H,W,C], floats in about [-1, 1].
        space: the VAE that decodes samples which are latents; None = they are images.
        with_errors: whether the standard errors are wanted.
    Raises:
        UserError: the samples do not fit the reference, are too few, or are broken.
    """
    reference = references[0]
    n = num_samples or usual_count(references)
    image_shape = space.image_shape(model.sample_shape) if space else model.sample_shape
    for one in references:
        one.check_shape(image_shape)
        check_count(n, one.metrics)
    kind = label_kind(labels, reference, model)
    sample_labels = labels_of_samples(model, kind, reference, n)
    own = processes.own_range(n)
    batch_size = min(batch_size, round_up(len(own), sharding.mesh.size if sharding else 1))
    for one in references:
        one.prepare()  # before the clock starts
    samples = generate(
        model,
        params,
        sample_labels[own.start : own.stop],
        cfg_scale,
        seed,
        first=own.start,
        batch_size=batch_size,
        sharding=sharding,
    )
    images = map(space.decode, samples) if space else samples
    clock = Clock(with_bar(images, len(own), "samples"), on_batch)
    # Not ahead: the clock tells the generator's time from the networks'.
    scored = score_in_networks(
        clock, references, sample_labels, batch_size, sharding, with_errors, ahead=False
    )
    log.info("%d samples: %s", n, clock.report(len(own)))
    return scored._replace(row=scored.row | {"labels": kind})


def usual_count(references: Sequence[Reference]) -> int:
    """Returns how many samples are generated when nothing is said.

    That is the number of published figures or, where no network has any, as many as there are real
    images.
    """
    if any(reference.network.counted for reference in references):
        return STANDARD_COUNT
    return references[0].count or STANDARD_COUNT


def sanity_check(model, params, reference: Reference, **settings) -> None:
    """Does all of an evaluation on a few samples and throws the scores away.

    What cannot work then fails at the start of a training and not at its first evaluation.

    Args:
        model, params, reference, settings: as for `measure`.
    """
    num_samples = SANITY_SAMPLES * jax.process_count()
    with without_warnings("metrics", "evaluation"):  # so few samples would give many
        evaluate(model, params, reference, num_samples=num_samples, **settings)
