"""The sample bank (A.8): the newest real samples of each class, kept where the step runs.

For each class there is a queue of L samples, and beside them one global queue, the pool, of G. Each
step pushes the newest reals into both and then draws without replacement. All queues are rings: the
newest sample takes the slot of the oldest. In a `Batch` and a `Plan`, C counts the classes of the
step; in the bank itself, those of the data set.

A sample is an image in the dtype of its data set: uint8, or float for latents. It may be stored as
a row of numbers, because TPUs pad the last two axes of an array to 8 x 128. In its place the bank
may store anything made from it, such as its features (cache.py), as a dict of arrays.

Samples with conditions in the place of classes (conditions.py) are all of class 0. The bank keeps
their conditions beside them.

With G = 0 unconditional samples are drawn from the class queues. That is for data sets which the
bank holds as a whole.

Deciding which slots to use (`push_slots`, `draw`) is apart from moving samples (`push`,
`batch_from_plan`). So a bank in host memory, made of NumPy arrays, runs the same draws to the same
bits.
"""

import math
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from drifting.conditions import NULL, class_and_condition, nearest_slots
from drifting.config import DriftConfig
from drifting.guidance import sample_alpha
from drifting.state import named_keys

# ---------------------------------------------------------------- records


class Counters(flax.struct.PyTreeNode):
    """How full the queues are, and where their next samples go."""

    filled: Any  # [C] int32: samples in each class queue, at most L
    next: Any  # [C] int32: the slot that the next sample of each class takes
    pool_filled: Any  # int32: samples in the pool, at most G
    pool_next: Any  # int32: the slot of the pool that the next sample takes


class Sizes(NamedTuple):
    """The lengths of the queues."""

    per_class: int  # L
    pool: int  # G


class Bank(flax.struct.PyTreeNode):
    """The queues and their counters. Arrays are JAX's on a device, NumPy's in host memory."""

    samples: Any  # [C, L, ...], or a tree of such arrays: the class queues
    pool: Any  # [G, ...], or a tree of such arrays: the global queue
    counters: Counters
    conditions: Any = None  # [L, E] float32, of the one class queue; None for classes

    @property
    def sizes(self) -> Sizes:
        samples, pool = jax.tree.leaves(self.samples)[0], jax.tree.leaves(self.pool)[0]
        return Sizes(samples.shape[1], pool.shape[0])

    def to_dict(self) -> dict[str, Any]:
        """Returns the bank under the names that checkpoints use."""
        counters = {name: getattr(self.counters, name) for name in _COUNTER_NAMES}
        stored = {"images": self.samples, "pool": self.pool} | counters
        if self.conditions is not None:
            stored["conditions"] = self.conditions
        return stored

    @classmethod
    def from_dict(cls, items: dict[str, Any]) -> "Bank":
        """The inverse of `to_dict`."""
        counters = Counters(**{name: items[name] for name in _COUNTER_NAMES})
        return cls(items["images"], items["pool"], counters, items.get("conditions"))


_COUNTER_NAMES = ("filled", "next", "pool_filled", "pool_next")


class Plan(flax.struct.PyTreeNode):
    """What `draw` decided: the classes of a step, their guidance scales and their slots.

    The arrays begin with [C], or with [K, C] where the classes are in groups.
    """

    labels: Any  # [C] int32
    alpha: Any  # [C] float32
    positives: Any  # [C, N_pos] slots in the queue of each class
    present: Any  # [C, N_pos] bool: whether the slot of a positive holds a sample
    unconditional: Any  # [C, N_unc] indices for `take_any_class`
    dropped: Any = None  # [C] bool: classes that become the null class; None without class dropout
    any_class: Any = None  # [C, N_pos] indices for `take_any_class`: the null class's positives
    anchors: Any = None  # [C] slots of the samples whose conditions are taken; None for classes


class Batch(flax.struct.PyTreeNode):
    """The real samples of a step, and what to generate, of C classes (or K groups of C).

    Images have the bank's dtype: uint8 stands for [-1, 1].
    """

    labels: Any  # [C] int32, or conditions [C, E] float32
    alpha: Any  # [C] float32: guidance scales
    pos: Any  # [C, N_pos, H, W, channels], or what the bank stores in the place of images
    weight_pos: Any  # [C, N_pos] float32: 1, or 0 where a class has fewer samples than N_pos
    unc: Any  # [C, N_unc, H, W, channels], or what the bank stores


# ---------------------------------------------------------------- an empty bank


def bank_shapes(
    n_classes: int, per_class: int, pool: int, sample: Any, condition_width: int = 0
) -> Bank:
    """Returns the shapes and dtypes of a bank; nothing is allocated.

    Args:
        n_classes: C, the number of class queues.
        per_class: L, their length.
        pool: G, the length of the global queue.
        sample: the shape and dtype of what is stored of one sample, or a tree of them.
        condition_width: K, the numbers of a condition; 0 for classes.
    """

    def samples(*lead):
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct((*lead, *a.shape), a.dtype), sample)

    def count(*shape):
        return jax.ShapeDtypeStruct(shape, np.int32)

    counters = Counters(
        filled=count(n_classes), next=count(n_classes), pool_filled=count(), pool_next=count()
    )
    conditions = None
    if condition_width:
        conditions = jax.ShapeDtypeStruct((per_class, condition_width), np.float32)
    return Bank(samples(n_classes, per_class), samples(pool), counters, conditions)


def empty_bank(
    n_classes: int, per_class: int, pool: int, sample: Any, condition_width: int = 0
) -> Bank:
    """Returns a bank without samples, as NumPy arrays. The arguments are those of `bank_shapes`."""
    shapes = bank_shapes(n_classes, per_class, pool, sample, condition_width)
    bank = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)
    if bank.conditions is not None:
        bank.conditions[:] = NULL
    return bank


def bank_bytes(
    n_classes: int, per_class: int, pool: int, sample: Any, condition_width: int = 0
) -> int:
    """Returns the memory of such a bank, without its counters, in bytes."""
    bank = bank_shapes(n_classes, per_class, pool, sample, condition_width)
    arrays = jax.tree.leaves((bank.samples, bank.pool, bank.conditions))
    return sum(math.prod(a.shape) * np.dtype(a.dtype).itemsize for a in arrays)


# ---------------------------------------------------------------- pushing new samples


def push_slots(
    counters: Counters, sizes: Sizes, labels: jax.Array
) -> tuple[jax.Array, jax.Array, Counters]:
    """Decides where new samples go.

    Args:
        counters: of the bank before.
        sizes: of its queues.
        labels: [S], of the new samples, the oldest first.

    Returns:
        The slots [S] in the class queues, the slots [S] in the pool, and the counters after. A slot
        is out of range for a sample that newer ones of the same push displace.
    """
    size, pool = sizes
    same_class = labels[:, None] == labels[None, :]
    before = jnp.sum(jnp.tril(same_class, -1), 1)  # samples of the class ahead of it in this push
    after = jnp.sum(jnp.triu(same_class, 1), 1)  # and behind it
    slot = jnp.where(after < size, (counters.next[labels] + before) % size, size)  # size: no slot
    new = jnp.zeros_like(counters.next).at[labels].add(1)
    filled, next_slot = jnp.minimum(counters.filled + new, size), (counters.next + new) % size
    counters = counters.replace(filled=filled, next=next_slot)

    n = labels.shape[0]
    if not pool:
        return slot, jnp.zeros(n, jnp.int32), counters
    order = jnp.arange(n)
    pool_slot = jnp.where(order >= n - pool, (counters.pool_next + order) % pool, pool)
    counters = counters.replace(
        pool_filled=jnp.minimum(counters.pool_filled + n, pool),
        pool_next=(counters.pool_next + n) % pool,
    )
    return slot, pool_slot, counters


def push(bank: Bank, samples: Any, labels: jax.Array) -> Bank:
    """Returns the bank after samples [S, ...] of labels [S] joined it; the oldest leave.

    labels: or conditions [S, E].
    """
    labels, conditions = class_and_condition(labels)
    slot, pool_slot, counters = push_slots(bank.counters, bank.sizes, labels)

    def put(queue, index, samples):
        def put_array(array, new):
            new = new.reshape(-1, *array.shape[len(index) :])
            return array.at[index].set(new, mode="drop")  # drops what is out of range

        return jax.tree.map(put_array, queue, samples)

    queues = put(bank.samples, (labels, slot), samples)
    pool = put(bank.pool, (pool_slot,), samples) if bank.sizes.pool else bank.pool
    conditions = put(bank.conditions, (slot,), conditions)
    return Bank(queues, pool, counters, conditions)


def push_host(bank: Bank, slots: tuple, samples: Any, labels: np.ndarray) -> Bank:
    """The same as `push` for a bank in host memory: NumPy arrays, which are changed in place.

    Args:
        slots: what `push_slots` returned for these labels, as NumPy arrays.
        labels: [S], or conditions [S, E].
    """
    labels, conditions = class_and_condition(labels)
    slot, pool_slot, counters = slots

    def put(queue, index, size, samples):
        fits = index[-1] < size
        index = tuple(i[fits] for i in index)
        arrays, new_arrays = jax.tree.leaves(queue), jax.tree.leaves(samples)
        for array, new in zip(arrays, new_arrays, strict=True):
            array[index] = new[fits].reshape(-1, *array.shape[len(index) :])

    size = bank.sizes
    put(bank.samples, (labels, slot), size.per_class, samples)
    put(bank.pool, (pool_slot,), size.pool, samples)
    put(bank.conditions, (slot,), size.per_class, conditions)
    return bank.replace(counters=counters)


# ---------------------------------------------------------------- drawing a batch


def _without_replacement(key, filled, size, n):
    """Draws n different slots, `size` at most, out of the first `filled` [...] of them.

    Returns the slots [..., n] and whether each holds a sample, which all do when filled >= n.
    """
    noise = jax.random.uniform(key, (*filled.shape, size))
    is_filled = jnp.arange(size) < filled[..., None]
    # Each slot draws a number below 1,
    # and those with the n least are taken.
    # Empty slots have 2, so they come last.
    # A sort and not top_k: compilers divide a sort over devices by rows.
    slot = jnp.argsort(jnp.where(is_filled, noise, 2.0), axis=-1)[..., :n]
    return slot, jnp.arange(n) < filled[..., None]


def class_slots(key: jax.Array, filled: jax.Array, size: int, n: int):
    """Draws n samples of each class's queue without replacement.

    Args:
        key: a random key.
        filled: [B], samples in the queue of each class.
        size: the length of the queues; n = size takes a queue as a whole, in its order.
        n: how many, at most `size`.

    Returns:
        The slots [B, n], and whether each holds a sample.
    """
    if n == size:
        slot = jnp.broadcast_to(jnp.arange(size), (*filled.shape, size))
        return slot, slot < filled[:, None]
    return _without_replacement(key, filled, size, n)


def any_class_slots(key: jax.Array, counters: Counters, sizes: Sizes, n_draws: int, n: int):
    """Draws n recent samples of any class without replacement, n_draws times.

    There is room for n in the bank.

    Returns indices [n_draws, n] for `take_any_class`, and whether each holds a sample. They are
    slots of the pool; or class * L + slot, where there is none.
    """
    per_class, pool = sizes
    if pool:
        filled = jnp.broadcast_to(counters.pool_filled, n_draws)
        return _without_replacement(key, filled, pool, n)
    # Number all samples of all classes in a row. The i-th of them lies in the class whose range of
    # numbers holds i.
    ends = jnp.cumsum(counters.filled)
    n_classes = ends.shape[0]
    filled = jnp.broadcast_to(ends[-1], n_draws)
    index, present = _without_replacement(key, filled, n_classes * per_class, n)
    label = jnp.minimum(jnp.searchsorted(ends, index, side="right"), n_classes - 1)
    slot = index - (ends - counters.filled)[label]
    return label * per_class + slot, present


def labels_in_turn(key: jax.Array, n_classes: int, n: int) -> jax.Array:
    """Draws n labels [n]. Classes go round: each is drawn once before any is drawn again."""
    n_rounds = -(-n // n_classes)
    rounds = [
        jax.random.permutation(jax.random.fold_in(key, i), n_classes) for i in range(n_rounds)
    ]
    return jnp.stack(rounds).reshape(-1)[:n].astype(jnp.int32)


def labels_by_share(key: jax.Array, shares: jax.Array, n: int) -> jax.Array:
    """Draws n labels [n], of each class n times its share, rounded up or down at random.

    Systematic sampling: the classes, in random order, lie side by side on [0, 1], each as long as
    its share. A comb of n teeth, 1 / n apart, is laid on them at random.
    """
    key_order, key_comb, key_place = jax.random.split(key, 3)
    order = jax.random.permutation(key_order, shares.shape[0])
    ends = jnp.cumsum(shares[order])
    teeth = (jnp.arange(n) + jax.random.uniform(key_comb)) / n * ends[-1]
    # Between rounded numbers a tooth may lie at the very end, where no class is any more.
    found = jnp.minimum(jnp.searchsorted(ends, teeth, side="right"), shares.shape[0] - 1)
    return jax.random.permutation(key_place, order[found]).astype(jnp.int32)


def draw(
    counters: Counters,
    sizes: Sizes,
    seed,
    step,
    config: DriftConfig,
    conditions: Any = None,
) -> Plan:
    """Decides which classes, guidance scales and samples make up the batch of `step`.

    It depends on nothing but the seed, the step, how full the queues are, and the conditions of the
    bank, [L, E], if it has some.
    """
    c = config
    purposes = ("labels", "alpha", "positives", "unconditional", "class dropout", "null class")
    key = named_keys(seed, purposes, step)

    if c.class_shares:
        labels = labels_by_share(key["labels"], jnp.array(c.class_shares), c.n_c)
    else:
        labels = labels_in_turn(key["labels"], c.n_classes, c.n_c)
    interval = (c.alpha_min, c.alpha_max, c.alpha_power)
    alpha = sample_alpha(key["alpha"], (c.n_c,), *interval, c.no_cfg_frac)

    filled = counters.filled[labels]
    anchors = None
    if conditions is None:
        positives, present = class_slots(key["positives"], filled, sizes.per_class, c.n_pos)
    else:
        # All are of class 0, in whose queue the anchors are drawn as classes are among classes. The
        # labels above are all 0 then, so their key is free for this.
        held = counters.filled[0]
        anchors, _ = _without_replacement(key["labels"], held, sizes.per_class, c.n_c)
        positives, present = nearest_slots(key["positives"], conditions, anchors, held, c.n_pos)
    # Before the first step the bank was filled with at least N_unc samples, so all are present.
    unconditional, _ = any_class_slots(key["unconditional"], counters, sizes, c.n_c, c.n_unc)
    plan = Plan(labels, alpha, positives, present, unconditional, anchors=anchors)
    if not c.class_dropout_prob:
        return plan

    dropped = jax.random.uniform(key["class dropout"], (c.n_c,)) < c.class_dropout_prob
    any_class, any_present = any_class_slots(key["null class"], counters, sizes, c.n_c, c.n_pos)
    present = jnp.where(dropped[:, None], any_present, present)
    return plan.replace(dropped=dropped, any_class=any_class, present=present)


def take_class(bank: Bank, labels: Any, slots: Any) -> Any:
    """Returns samples [..., n, ...] of the class queues `labels` [...] at `slots` [..., n]."""
    return jax.tree.map(lambda a: a[labels[..., None], slots], bank.samples)


def take_any_class(bank: Bank, indices: Any) -> Any:
    """Returns samples [..., n, ...] at the `indices` [..., n] of `any_class_slots`."""
    per_class, pool = bank.sizes
    if pool:
        return jax.tree.map(lambda a: a[indices], bank.pool)
    label, slot = indices // per_class, indices % per_class
    return jax.tree.map(lambda a: a[label, slot], bank.samples)


def batch_from_plan(bank: Bank, plan: Plan, sample_shape: tuple[int, ...] = ()) -> Batch:
    """Returns the samples of a plan, whose classes may be in groups [K, C].

    It works in NumPy for a bank in host memory, and is traced for one on the device.

    Args:
        sample_shape: of an image that the bank stores as a row; () leaves samples as they are.
    """
    labels, pos = plan.labels, take_class(bank, plan.labels, plan.positives)
    xp = np if isinstance(labels, np.ndarray) else jnp
    if plan.dropped is not None:

        def of_null_class(any_class, of_class):
            ones = (1,) * (of_class.ndim - labels.ndim)
            dropped = plan.dropped.reshape(*labels.shape, *ones)
            return xp.where(dropped, any_class, of_class)

        pos = jax.tree.map(of_null_class, take_any_class(bank, plan.any_class), pos)
        n_classes = bank.counters.filled.shape[0]
        labels = xp.where(plan.dropped, n_classes, labels)  # the label of the null class
    if plan.anchors is not None:
        # With conditions the only class is 0,
        # so the null class is 1.
        is_null = (labels > 0)[..., None]
        labels = xp.where(is_null, NULL, bank.conditions[plan.anchors])
    unc = take_any_class(bank, plan.unconditional)

    stores_images = not isinstance(pos, dict)
    if sample_shape and stores_images:
        pos = pos.reshape(*plan.positives.shape, *sample_shape)
        unc = unc.reshape(*plan.unconditional.shape, *sample_shape)
    return Batch(labels, plan.alpha, pos, plan.present.astype("float32"), unc)
