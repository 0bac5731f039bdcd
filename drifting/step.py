"""One training step: Algorithm 1, with the sample bank of A.8.

`train_step` pushes new reals into the bank, draws a batch and takes the step. `drift_step` is the
step on a given batch: draw noise, generate, compare in feature space, drift, update.

The named scopes are for profiles and for `scripts/plan.py --explain` (planning/explain.py); they
change nothing in the program.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from drifting.accumulate import in_groups, in_parts, mean_over_groups
from drifting.bank import Bank, Batch, batch_from_plan, draw, push
from drifting.battery import Part, measure_parts
from drifting.cache import real_features
from drifting.conditions import one_joint_group
from drifting.config import DriftConfig, temperature_factor
from drifting.fields import make_field
from drifting.guidance import unconditional_weight
from drifting.layout import ONE_DEVICE, Layout
from drifting.loss import Scales, Stats, problem_losses
from drifting.measure import Distances, mean_distances, measure
from drifting.memory import Recalled, Seen
from drifting.problems import by_width, make_problems, unpack, vectors_of_set
from drifting.state import TrainState, named_keys, update_ema

# ---------------------------------------------------------------- records


class Noise(NamedTuple):
    """The input of the generator."""

    eps: jax.Array  # [C, N, H, W, channels], standard normal
    style: jax.Array  # [C, N, codebooks] int32: an entry of each style codebook (A.2)


class RandomNumbers(NamedTuple):
    """The random numbers of a step, for its C classes, or for those of one group."""

    first: Noise
    second: Noise | None  # of a second generated batch
    mirrored: jax.Array  # [C, N_unc + N_pos] bool: which reals are mirrored


class StepStats(NamedTuple):
    """What a step tells beside its loss."""

    by_width: list[Stats]  # an entry for each width of feature
    distances: Distances
    observed: Any  # by the field's memory
    of_encoders: dict[str, Part]  # {} for a single encoder


# ---------------------------------------------------------------- the step


def _unchanged(images: jax.Array) -> jax.Array:
    return images


def train_step(
    state: TrainState,
    bank: Bank,
    fresh: tuple[jax.Array, jax.Array] | None,
    *,
    generate: Callable,
    encode: Callable,
    optimizer: optax.GradientTransformation,
    config: DriftConfig,
    layout: Layout = ONE_DEVICE,
    to_stored: Callable = _unchanged,
) -> tuple[TrainState, Bank, dict[str, jax.Array]]:
    """Pushes the newest reals into the bank, draws a batch from it, and takes one step.

    It is a pure function, to be jitted with `state` and `bank` donated.

    Args:
        fresh: new reals, (images [S, H, W, channels], labels [S] or conditions [S, E]); None for a
            bank that already holds all data. Where the bank stores rows, images may be rows too.
        to_stored: images -> what the bank stores of them: themselves, or features (cache.py).
        generate, encode, optimizer, config, layout: as in `drift_step`.

    Returns:
        The state and the bank after the step, and the metrics of `drift_step`.
    """
    with jax.named_scope("bank"):
        if fresh is not None:
            images, labels = fresh
            bank = push(bank, to_stored(images), labels)
        seed, step, known = state.seed, state.step, bank.conditions
        plan = draw(bank.counters, bank.sizes, seed, step, config, known)
        plan = layout.groups(in_groups(plan, config.groups))  # [K, C / K, ...] of [C, ...]
        batch = batch_from_plan(bank, plan, config.sample_shape)
    networks = {"generate": generate, "encode": encode, "optimizer": optimizer}
    state, metrics = drift_step(state, batch, **networks, config=config, layout=layout)
    return state, bank, metrics


def drift_step(
    state: TrainState,
    batch: Batch,
    *,
    generate: Callable,
    encode: Callable,
    optimizer: optax.GradientTransformation,
    config: DriftConfig,
    layout: Layout = ONE_DEVICE,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Algorithm 1: generates, compares in feature space, drifts, updates.

    Args:
        state: before the step.
        batch: the reals, in groups of classes [K, C, ...]; K = 1 without accumulation.
        generate: (params, noise [M, H, W, channels], labels [M], alpha [M], style [M, codebooks])
            -> samples [M, H, W, channels]. It is the generator f. Its labels are those of the
            batch, so they may be conditions [M, width].
        encode: samples [M, H, W, channels] -> {name: [M, T, D]}, the feature sets phi of a frozen
            encoder (A.5); gradients flow through it. Samples are images in [-1, 1], or latents.
        optimizer: an optax transformation.
        config: the numbers of the step.
        layout: where the samples are, see layout.py.

    Returns:
        The state after the step, and scalars: those of `measure` and `measure_parts`, "loss",
        norms, "alpha_mean", and what the field's memory tells.
    """
    c = config
    # A bank of images knows the shape of a sample, pos [K, C, N_pos, *shape]; one of features does
    # not.
    sample_shape = c.sample_shape or batch.pos.shape[3:]
    with jax.named_scope("noise"):
        random, memory_key = draw_random_numbers(state, c, sample_shape)
    factor, temperatures = temperature_factor(c, state.step), c.temperatures
    if factor is not None:
        temperatures = factor * jnp.asarray(temperatures)
    loss_fn = functools.partial(
        group_loss,
        generate=generate,
        encode=encode,
        config=c,
        layout=layout,
        memory_state=state.field,
        balance=state.balance,
        temperatures=temperatures,
    )
    # Each group has a key of its own; a single one has that of the step.
    memory_keys = memory_key[None] if c.groups == 1 else jax.random.split(memory_key, c.groups)
    groups = (*layout.groups((batch, in_groups(random, c.groups))), memory_keys)
    (loss, stats), grads = mean_over_groups(loss_fn, state.params, groups, c.exact_scales)

    # The update and the averages.
    with jax.named_scope("optimizer"):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    with jax.named_scope("averages"):
        ema = update_ema(state.ema, params, state.step + 1)
    with jax.named_scope("norms"):
        norms = {
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(params),
        }
    memory_state, of_memory = c.memory.update(state.field, stats.observed, stats.by_width)
    state = TrainState(
        step=state.step + 1,
        seed=state.seed,
        params=params,
        opt_state=opt_state,
        ema=ema,
        field=memory_state,
        balance=c.battery.update(state.balance, stats.of_encoders),
    )

    metrics = {"loss": loss} | measure(stats.by_width, stats.distances, c.temperatures) | norms
    metrics |= measure_parts(stats.of_encoders)
    if factor is not None:
        metrics["temperature_factor"] = factor
    return state, metrics | of_memory | {"alpha_mean": jnp.mean(batch.alpha)}


def group_loss(
    params: Any,
    group: tuple[Batch, RandomNumbers, jax.Array],
    pooled: list[Scales] | None,
    *,
    generate: Callable,
    encode: Callable,
    config: DriftConfig,
    layout: Layout,
    memory_state: Any,
    balance: Any,
    temperatures: Sequence[float] | jax.Array,
) -> tuple[jax.Array, StepStats]:
    """Returns the loss of one group of C classes: generate, encode, compare.

    Args:
        params: of the generator.
        group: the reals and the random numbers of the group, and the key of the field's memory.
        pooled: scalars of the loss over all groups, or None for those of this group.
        generate, encode, config, layout: as in `drift_step`.
        memory_state: what the field keeps from step to step.
        balance: the sizes of encoders in balance, or None.
        temperatures: tau of this step.
    """
    c = config
    batch, random, memory_key = group
    batch, random = layout.classes((batch, random))  # each class is whole on its devices now

    def phi_of_part(noise):
        """Features [C, n, T, D] of n samples x = f(eps) of each class."""
        n_classes, n = noise.eps.shape[:2]
        labels = of_each_sample(batch.labels, n, layout)
        alpha = of_each_sample(batch.alpha, n, layout)
        eps, style = layout.merge(noise.eps), layout.merge(noise.style)
        with jax.named_scope("generator"):
            samples = generate(params, eps, labels, alpha, style)
        with jax.named_scope("encoder"):
            features = encode(samples)
        return {name: layout.split(sets, n_classes) for name, sets in features.items()}

    def phi(noise):
        """Features [C N, T, D] of generated samples; `layout.merge` decides their order."""
        by_class = in_parts(phi_of_part, noise, c.row_parts)
        return {name: layout.merge(sets) for name, sets in by_class.items()}

    # Features of a second batch, of the reals, and of the samples that receive the gradient.
    phi_second = jax.lax.stop_gradient(phi(random.second)) if c.second_batch else None
    # Reals are images, or a tree of features where the bank stores these. They stay class by class,
    # while generated samples are in the order of `layout.merge`.
    reals = jax.tree.map(concatenate_rows, batch.unc, batch.pos)
    reals = layout.classes(reals)  # [C, N_unc + N_pos, ...]
    with jax.named_scope("encoder"):
        phi_real = real_features(reals, random.mirrored, encode, c.flip, layout, c.row_parts)
    phi_real = jax.lax.stop_gradient(phi_real)
    phi_gen = phi(random.first)

    weights = batch.weight_pos, unconditional_weights(batch.alpha, c)
    # What is watched for collapse stays as it is,
    # class by class, where all become one group.
    watched_gen, watched_real = phi_gen, phi_real
    if c.joint:
        of_gen = of_each_sample(batch.labels, c.n_neg, layout)
        (phi_gen, phi_second), phi_real, weights = one_joint_group(
            (phi_gen, phi_second), phi_real, weights, of_gen, batch.labels, c.joint
        )
        layout = ONE_DEVICE  # in one group the order of the samples plays no part
    weight_pos, weight_unc = weights

    # What the field knows beside these samples, if it has a memory.
    frozen_gen, frozen_real = jax.lax.stop_gradient((phi_gen, unpack(phi_real, phi_gen)))
    seen = Seen(batch.labels, frozen_gen, frozen_real, weight_pos, temperatures, layout)
    with jax.named_scope("memory"):
        observed, recalled = c.memory.look(memory_state, memory_key, seen)

    # Problems, drift and loss of all feature sets.
    factors = c.battery.factors(balance, list(phi_gen), len(c.temperatures))
    loss, of_widths = feature_loss(
        phi_gen,
        phi_real,
        weight_pos,
        weight_unc,
        c,
        layout=layout,
        phi_second=phi_second,
        recalled=recalled,
        pooled=pooled,
        factors=factors,
        temperatures=temperatures,
    )
    of_encoders = c.battery.parts(phi_gen, of_widths)

    # One set of vectors is watched: are the samples as far apart as the reals?
    monitored = c.monitor or last_vector(phi_gen)
    n_classes, n_unc = weight_unc.shape
    gen, pos = vectors_of_set(monitored, watched_gen, watched_real, n_classes, n_unc, layout)
    distances = mean_distances(gen, pos, weight_pos)

    return loss, StepStats(of_widths, distances, observed, of_encoders)


# ---------------------------------------------------------------- what the step is made of


def draw_random_numbers(
    state: TrainState, config: DriftConfig, sample_shape: tuple[int, ...]
) -> tuple[RandomNumbers, jax.Array]:
    """Returns the random numbers of a step, and the key of the field's memory."""
    c = config
    batches = ("", " second") if c.second_batch else ("",)
    names = ["flip unconditional", "flip positives", "field"]
    names += [purpose + batch for purpose in ("noise", "style") for batch in batches]
    key = named_keys(state.seed, names, state.step)

    def noise(batch):
        n_codebooks, codebook_size = c.style_shape
        eps = jax.random.normal(key["noise" + batch], (c.n_c, c.n_neg, *sample_shape))
        shape = (c.n_c, c.n_neg, n_codebooks)
        style = jax.random.randint(key["style" + batch], shape, 0, max(codebook_size, 1))
        return Noise(eps, style)

    unconditional = jax.random.bernoulli(key["flip unconditional"], 0.5, (c.n_c, c.n_unc))
    positives = jax.random.bernoulli(key["flip positives"], 0.5, (c.n_c, c.n_pos))
    mirrored = jnp.concatenate([unconditional, positives], 1)
    second = noise(" second") if c.second_batch else None
    return RandomNumbers(noise(""), second, mirrored), key["field"]


def unconditional_weights(alpha: jax.Array, config: DriftConfig) -> jax.Array:
    """Returns the weights [C, N_unc] of the unconditional reals among the negatives (Sec. 3.5)."""
    # A sample is not its own negative, but none of a second batch is the sample itself.
    n_negatives = config.n_neg + 1 if config.second_batch else config.n_neg
    weight = unconditional_weight(alpha, n_negatives, max(config.n_unc, 1))
    return jnp.broadcast_to(weight[:, None], (len(alpha), config.n_unc))


def concatenate_rows(unconditional: jax.Array, positives: jax.Array) -> jax.Array:
    """Returns the reals of each class [C, N_unc + N_pos, ...], unconditional ones first."""
    return jnp.concatenate([unconditional, positives], 1)


def of_each_sample(of_class: jax.Array, n: int, layout: Layout) -> jax.Array:
    """Repeats a value of each class [C] for its n generated samples, [C n]."""
    return layout.merge(jnp.repeat(of_class[:, None], n, 1))


def feature_loss(
    phi_gen: dict[str, jax.Array],
    phi_real: dict[str, jax.Array],
    weight_pos: jax.Array,
    weight_unc: jax.Array,
    config: DriftConfig,
    *,
    layout: Layout = ONE_DEVICE,
    phi_second: dict[str, jax.Array] | None = None,
    recalled: dict[str, Recalled] | None = None,
    pooled: list[Scales] | None = None,
    factors: dict[str, jax.Array] | None = None,
    temperatures: Sequence[float] | jax.Array | None = None,
) -> tuple[jax.Array, list[Stats]]:
    """Returns the weighted sum of the drifting losses of all feature sets (A.5).

    Args:
        phi_gen: {name: [C N, T, D]}, features of generated samples.
        phi_real: {str(D): [C R, sum(T), D]}, packed features of reals: the sets of one width side
            by side. They are class by class, R = N_unc + N_pos, unconditional ones first.
        weight_pos, weight_unc: [C, N_pos] and [C, N_unc], weights of the reals.
        config: the numbers of the step.
        phi_second: features of a second generated batch, which then repels.
        recalled: what the field is told of the problems of each width, by its memory.
        pooled: scalars of A.6 over more classes than these, an entry for each width.
        factors: {name: a further weight}, of encoders in balance.
        temperatures: tau; None for those of config.
    """
    with jax.named_scope("packing"):
        widths = make_problems(
            phi_gen, phi_real, phi_second, weight_pos, weight_unc, config.set_weight, layout
        )
    if temperatures is None:
        temperatures = config.temperatures
    total, stats = jnp.float32(0.0), []
    field = config.memory.adapt(make_field(config.field, config.field_options))
    names_of = by_width(phi_gen)
    for i, (width, problems) in enumerate(zip(names_of, widths, strict=True)):
        scales = pooled[i] if pooled else None
        # In parts, one location of all classes after the other: all distances at once are large.
        together = len(weight_pos) if config.row_parts > 1 else None
        if recalled and width in recalled:
            problems = problems._replace(recalled=recalled[width])
        with jax.named_scope("losses"):
            loss, of_sets = problem_losses(
                problems, temperatures, field, config.guidance, scales, together
            )
        weight = problems.loss_weight
        if factors:
            of_set = jnp.stack([factors[name] for name in names_of[width]])
            weight = weight * of_set[problems.set_of]
        total += jnp.sum(loss * weight)
        stats.append(of_sets)
    return total, stats


def last_vector(phi: dict[str, jax.Array]) -> str:
    """Returns the name, the last in the alphabet, of a feature set with one vector per image.

    Their order in a tree depends on how it was computed.

    Raises ValueError where there is none.
    """
    vectors = [name for name, features in phi.items() if features.shape[1] == 1]
    if not vectors:
        raise ValueError(
            f"none of the feature sets {sorted(phi)} has one vector per image to watch"
        )
    return max(vectors)
