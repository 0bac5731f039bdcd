"""How many samples of each kind: the classes and positives of a step, the queues of the bank."""

from typing import Any, NamedTuple

import jax

import data
from data import pipeline
from training.resolve_field import is_learned, keeps_state
from utils import sharding
from utils.errors import UserError
from utils.sharding import round_up


class StepSizes(NamedTuple):
    """Numbers that depend on the data and the devices, not on the flags alone."""

    n_c: int  # N_c: the classes of a step
    groups: int  # how --optim.accumulate divides them
    row_parts: int  # how it divides the rows of each class instead
    n_pos: int  # N_pos: the positives of each
    per_class: int  # the length of the bank's class queues
    pool: int  # the length of its queue of any class; 0 if it holds all data
    class_shares: tuple[float, ...]  # how often each class is drawn; () is alike


def resolve_sizes(config: Any, dataset: data.Dataset, mesh: jax.sharding.Mesh) -> StepSizes:
    """Returns how many samples of each kind a run takes.

    Raises UserError for numbers that do not go together, with some near them that do.
    """
    drift = config.drift
    if drift.joint:
        check_joint(config, dataset)
    n_c = classes_per_step(config, dataset, mesh)
    if drift.bank_per_class == "all":
        per_class, pool = max(dataset.counts), 0
    else:
        per_class, pool = drift.bank_per_class, drift.bank_global
    if drift.joint:
        n_pos = 1  # the real of the condition itself
    elif drift.n_pos == "all":
        n_pos = per_class
    else:
        n_pos = drift.n_pos
        if dataset.counts and not dataset.condition_width:
            pipeline.check_counts(dataset, dataset.counts, n_pos, "--drift.n_pos")
    if drift.temperatures == "learned" and drift.neighbours >= n_pos:
        raise UserError(
            f"--drift.neighbours {drift.neighbours:g}: a step has {n_pos} positives of each class, "
            "and no kernel spreads over all of them; give a smaller number"
        )
    shares = class_shares(drift.class_sampling, dataset)
    groups, row_parts = groups_and_parts(n_c, drift.n_neg, config.optim.accumulate)
    sizes = StepSizes(n_c, groups, row_parts, n_pos, per_class, pool, shares)
    check_draws_of_any_class(config, dataset, sizes)
    if dataset.condition_width:
        check_nearest(config, dataset, sizes)
    return sizes


def class_shares(sampling: str, dataset: data.Dataset) -> tuple[float, ...]:
    """Returns the share of each class in the samples; () where all classes are drawn alike."""
    if sampling == "uniform":
        return ()
    if dataset.counts is None:
        raise UserError(
            f"--drift.class_sampling frequency: the samples per class of {dataset.name} are not "
            "known without reading it; give uniform"
        )
    total = sum(dataset.counts)
    return tuple(count / total for count in dataset.counts)


def check_reals(drift: Any, dataset: data.Dataset) -> None:
    """Raises UserError for reals that do not divide over processes, or a bank of unknown size."""
    ranks = jax.process_count()
    if drift.bank_push % ranks:
        raise UserError(
            f"--drift.bank_push {drift.bank_push} does not divide over {ranks} processes; "
            f"give {round_up(drift.bank_push, ranks)}"
        )
    if drift.bank_per_class == "all" and dataset.counts is None:
        raise counts_unknown(dataset)


def counts_unknown(dataset: data.Dataset) -> UserError:
    """Returns the error for a bank that is to hold a data set of unknown size."""
    return UserError(
        f"--drift.bank_per_class all: the samples per class of {dataset.name} are not known "
        "without reading it; give a number, such as 128"
    )


def check_draws_of_any_class(config: Any, dataset: data.Dataset, sizes: StepSizes) -> None:
    """Raises UserError for draws, without replacement, of more samples than the bank holds."""
    drift = config.drift
    draws = {"--drift.n_unc": drift.n_unc}
    if config.model.class_dropout_prob and drift.n_pos != "all":
        # The positives of the null class are of any class.
        draws["--drift.n_pos, with --model.class_dropout_prob,"] = sizes.n_pos
    if sizes.pool:
        held = sizes.pool
    elif dataset.counts:
        held = sum(min(count, sizes.per_class) for count in dataset.counts)
    else:
        held = dataset.n_classes * sizes.per_class
    for flag, n in draws.items():
        if n > held:
            raise UserError(
                f"{flag} {n}: the bank holds {held} samples of any class to draw it from; "
                "give less, or a larger --drift.bank_global"
            )


def check_joint(config: Any, dataset: data.Dataset) -> None:
    """Raises UserError for what the joint of features and conditions has no place for."""
    drift = config.drift
    given = f"--drift.joint {drift.joint:g}"
    if not dataset.condition_width:
        raise UserError(
            f"{given}: it compares conditions, which {dataset.name} has none of; give "
            "--data.condition_column, or --drift.joint 0"
        )
    if drift.n_unc or drift.alpha_max > 1:
        raise UserError(
            f"{given}: it has no place for guidance; give --drift.n_unc 0 --drift.alpha_max 1"
        )
    if config.model.class_dropout_prob:
        raise UserError(
            f"{given}: it has no place for samples without a condition; give "
            "--model.class_dropout_prob 0"
        )
    if config.optim.accumulate > 1:
        raise UserError(
            f"{given}: all samples of a step are one group, which is not divided; give "
            "--optim.accumulate 1"
        )
    if is_learned(drift):
        raise UserError(
            f"{given}: learned temperatures are of features without conditions; give numbers, such "
            "as --drift.temperatures 0.02"
        )
    if keeps_state(drift):
        raise UserError(
            f"{given}: what the {drift.field} field keeps is of features without conditions; give "
            "--drift.field kernel, uncoupled, sinkhorn or mmd"
        )


def check_nearest(config: Any, dataset: data.Dataset, sizes: StepSizes) -> None:
    """Raises UserError where a group of the nearest conditions would be the whole bank."""
    if config.drift.n_pos == "all" and not config.drift.joint:
        raise UserError(
            "--drift.n_pos all: with --data.condition_column the positives are the reals with the "
            "conditions nearest to one; give a number, such as 32"
        )
    n_samples = len(dataset.samples)
    held = min(sizes.per_class, n_samples)
    advice = "less, or more images"
    if held < n_samples:
        advice = "less, or --drift.bank_per_class all"
    most = {"--drift.n_pos": held - 1, "--batch_size / --drift.n_neg": held}
    for (flag, limit), n in zip(most.items(), (sizes.n_pos, sizes.n_c), strict=True):
        if n > limit:
            raise UserError(
                f"{flag} {n}: a step takes conditions, and the reals with the conditions nearest "
                f"to each, out of {held} in the bank; give {advice}"
            )


# ---- the classes of a step ----


def classes_per_step(config: Any, dataset: data.Dataset, mesh: jax.sharding.Mesh) -> int:
    """Returns N_c, which must go round the classes evenly and divide over the devices.

    A step has --batch_size generated samples, --drift.n_neg of each class. Raises UserError.
    """
    n_neg, n_classes = config.drift.n_neg, dataset.n_classes
    n_c = config.batch_size // n_neg
    if n_c > n_classes and n_c % n_classes:
        raise UserError(
            f"--batch_size {config.batch_size} / --drift.n_neg {n_neg} = {n_c} classes per step, "
            f"but {dataset.name} has {n_classes} classes; "
            f"give --batch_size {nearest_batch_size(n_c, n_neg, n_classes, mesh.size)}"
        )
    k = config.optim.accumulate
    groups, parts = groups_and_parts(n_c, n_neg, k)
    if groups * parts != k:
        possible = [str(k) for k in range(1, n_c + 1) if n_c % k == 0]
        raise UserError(
            f"--optim.accumulate {k}: it must divide the {n_c} classes of a step "
            f"(--batch_size {config.batch_size} / --drift.n_neg {n_neg}) or the {n_neg} samples "
            f"of each; give {', '.join(possible)}, or a divisor of {n_neg}"
        )
    if sharding.choose_layout(mesh, n_c // groups, n_neg // parts) is None:
        raise no_layout(config, n_c, nearest_batch_size(n_c, n_neg, n_classes, mesh.size), mesh)
    return n_c


def groups_and_parts(n_c: int, n_neg: int, k: int) -> tuple[int, int]:
    """Returns how --optim.accumulate K divides a step: (groups of classes, parts of the rows).

    It divides the classes where it can, and the rows of each class otherwise. Both are 1 where it
    divides neither.
    """
    if n_c % k == 0:
        return k, 1
    if n_neg % k == 0:
        return 1, k
    return 1, 1


def nearest_batch_size(n_c: int, n_neg: int, n_classes: int, devices: int) -> int:
    """Returns the batch size nearest to n_c classes of n_neg samples that is possible.

    Its classes divide over the devices, and go round the classes of the data evenly.
    """
    most = max(n_c, n_classes, devices) * devices
    possible = []
    for classes in range(devices, most + 1, devices):
        if classes <= n_classes or classes % n_classes == 0:
            possible.append(classes)

    def distance(classes: int) -> int:
        return abs(classes - n_c)

    return min(possible, key=distance) * n_neg


def no_layout(config: Any, n_c: int, near: int, mesh: jax.sharding.Mesh) -> UserError:
    """Returns the error for a step whose samples do not divide over the devices.

    n_c: its classes. near: a batch size that would do, without groups.
    """
    devices, n_neg = mesh.size, config.drift.n_neg
    groups, parts = groups_and_parts(n_c, n_neg, config.optim.accumulate)
    divided = of_a_group = ""
    other = f"or --batch_size {near}"
    if groups > 1:
        divided, of_a_group = f" in {groups} groups", " of a group"
        other = "or fewer groups"
    if parts > 1:
        divided, of_a_group = f" in {parts} parts", " of a part"
        other = "or a smaller --optim.accumulate"

    fewer_devices = ""
    all_are_needed = jax.process_count() > 1
    for k in range(1, 1 if all_are_needed else devices):
        if (n_c // groups) % k == 0 and k % config.mesh.fsdp == 0:
            fewer_devices = f", or --mesh.devices {k}"

    rows = round_up(n_neg, devices * parts)
    return UserError(
        f"--batch_size {config.batch_size} = {n_c} classes of {n_neg}{divided}: "
        f"neither the classes{of_a_group} nor the generated samples "
        f"of a class divide over {devices} devices; "
        f"give --drift.n_neg {rows} --batch_size {n_c * rows}, {other}{fewer_devices}"
    )
