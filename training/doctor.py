"""Looks into the drifting field of a run: restores it, and takes the arrays of one step.

    run folder -> parts, state, bank -> the next batch -> features -> training/findings.py

It is the step of `drifting.step.group_loss`, without its update, of at most MOST_CLASSES classes,
and with the parameters that the training moves, not with an average of them.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

import data
from drifting.bank import batch_from_plan, draw
from drifting.cache import real_features
from drifting.conditions import one_joint_group
from drifting.config import DriftConfig, temperature_factor
from drifting.fields import make_field
from drifting.layout import ONE_DEVICE
from drifting.loss import problem_losses
from drifting.memory import Seen
from drifting.problems import by_width, make_problems, unpack
from drifting.state import named_key
from drifting.step import draw_random_numbers, of_each_sample, unconditional_weights
from drifting.temperature import Temperatures
from models.encoders import encoder_of_set
from training.drift import DriftJob
from training.drift_parts import build
from training.findings import BankFacts, FeatureSet, Finding, all_findings
from utils import config as config_lib
from utils import sharding
from utils.checkpoint import Checkpoints
from utils.errors import UserError

MOST_CLASSES = 10
# Noise of 1%, where samples reach from -1 to 1.
NUDGE = 0.01
# Of a set, so many problems (classes and locations) are looked at, evenly spaced. Sets of one width
# then share their compiled programs.
MOST_PROBLEMS = 16


def examine(folder: pathlib.Path) -> list[Finding]:
    """Returns the findings of the run in a folder. Raises UserError where there is none."""
    job = restore(folder)
    return all_findings(look(job), drift_now(job), bank_facts(job))


def restore(folder: pathlib.Path) -> DriftJob:
    """Returns the run in a folder, with its state and its bank, on one device."""
    config: Any = config_lib.from_json(folder / "config.json")
    if config.objective != "drift":
        raise UserError(f"{folder} holds a run of --objective {config.objective}: it has no field")
    mesh = sharding.make_mesh(1, 1)
    dataset = data.load(config.dataset_name, config.data.split, config.data)
    job = DriftJob(build(config, dataset, mesh), folder)
    job.restore(Checkpoints(folder / "checkpoints"))
    return job


def drift_now(job: DriftJob) -> DriftConfig:
    """Returns the numbers of the step that a run would take next, with its temperatures.

    Of learned temperatures, one for each set, it is the geometric mean; `look` tells each.
    """
    parts: Any = job.parts
    drift = parts.drift
    if isinstance(drift.memory, Temperatures):
        return dataclasses.replace(drift, temperatures=(drift.memory.mean(job.state.field),))
    factor = temperature_factor(drift, job.state.step)
    if factor is None:
        return drift
    now = tuple(float(factor * tau) for tau in drift.temperatures)
    return dataclasses.replace(drift, temperatures=now, temperature_factors=(1.0, 1.0))


def bank_facts(job: DriftJob) -> BankFacts:
    """Returns how the bank of a run is used."""
    parts = job.parts
    return BankFacts(
        filled=np.asarray(job.bank.counters.filled),
        per_class=parts.per_class,
        pushed=0 if parts.whole_bank else parts.reals_per_step,
        in_data=len(parts.dataset.samples),
        max_steps=parts.config.max_steps,
    )


def look(job: DriftJob) -> list[FeatureSet]:
    """Returns the feature sets of the step that a run would take next, of some of its classes."""
    parts: Any = job.parts
    n_c = parts.drift.n_c if parts.drift.joint else min(parts.drift.n_c, MOST_CLASSES)
    drift = dataclasses.replace(drift_now(job), n_c=n_c, groups=1, row_parts=1)
    draw_next = jax.jit(functools.partial(draw, sizes=job.bank.sizes, config=drift))
    bank, state = job.bank, job.state
    plan = draw_next(bank.counters, seed=state.seed, step=state.step, conditions=bank.conditions)
    batch = batch_from_plan(job.bank, jax.device_get(plan), parts.dataset.shape)
    arrays = jax.jit(functools.partial(look_at_batch, parts, drift))
    found = arrays(job.state, batch, parts.encoder_params)
    n_groups = 1 if drift.joint else n_c
    sets = feature_sets_of(found, n_groups, parts.config.encoder.name.split("+"))
    if not isinstance(drift.memory, Temperatures):
        return sets
    own = drift.memory.of_sets(job.state.field)
    return [one._replace(own_tau=own[one.name]) for one in sets]


def look_at_batch(
    parts: Any, drift: DriftConfig, state: Any, batch: Any, encoder_params: Any
) -> dict[str, Any]:
    """Returns features {name: [C N, T, D]}, and what the loss tells of each set.

    Args:
        parts: of the run, `DriftParts`.
        drift: the numbers of the step, for the classes of the batch.
        state: of the run.
        batch: the reals of C classes.
        encoder_params: of the frozen encoder.
    """
    layout, shape = ONE_DEVICE, parts.dataset.shape
    encode = functools.partial(parts.encode, encoder_params)
    random, memory_key = draw_random_numbers(state, drift, shape)

    def samples(noise):
        labels = of_each_sample(batch.labels, drift.n_neg, layout)
        alpha = of_each_sample(batch.alpha, drift.n_neg, layout)
        eps, style = layout.merge(noise.eps), layout.merge(noise.style)
        return parts.model.apply({"params": state.params}, eps, labels, alpha, style)

    x = samples(random.first)
    nudge = NUDGE * jax.random.normal(named_key(state.seed, "nudge", state.step), x.shape)
    gen, nudged = encode(x), encode(x + nudge)
    second = encode(samples(random.second)) if drift.second_batch else None
    reals = jax.tree.map(lambda *pair: jnp.concatenate(pair, 1), batch.unc, batch.pos)
    packed = real_features(reals, random.mirrored, encode, drift.flip, layout)
    weights = batch.weight_pos, unconditional_weights(batch.alpha, drift)
    if drift.joint:
        of_gen = of_each_sample(batch.labels, drift.n_neg, layout)
        (gen, nudged, second), packed, weights = one_joint_group(
            (gen, nudged, second), packed, weights, of_gen, batch.labels, drift.joint
        )
    real = unpack(packed, gen)

    seen = Seen(batch.labels, gen, real, batch.weight_pos, drift.temperatures, layout)
    _, recalled = drift.memory.look(state.field, memory_key, seen)
    widths = make_problems(gen, packed, second, *weights, drift.set_weight, layout)
    field = drift.memory.adapt(make_field(drift.field, drift.field_options))
    factors = drift.battery.factors(state.balance, list(gen), len(drift.temperatures))
    losses, units = {}, {}
    for (width, names), problems in zip(by_width(gen).items(), widths, strict=True):
        problems = problems._replace(recalled=recalled.get(width, problems.recalled))
        loss, stats = problem_losses(problems, drift.temperatures, field, drift.guidance)
        loss = loss * problems.loss_weight
        for i, name in enumerate(names):
            of_set = jnp.sum(jnp.where(problems.set_of == i, loss, 0))
            losses[name] = of_set * factors.get(name, 1.0)
            units[name] = stats.distance[i]
    return {
        "gen": gen,
        "nudged": nudged,
        "second": second,
        "real": real,
        "weights": weights,
        "losses": losses,
        "units": units,
    }


def feature_sets_of(found: dict[str, Any], n_c: int, encoders: list[str]) -> list[FeatureSet]:
    """Returns what `look_at_batch` found, set by set, with some of their problems.

    Args:
        found: of C classes.
        n_c: C.
        encoders: the names of those that are joined.
    """
    weight_pos, weight_unc = found["weights"]
    n_unc = weight_unc.shape[1]
    sets = []
    for name, features in found["gen"].items():
        n_locations = features.shape[1]

        def by_problem(array, n_locations=n_locations):
            """[C n, T, D], or weights [C, n], to at most MOST_PROBLEMS problems."""
            if array.ndim == 2:
                array = jnp.repeat(array, n_locations, 0)
            else:
                array = rearrange(array, "(c n) t d -> (c t) n d", c=n_c)
            count = min(len(array), MOST_PROBLEMS)
            return array[np.linspace(0, len(array) - 1, count).astype(int)]

        reals = by_problem(found["real"][name])
        second = found["second"]
        sets.append(
            FeatureSet(
                name=name,
                encoder=encoder_of_set(name, {"encoders": encoders}),
                gen=by_problem(features),
                nudged=by_problem(found["nudged"][name]),
                pos=reals[:, n_unc:],
                unc=reals[:, :n_unc],
                second=None if second is None else by_problem(second[name]),
                weight_pos=by_problem(weight_pos),
                weight_unc=by_problem(weight_unc),
                unit=float(found["units"][name]),
                loss=float(found["losses"][name]),
            )
        )
    return sets
