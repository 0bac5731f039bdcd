"""A step in groups of classes, and on meshes with fewer classes than devices.

The numbers are those of one device and one group.
"""

import dataclasses
import functools
import operator
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import STACKED, TINY, collectives, train

import data
from drifting.accumulate import in_groups, mean_over_groups
from drifting.loss import problem_losses
from drifting.memory import Memory
from drifting.problems import one_set_of_problems
from training import drift
from training.reals import next_reals, put_bank
from utils import config as config_lib
from utils import sharding
from utils.errors import UserError
from utils.memory import bytes_on_a_device

WIDE = TINY | {
    "model.hidden_size": 64,  # wide enough for parameters to be sharded
    "model.depth": 1,
    "drift.n_unc": 4,
    "drift.alpha_max": 3.0,
}
FEW = {"batch_size": 16, "drift.n_neg": 8}  # two classes of eight
DIVIDED = FEW | {"drift.bank_placement": "divided"}
EXACT = {"drift.exact_scales": True}


def parts_of(changes, devices, fsdp):
    config = config_lib.resolve(WIDE | {"mesh.devices": devices, "mesh.fsdp": fsdp} | changes)
    return drift.build(config, data.load("digits"), sharding.make_mesh(devices, fsdp))


def begin(parts):
    """(state, bank, step) on the mesh."""
    bank = drift.fill_bank(parts)[0]
    return drift.make_state(parts), put_bank(parts, bank), drift.make_step(parts)


@functools.cache
def curve(changes, devices, fsdp, steps):
    """The metrics of the first steps, the text of their program and its parts."""
    parts = parts_of(dict(changes), devices, fsdp)
    state, bank, step = begin(parts)
    program = step.lower(state, bank, None, {}).compile()
    rows = []
    for _ in range(steps):
        state, bank, metrics = program(state, bank, None, {})
        rows.append({k: float(v) for k, v in metrics.items()})
    return rows, program.as_text(), parts


def check_same(changes, devices, fsdp, reference, steps):
    ours, *_ = curve(tuple(changes.items()), devices, fsdp, steps)
    expected, *_ = curve(tuple(reference.items()), 1, 1, steps)
    for key in ("loss", "drift_rms_0.02", "energy_distance", "feature_scale", "grad_norm"):
        np.testing.assert_allclose(
            [r[key] for r in ours], [r[key] for r in expected], rtol=1e-4, atol=1e-6, err_msg=key
        )


@pytest.mark.parametrize(
    "changes, devices, fsdp, reference",
    [
        pytest.param({"optim.accumulate": 4} | EXACT, 1, 1, {}, marks=pytest.mark.slow),
        ({"optim.accumulate": 2} | EXACT, 8, 2, {}),
        pytest.param(FEW, 8, 1, FEW, marks=pytest.mark.slow),  # rows over all devices
        pytest.param(FEW, 8, 2, FEW, marks=pytest.mark.slow),  # classes over fsdp, rows over data
        (DIVIDED, 4, 2, FEW),  # classes over data, rows over fsdp
    ],
    ids=["groups", "groups on a mesh", "rows", "classes and rows", "of a divided bank"],
)
def test_the_numbers_are_those_of_one_device_and_one_group(changes, devices, fsdp, reference):
    check_same(changes, devices, fsdp, reference, 3)


MATRIX = [
    (k, devices, fsdp)
    for k in (1, 2, 4)
    for devices, fsdp in ((1, 1), (2, 1), (2, 2), (8, 1), (8, 2), (8, 4))
    if (k, devices) != (1, 1)
]


@pytest.mark.slow
@pytest.mark.parametrize("k, devices, fsdp", MATRIX)
def test_matrix_of_meshes_and_groups(k, devices, fsdp):
    """20 steps on 1, 2 and 8 devices, fsdp 1, 2 and 4, in 1, 2 and 4 groups."""
    shape = {"model.depth": 2}
    if k > 1 and (devices, fsdp) == (8, 1):
        # The classes of a group do not divide over one axis of eight: the rows have to.
        shape |= {"drift.n_neg": 8, "batch_size": 64}
    check_same(shape | {"optim.accumulate": k} | EXACT, devices, fsdp, shape, 20)


@pytest.mark.slow
def test_a_checkpoint_moves_between_meshes_and_groups(tmp_path):
    wide = STACKED | {"drift.n_unc": 4, "drift.alpha_max": 3.0} | EXACT
    straight = train(tmp_path / "straight", wide)
    for until, k, devices, fsdp in ((5, 4, 1, 1), (10, 1, 8, 4), (15, 2, 2, 2), (20, 2, 8, 2)):
        moved = train(
            tmp_path / "moving",
            wide | {"optim.accumulate": k, "max_steps": until},
            devices=devices,
            fsdp=fsdp,
        )
    np.testing.assert_allclose([r["loss"] for r in moved], [r["loss"] for r in straight], rtol=1e-4)


def test_rows_send_features_alone():
    """Two classes on eight devices: no images travel.

    Beside parameters there are feature vectors without gradient, and sums over samples.
    """
    small = {
        "model.depth": 1,
        "model.hidden_size": 48,
        "drift.n_pos": 8,
        "drift.temperatures": (0.05,),
    }
    parts, d = parts_of(FEW | small, 8, 1), 23
    assert parts.layout.row_axes == ("data",)
    project = np.random.default_rng(0).normal(size=(64, d)).astype(np.float32)

    def encode(params, images):  # features are unlike images in their shape
        return {"global": images.reshape(-1, 1, 64) @ project}

    parts = dataclasses.replace(parts, encode=encode)
    state, bank, step = begin(parts)
    compiled = step.lower(state, bank, None, {}).compile()

    def wide(shape):
        return tuple(sorted(n for n in shape if n != 1))

    shapes_of_parameters = {wide(leaf.shape) for leaf in jax.tree.leaves(state.params)}
    n_c, n, reals = 2, 8, parts.drift.n_pos + parts.drift.n_unc
    moved = 0
    for operation, shapes in collectives(compiled.as_text()):
        for shape in shapes:
            is_parameter = wide(shape) in shapes_of_parameters
            has_a_number_per_sample = np.prod(shape) <= n_c * (n + reals)
            if is_parameter or has_a_number_per_sample:
                continue
            assert operation == "all-gather" and d in shape, f"{operation} of {shape}"
            moved += int(np.prod(shape))
    assert moved == n_c * (2 * n + reals) * d, (
        "each vector is gathered once; those of the monitored set, generated, once more"
    )


def test_groups_take_less_memory():
    """The temporary memory of a compiled step falls with the number of groups."""
    used = []
    for k in (1, 4):
        parts = parts_of(
            {
                "optim.accumulate": k,
                "batch_size": 8 * 32,
                "drift.n_neg": 32,
                "drift.bank_per_class": 16,
                "drift.n_pos": 8,
                "drift.bank_push": 8,
            },
            1,
            1,
        )
        state, bank, step = begin(parts)
        fresh = (np.zeros((8, 8, 8, 1), np.uint8), np.zeros(8, np.int32))
        used.append(
            step.lower(state, bank, fresh, {}).compile().memory_analysis().temp_size_in_bytes
        )
    assert used[1] < 0.5 * used[0], used


class Watch(Memory):
    """Tells the mean of a random number over the groups of a step, and of its square."""

    def look(self, state, key, seen):
        number = jax.random.uniform(key)
        return {"number": number, "square": number**2}, {}

    def update(self, state, observed, stats=()):
        return state, observed


@functools.cache
def watched_groups(placement):
    """The metrics of a step in two groups, and the bank after it."""
    stream = {
        "optim.accumulate": 2,
        "drift.n_pos": 8,
        "drift.bank_per_class": 16,
        "drift.bank_global": 40,
        "drift.bank_push": 8,
        "drift.bank_placement": placement,
    }
    parts = parts_of(stream, 2, 1)
    parts = dataclasses.replace(parts, drift=dataclasses.replace(parts.drift, memory=Watch()))
    state, bank, step = begin(parts)
    fresh = np.ones((8, 8, 8, 1), np.uint8), np.arange(8, dtype=np.int32)
    _, bank, metrics = step(state, bank, next_reals(parts, iter([fresh])), {})
    return metrics, bank


def test_groups_on_a_bank_in_other_places():
    """In host memory, and divided: half of each sample on a device, of the new bank too."""
    metrics, bank = watched_groups("divided")
    assert bytes_on_a_device(bank.samples) * 2 == bank.samples.nbytes
    assert bytes_on_a_device(bank.pool) * 2 == bank.pool.nbytes
    on_host, _ = watched_groups("host")
    np.testing.assert_allclose(metrics["loss"], on_host["loss"], rtol=1e-5)


def test_each_group_has_random_numbers_of_its_own():
    metrics, _ = watched_groups("divided")
    variance = metrics["square"] - metrics["number"] ** 2
    assert variance > 1e-6  # it is 0 of one number twice


def test_no_device_gets_all_that_is_drawn_of_a_divided_bank():
    """Where rows are divided too, no exchange brings a device more than half of the positives."""
    _, text, parts = curve(tuple(DIVIDED.items()), 4, 2, 3)
    assert parts.layout.class_axes == ("data",) and parts.layout.row_axes == ("fsdp",)
    samples = put_bank(parts, drift.fill_bank(parts)[0]).samples
    assert bytes_on_a_device(samples) * 2 == samples.nbytes
    assert re.search(r"u8\[[^=]* all-to-all\(", text)
    whole = parts.drift.n_c * parts.drift.n_pos * 64  # numbers of all positives
    for dims in re.findall(r"= u8\[([\d,]+)\]\S* (?:all-gather|all-reduce|all-to-all)\(", text):
        assert np.prod([int(n) for n in dims.split(",")]) <= whole // 2, dims


class GroupStats(NamedTuple):
    by_width: list


def test_groups_of_problems_against_all_at_once():
    """With exact scales, loss and gradient over unlike groups are those of all problems together.

    Without them they are the mean over the groups of their own.
    """
    rng = np.random.default_rng(0)
    scale = np.array([1, 1, 5, 5.0])[:, None, None]  # the groups differ
    gen, pos = ((rng.normal(size=(4, k, 5)) * scale).astype(np.float32) for k in (6, 7))

    def loss_fn(shift, group, pooled):
        gen, pos = group
        problems = one_set_of_problems(gen + shift, pos)
        scales = pooled[0] if pooled else None
        loss, stats = problem_losses(problems, (0.05, 0.2), "kernel", pooled=scales)
        return jnp.mean(loss), GroupStats([stats])

    whole, grouped = (jax.tree.map(jnp.asarray, in_groups((gen, pos), k)) for k in (1, 2))
    shift = jnp.full(5, 0.3)

    def run(groups, exact):
        return jax.jit(functools.partial(mean_over_groups, loss_fn, groups=groups, exact=exact))(
            shift
        )

    (loss, _), grad = run(whole, False)
    (exact_loss, info), exact_grad = run(grouped, True)
    np.testing.assert_allclose(exact_loss, loss, rtol=1e-5)
    np.testing.assert_allclose(exact_grad, grad, rtol=1e-4, atol=1e-6)
    (own_loss, _), own_grad = run(grouped, False)
    one_each = [jax.tree.map(operator.itemgetter(slice(i, i + 1)), grouped) for i in (0, 1)]
    alone = [run(group, False) for group in one_each]
    np.testing.assert_allclose(own_loss, np.mean([a[0][0] for a in alone]), rtol=1e-5)
    np.testing.assert_allclose(own_grad, np.mean([a[1] for a in alone], 0), rtol=1e-4, atol=1e-6)
    assert np.abs(own_grad - grad).max() > 0.01 * np.abs(grad).max(), (
        "the groups are unlike enough to tell"
    )


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"optim.accumulate": 3}, "--optim.accumulate 3: it must divide the 8 classes"),
        ({"batch_size": 14, "drift.n_neg": 7}, "--drift.n_neg 8 --batch_size 16"),
    ],
)
def test_what_does_not_divide(changes, words):
    with pytest.raises(UserError, match=words):
        parts_of(changes, 8, 1)


def test_many_classes_stay_whole():
    """Ten classes on eight devices have their rows spread; where classes divide, they are not."""
    mesh = sharding.make_mesh(8, 2)

    def axes(classes, rows):
        layout = sharding.choose_layout(mesh, classes, rows)
        return layout and (layout.class_axes, layout.row_axes)

    assert axes(16, 3) == (("data", "fsdp"), ())
    assert axes(4, 6) == (("data",), ("fsdp",))
    assert axes(10, 4) == (("fsdp",), ("data",))
    assert axes(1, 640) == ((), ("data", "fsdp"))
    assert axes(3, 7) is None
    layout = sharding.choose_layout(mesh, 4, 6)
    x = jnp.arange(4 * 6 * 2).reshape(4, 6, 2)
    np.testing.assert_array_equal(jax.jit(lambda x: layout.split(layout.merge(x), 4))(x), x)


@pytest.mark.parametrize("guidance", ["negatives", "field"])
def test_locations_in_turn_are_those_at_once(guidance):
    """Two classes of three locations, in the order of `make_problems`.

    Two programs round differently, and not alike on every processor: 1.2e-6 has been seen.
    """
    rng = np.random.default_rng(1)
    gen, pos, neg = rng.normal(size=(3, 6, 5, 4)).astype(np.float32)
    problems = one_set_of_problems(gen, pos + np.arange(6)[:, None, None], neg)
    problems = problems._replace(set_of=np.array([0, 1, 1, 0, 1, 1]))
    solve = functools.partial(problem_losses, problems, (0.05, 0.2), "kernel", guidance)
    answers = jax.jit(solve)(), jax.jit(functools.partial(solve, together=2))()
    for at_once, in_turn in zip(*map(jax.tree.leaves, answers), strict=True):
        np.testing.assert_allclose(in_turn, at_once, rtol=1e-5)


ONE_CLASS = {
    "batch_size": 24,
    "drift.n_neg": 24,
    "drift.n_pos": 30,
    "drift.n_unc": 5,  # 35 reals, which four parts do not divide
    "drift.bank_per_class": 64,
    "drift.bank_global": 0,
    "data.flip": True,
}


@pytest.mark.parametrize(
    "changes, devices",
    [
        pytest.param({}, 1, marks=pytest.mark.slow),
        pytest.param({}, 2, marks=pytest.mark.slow),
        ({"drift.field": "sinkhorn"}, 2),  # which takes a second batch
    ],
    ids=["kernel", "kernel, rows over devices", "a second batch, rows over devices"],
)
def test_parts_of_one_class_are_exact(changes, devices):
    """Gradient caching: losses and gradients of three steps are those of the undivided step."""
    one, *_ = curve(tuple((ONE_CLASS | changes).items()), 1, 1, 3)
    divided = ONE_CLASS | changes | {"optim.accumulate": 4}
    other, _, parts = curve(tuple(divided.items()), devices, 1, 3)
    assert (parts.drift.groups, parts.drift.row_parts) == (1, 4)
    for key in ("loss", "grad_norm", "energy_distance", "param_norm"):
        np.testing.assert_allclose(
            [row[key] for row in other], [row[key] for row in one], rtol=1e-5, err_msg=key
        )
