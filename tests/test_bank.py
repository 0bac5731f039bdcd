"""The bank against a model of it made of Python lists."""

import collections
import types

import jax
import numpy as np
import pytest

from data.dataset import Dataset
from drifting import bank as banks
from drifting.config import DriftConfig
from training.resolve_bank import place_of_bank
from training.resolve_sizes import class_shares
from utils.errors import UserError

C, K, G, SHAPE = 5, 4, 7, (2, 2, 1)


def config(**changes):
    base = dict(
        n_classes=C,
        n_c=3,
        n_neg=4,
        n_pos=2,
        n_unc=3,
        alpha_min=1.0,
        alpha_max=3.0,
        alpha_power=3.0,
        no_cfg_frac=0.0,
        temperatures=(0.2,),
        field="kernel",
        style_shape=(0, 0),
    )
    return DriftConfig(**base | changes)


def draw_batch(bank, seed, step, config):
    plan = banks.draw(bank.counters, bank.sizes, np.uint32(seed), step, config)
    return banks.batch_from_plan(bank, plan)


def fresh(rng, n, counter):
    """n samples, each of its own value."""
    labels = rng.integers(0, C, n).astype(np.int32)
    values = np.arange(counter, counter + n, dtype=np.uint8)
    return np.broadcast_to(values[:, None, None, None], (n, *SHAPE)).copy(), labels


def push_all(pool, pushes, host):
    """Push the same samples into a bank and into lists; both."""
    rng, bank, counter = (
        np.random.default_rng(0),
        banks.empty_bank(C, K, pool, jax.ShapeDtypeStruct(SHAPE, np.uint8)),
        0,
    )
    queues, recent = (
        [collections.deque(maxlen=K) for _ in range(C)],
        collections.deque(maxlen=max(pool, 1)),
    )
    push = jax.jit(banks.push)
    slots = jax.jit(lambda counters, labels: banks.push_slots(counters, bank.sizes, labels))
    for n in pushes:
        images, labels = fresh(rng, n, counter)
        counter += n
        bank = (
            banks.push_host(bank, jax.device_get(slots(bank.counters, labels)), images, labels)
            if host
            else push(bank, images, labels)
        )
        for image, label in zip(images, labels, strict=True):
            queues[label].append(image[0, 0, 0])
            recent.append(image[0, 0, 0])
    return jax.device_get(bank), queues, recent


@pytest.mark.parametrize("host", [False, True])
@pytest.mark.parametrize("pool", [0, G])
def test_push_keeps_the_newest(pool, host):
    """Also when one push holds more of a class, or of all, than a queue."""
    bank, queues, recent = push_all(pool, [3, 25, 6, 1, 9], host)
    for k in range(C):
        assert bank.counters.filled[k] == len(queues[k])
        assert sorted(bank.samples[k, : len(queues[k]), 0, 0, 0]) == sorted(queues[k])
    if pool:
        assert sorted(bank.pool[:, 0, 0, 0]) == sorted(recent)


@pytest.mark.parametrize("pool", [0, G])
def test_draw_is_without_replacement_and_of_the_class(pool):
    bank, queues, recent = push_all(pool, [3, 25, 6], host=False)
    c = config()
    draw = jax.jit(lambda bank, step: draw_batch(bank, 0, step, c))
    values = recent if pool else [v for q in queues for v in q]
    seen, seen_unc = collections.Counter(), collections.Counter()
    for step in range(300):
        batch = jax.device_get(draw(bank, step))
        assert len(set(batch.labels)) == c.n_c
        for label, alpha, pos, weight, unc in zip(
            batch.labels,
            batch.alpha,
            batch.pos[..., 0, 0, 0],
            batch.weight_pos,
            batch.unc[..., 0, 0, 0],
            strict=True,
        ):
            assert (
                len(set(pos)) == c.n_pos and set(pos) <= set(queues[label]) and (weight == 1).all()
            )
            assert len(set(unc)) == c.n_unc and set(unc) <= set(values)
            assert 1 <= alpha <= 3
            seen.update(pos.tolist())
            seen_unc.update(unc.tolist())
    assert set(seen) == {v for q in queues for v in q} and set(seen_unc) == set(values)
    share = np.array(list(seen_unc.values())) / (300 * c.n_c * c.n_unc)
    assert np.abs(share - 1 / len(values)).max() < 5 * np.sqrt(1 / len(values) / 2700), (
        "every sample is drawn equally often"
    )


@pytest.mark.parametrize("pool", [0, G])
def test_images_kept_as_rows(pool):
    """The same batches as from a bank of images, on the device and in host memory."""
    rng, c = np.random.default_rng(0), config(class_dropout_prob=0.5)
    images, labels = (
        rng.integers(0, 256, (25, *SHAPE), np.uint8),
        rng.integers(0, C, 25).astype(np.int32),
    )
    whole, rows = (
        banks.empty_bank(C, K, pool, jax.ShapeDtypeStruct(shape, np.uint8))
        for shape in (SHAPE, (int(np.prod(SHAPE)),))
    )
    push = jax.jit(banks.push)
    slots = jax.jit(lambda counters: banks.push_slots(counters, whole.sizes, labels))
    slots = jax.device_get(slots(whole.counters))
    whole = jax.device_get(push(whole, images, labels))
    draw = jax.jit(lambda counters: banks.draw(counters, whole.sizes, np.uint32(0), 0, c))
    plan = jax.device_get(draw(whole.counters))
    expected = banks.batch_from_plan(whole, plan)
    on_device = jax.device_get(push(rows, images, labels))
    for bank in (on_device, banks.push_host(rows, slots, images, labels)):
        batch = banks.batch_from_plan(bank, plan, SHAPE)
        jax.tree.map(np.testing.assert_array_equal, batch, expected)


def test_all_of_a_class():
    """n_pos = the queue's length takes every real once, and marks the slots that hold none."""
    bank, queues, _ = push_all(0, [9], host=False)
    batch = jax.device_get(draw_batch(bank, 0, 0, config(n_pos=K, n_c=C)))
    for label, pos, weight in zip(
        batch.labels, batch.pos[..., 0, 0, 0], batch.weight_pos, strict=True
    ):
        assert sorted(pos[weight == 1]) == sorted(queues[label])


def test_host_and_device_draw_the_same():
    bank, _, _ = push_all(G, [3, 25, 6], host=False)
    c = config(class_dropout_prob=0.5)
    draw_on_device = jax.jit(lambda bank, step: draw_batch(bank, 3, step, c))
    draw = jax.jit(lambda counters, step: banks.draw(counters, bank.sizes, np.uint32(3), step, c))
    nulls = 0
    for step in range(4):
        on_device = draw_on_device(bank, step)
        plan = jax.device_get(draw(bank.counters, step))
        on_host = banks.batch_from_plan(bank, plan)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(on_device), on_host)
        nulls += (on_host.labels == C).sum()
    assert 0 < nulls < 4 * c.n_c


def test_more_groups_than_classes():
    """One class in several groups: labels go round."""
    bank, _, _ = push_all(0, [25], host=False)
    plan = banks.draw(bank.counters, bank.sizes, np.uint32(0), 0, config(n_c=2 * C))
    labels = np.asarray(plan.labels)
    assert sorted(labels.tolist()) == sorted(list(range(C)) * 2)


def draw_labels(n_steps, **changes):
    """The labels [steps, 7] that the first steps draw."""
    bank, _, _ = push_all(0, [25], host=False)
    c = config(n_c=7, **changes)

    def of_step(counters, step):
        return banks.draw(counters, bank.sizes, np.uint32(0), step, c).labels

    draw = jax.jit(jax.vmap(of_step, in_axes=(None, 0)))
    return np.asarray(draw(bank.counters, np.arange(n_steps)))


def test_uniform_labels_keep_their_bits():
    """What was drawn before classes could be drawn by frequency: a resumed run goes on."""
    assert draw_labels(2).tolist() == [[3, 0, 1, 2, 4, 3, 1], [1, 0, 2, 3, 4, 2, 3]]


def five_classes(counts):
    names = tuple("abcde")
    return Dataset("five", "train", [], SHAPE, "uint8", class_names=names, counts=counts)


def test_labels_by_frequency():
    """Of each class N_c times its share in a step, rounded up or down, and exactly on average."""
    counts = np.array([40, 25, 20, 14, 1])
    dataset = five_classes(tuple(counts.tolist()))
    assert class_shares("uniform", dataset) == ()
    n_steps = 2000
    labels = draw_labels(n_steps, class_shares=class_shares("frequency", dataset))
    drawn = (labels[..., None] == np.arange(C)).sum(1)  # [steps, classes]
    expected = 7 * counts / 100
    assert (np.floor(expected) <= drawn).all() and (drawn <= np.ceil(expected)).all()
    fraction = expected % 1
    error = np.abs(drawn.mean(0) - expected) / np.sqrt(fraction * (1 - fraction) / n_steps)
    assert error.max() < 4, error
    # In any place: groups of classes are cut out of the draw in its order.
    first = np.bincount(labels[:, 0], minlength=C) / n_steps
    assert np.abs(first - counts / 100).max() < 0.05


def test_frequencies_must_be_known():
    with pytest.raises(UserError, match="samples per class of five are not known .* give uniform"):
        class_shares("frequency", five_classes(None))


@pytest.mark.parametrize(
    "size, divided, samples, features, features_of_a_stream",
    [
        (0.2, 0.1, "device", "device", "device"),  # little is saved
        (0.6, 0.3, "divided", "device", "device"),
        (4, 4, "device", "device", "device"),  # one device, or samples that do not divide
        (4, 2, "divided", "device", "device"),
        (5, 5, "host", "host", "device"),
        (8, 1, "divided", "divided", "divided"),
        (80, 10, "host", "host", "divided"),
    ],
)
def test_where_a_bank_is(size, divided, samples, features, features_of_a_stream):
    """size, divided: GB in all and on a device, of 4 that "auto" takes there."""

    def place(placement, cached, per_class):
        settings = {"bank_placement": placement, "bank_per_class": per_class}
        drift = types.SimpleNamespace(**settings, bank_budget_gb=4.0)
        return place_of_bank(drift, int(size * 1e9), int(divided * 1e9), cached)

    assert place("auto", False, 128) == place("auto", False, "all") == samples
    assert place("auto", True, "all") == features
    assert place("auto", True, 128) == features_of_a_stream
    for asked in ("device", "host"):
        assert place(asked, False, 128) == asked
    assert place("divided", False, 128) == ("divided" if divided < size else "device")


def test_a_bank_that_is_small_and_over_the_budget():
    drift = types.SimpleNamespace(bank_placement="auto", bank_per_class=128, bank_budget_gb=0.1)
    assert place_of_bank(drift, int(2e8), int(1e8), cached=False) == "divided"
    assert place_of_bank(drift, int(2e8), int(2e8), cached=False) == "host"
