"""The sample bank (A.8): recent real samples, ready on the device in every class of a step.

Per class a queue of K samples, and one global queue of G. Each step pushes the newest reals and draws without replacement. The queues are rings:

    bank = {"images": [C, K, ...], "filled": [C], "next": [C], "pool": [G, ...], "pool_filled": [], "pool_next": []}

Images keep the dtype of the data set (uint8, or float for latents), and may be kept as rows of numbers: TPUs pad the last two axes of an array to 8 x 128. In their place there may be a tree of arrays for each sample, such as its features (cache.py). G = 0: unconditional samples are drawn from the class queues, for data that the bank holds as a whole.
The index arithmetic (`*_slots`) is apart from the storage, so that a bank in host memory (NumPy) runs the same draws to the same bits.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from drifting.config import DriftConfig
from drifting.guidance import sample_alpha
from drifting.state import named_keys


@flax.struct.dataclass
class Batch:
    """Real samples of a step, and what to generate, of C classes (or K groups of C). Images in the bank's dtype: uint8 stands for [-1, 1]."""

    labels: jax.Array  # [C] int32
    alpha: jax.Array  # [C] guidance scales
    pos: jax.Array  # [C, N_pos, H, W, ch], or what the bank keeps in the place of images
    weight_pos: jax.Array  # [C, N_pos]: 1, or 0 where a class has fewer samples than N_pos
    unc: jax.Array  # [C, N_unc, H, W, ch]


def empty_bank(n_classes, per_class, pool, sample):
    """A bank without samples, as NumPy arrays: n_classes queues of per_class samples and a global queue of `pool`. sample: shape and dtype of one, an array or a tree."""
    zeros = lambda *lead: jax.tree.map(lambda a: np.zeros((*lead, *a.shape), a.dtype), sample)
    return {
        "images": zeros(n_classes, per_class),
        "filled": np.zeros(n_classes, np.int32),
        "next": np.zeros(n_classes, np.int32),
        "pool": zeros(pool),
        "pool_filled": np.zeros((), np.int32),
        "pool_next": np.zeros((), np.int32),
    }


def bank_bytes(n_classes, per_class, pool, sample) -> int:
    """Memory of such a bank in bytes."""
    return (n_classes * per_class + pool) * sum(
        int(np.prod(a.shape)) * np.dtype(a.dtype).itemsize for a in jax.tree.leaves(sample)
    )


def sizes(bank):
    """(samples in a class queue, samples in the global queue)."""
    return jax.tree.leaves(bank["images"])[0].shape[1], jax.tree.leaves(bank["pool"])[0].shape[0]


def push_slots(bank, labels):
    """Where new samples with these labels [S] go: ring slots [S] (out of range for those that newer ones of the same push displace), and the new counters."""
    (size, pool), same = sizes(bank), labels[:, None] == labels[None, :]
    rank = jnp.sum(jnp.tril(same, -1), 1)  # how many of the class came before it in this push
    after = jnp.sum(jnp.triu(same, 1), 1)  # ... and come after it
    slot = jnp.where(after < size, (bank["next"][labels] + rank) % size, size)
    new = jnp.zeros_like(bank["next"]).at[labels].add(1)
    counters = {
        "filled": jnp.minimum(bank["filled"] + new, size),
        "next": (bank["next"] + new) % size,
    }
    n = labels.shape[0]
    if pool:
        pool_slot = jnp.where(
            jnp.arange(n) >= n - pool, (bank["pool_next"] + jnp.arange(n)) % pool, pool
        )
        counters |= {
            "pool_filled": jnp.minimum(bank["pool_filled"] + n, pool),
            "pool_next": (bank["pool_next"] + n) % pool,
        }
    else:
        pool_slot = jnp.zeros(n, jnp.int32)
    return slot, pool_slot, counters


def push(bank, images, labels):
    """The bank after `images` [S, ...] with `labels` [S] joined their class queues and the global one, the oldest leaving."""
    slot, pool_slot, counters = push_slots(bank, labels)
    put = lambda where, *at: jax.tree.map(
        lambda a, new: a.at[at].set(new.reshape(-1, *a.shape[len(at) :]), mode="drop"),
        where,
        images,
    )
    bank = bank | counters | {"images": put(bank["images"], labels, slot)}
    return bank | ({"pool": put(bank["pool"], pool_slot)} if sizes(bank)[1] else {})


def push_host(bank, slots, images, labels):
    """The same for a bank of NumPy arrays, in place: slots as returned by `push_slots(bank, labels)`."""
    slot, pool_slot, counters = slots
    for where, at, size in zip(("images", "pool"), ((labels, slot), (pool_slot,)), sizes(bank)):
        keep = at[-1] < size
        for kept, new in zip(jax.tree.leaves(bank[where]), jax.tree.leaves(images)):
            kept[tuple(i[keep] for i in at)] = new[keep].reshape(-1, *kept.shape[len(at) :])
    return bank | counters


def _without_replacement(key, filled, size, n):
    """n different slots out of the first `filled` [...] of `size`; [..., n] slots, and whether each holds a sample (all do when filled >= n)."""
    rank = jnp.where(
        jnp.arange(size) < filled[..., None], jax.random.uniform(key, (*filled.shape, size)), 2.0
    )
    slot = jnp.argsort(rank, axis=-1)[
        ..., :n
    ]  # a sort, not top_k: compilers split it over devices by rows
    return slot, jnp.arange(n) < filled[..., None]


def class_slots(key, filled, size, n):
    """n of each class's queue of `size` without replacement, given its count `filled` [B]; n = size takes the whole queue. Slots and validity, [B, n]."""
    if n == size:
        slot = jnp.broadcast_to(jnp.arange(size), (*filled.shape, size))
        return slot, slot < filled[:, None]
    return _without_replacement(key, filled, size, n)


def pool_slots(key, bank, draws, n):
    """n of the recent samples of any class without replacement, `draws` times: [draws, n] indices for `take_pool`, and validity."""
    per_class, pool = sizes(bank)
    if pool:
        return _without_replacement(key, jnp.broadcast_to(bank["pool_filled"], draws), pool, n)
    ends = jnp.cumsum(
        bank["filled"]
    )  # the i-th of all samples lies in the class whose range holds i
    index, valid = _without_replacement(
        key, jnp.broadcast_to(ends[-1], draws), ends.shape[0] * per_class, n
    )
    label = jnp.minimum(jnp.searchsorted(ends, index, side="right"), ends.shape[0] - 1)
    return label * per_class + index - (ends - bank["filled"])[label], valid


def take_class(bank, labels, slots):
    """Samples [..., n, H, W, ch] of the class queues `labels` [...] at `slots` [..., n]."""
    return jax.tree.map(lambda a: a[labels[..., None], slots], bank["images"])


def take_pool(bank, slots):
    """Samples [..., n, H, W, ch] at `slots` [..., n] of `pool_slots`."""
    per_class, pool = sizes(bank)
    if pool:
        return jax.tree.map(lambda a: a[slots], bank["pool"])
    return jax.tree.map(lambda a: a[slots // per_class, slots % per_class], bank["images"])


def draw(bank, seed, step, c: DriftConfig):
    """Which classes, guidance scales and bank slots make up the batch of `step`. Of the samples it reads the shapes alone: they may be elsewhere."""
    key = named_keys(
        seed, ("labels", "alpha", "positives", "unconditional", "class dropout", "null class"), step
    )
    rounds = jnp.stack(
        [
            jax.random.permutation(jax.random.fold_in(key["labels"], r), c.n_classes)
            for r in range(-(-c.n_c // c.n_classes))
        ]
    )
    labels = rounds.reshape(-1)[: c.n_c].astype(jnp.int32)
    alpha = sample_alpha(
        key["alpha"], (c.n_c,), c.alpha_min, c.alpha_max, c.alpha_power, c.no_cfg_frac
    )
    slots, valid = class_slots(key["positives"], bank["filled"][labels], sizes(bank)[0], c.n_pos)
    plan = {
        "labels": labels,
        "alpha": alpha,
        "slots": slots,
        "valid": valid,
        "unc": pool_slots(key["unconditional"], bank, c.n_c, c.n_unc)[0],
    }
    if c.class_dropout_prob:
        dropped = jax.random.uniform(key["class dropout"], (c.n_c,)) < c.class_dropout_prob
        any_slots, any_valid = pool_slots(key["null class"], bank, c.n_c, c.n_pos)
        plan |= {
            "dropped": dropped,
            "any": any_slots,
            "valid": jnp.where(dropped[:, None], any_valid, valid),
        }
    return plan


def gather(bank, plan, shape=()) -> Batch:
    """The samples of a plan of `draw`, whose classes may be in groups [K, C]; NumPy for a bank in host memory, traced for one on the device. shape: of an image that is kept as a row."""
    labels, pos = plan["labels"], take_class(bank, plan["labels"], plan["slots"])
    if "dropped" in plan:
        xp = np if isinstance(labels, np.ndarray) else jnp
        choose = lambda a, b: xp.where(
            plan["dropped"].reshape(*labels.shape, *(1,) * (a.ndim - labels.ndim)), a, b
        )
        pos = jax.tree.map(choose, take_pool(bank, plan["any"]), pos)
        labels = xp.where(plan["dropped"], bank["filled"].shape[0], labels)
    unc = take_pool(bank, plan["unc"])
    if shape and not isinstance(pos, dict):
        pos, unc = (
            a.reshape(*plan[slots].shape, *shape) for a, slots in ((pos, "slots"), (unc, "unc"))
        )
    return Batch(labels, plan["alpha"], pos, plan["valid"].astype("float32"), unc)
