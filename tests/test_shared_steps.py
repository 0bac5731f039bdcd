"""Which trainings of the tests share a step (tests/conftest.py): those whose steps are the same."""

import dataclasses

import jax
import pytest
import test_pretrain
import test_train
from conftest import OF_MANY_STEPS, kept, traced, traced_of_mae

from utils import compiler, sharding

BASE = {"optim.schedule": "constant", "max_steps": 8, "drift.n_unc": 0}


def key_of(changes=(), mesh=None, data=(), **kw):
    """The key of a tiny run of digits."""
    parts = test_train.parts_of(BASE | dict(changes), **kw)
    facts = dataclasses.replace(parts.dataset, **dict(data))
    return repr(traced(dataclasses.replace(parts, dataset=facts, mesh=mesh or parts.mesh)))


def key_of_encoder(changes=()):
    return repr(traced_of_mae(test_pretrain.parts_of(changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"save_dir": "elsewhere", "log_interval": 7, "watchdog": 9.0, "features": "pixels"},
        {"max_steps": 9},
    ],
    ids=["what is written", "length"],
)
def test_runs_of_the_same_step_share_it(changes):
    assert key_of(changes) == key_of()


def test_runs_of_other_steps_do_not(monkeypatch):
    """In settings, data, devices, or what the compiler is told; a length that a schedule has."""
    of_last_devices = sharding.mesh_from_devices(jax.devices()[-1:], 1)
    uneven = tuple(range(100, 110))
    falling = {"optim.schedule": "cosine"}
    cooled = {"drift.temperature_schedule": "2:1"}
    keys = [
        key_of(),
        key_of({"seed": 1}),
        key_of({"optim.warmup_steps": 3}),
        key_of(devices=2),
        key_of(devices=2, fsdp=2),
        key_of(mesh=of_last_devices),
        key_of(data={"counts": uneven}),
        key_of(falling),
        key_of(falling | {"max_steps": 9}),
        key_of(cooled),
        key_of(cooled | {"max_steps": 9}),
    ]
    monkeypatch.setattr(compiler, "options", lambda mesh: OF_MANY_STEPS)
    assert len({*keys, key_of()}) == len(keys) + 1


def test_encoders_share_a_step_of_the_same_numbers():
    """The classifier begins after as many steps in all; along a cosine the length counts too."""
    later = {"max_steps": 58, "mae.finetune_steps": 42}
    falling = {"optim.schedule": "cosine"}
    assert key_of_encoder() == key_of_encoder(later)
    others = [{}, {"max_steps": 58}, {"mae.mask_prob": 0.3}, falling, falling | later]
    assert len(set(map(key_of_encoder, others))) == len(others)


def test_the_last_ones_are_kept():
    made, results = [], {}

    def make(parts):
        made.append(parts)
        return str(parts)

    for key in (1, 2, 1, *range(3, 14), 1, 2):
        assert kept(results, key, make, key) == str(key)
    assert made == [*range(1, 14), 2]
