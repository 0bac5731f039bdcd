"""The doctor of the field: each fault is planted in a run, and is found there and nowhere else."""

import dataclasses
import json
import logging
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from test_train import STREAM, train

from drifting.battery import Battery
from drifting.distances import distance
from drifting.guidance import sample_alpha
from training import doctor, findings
from training.collapse import PATIENCE
from training.field_watch import FieldWatch
from utils.errors import UserError

GUIDED = STREAM | {"max_steps": 3, "batch_size": 64, "drift.n_neg": 32, "drift.n_pos": 32}
GUIDED |= {"model.name": "mlp", "drift.bank_per_class": 32, "drift.alpha_power": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A short run with guidance, and a bank that takes new reals."""
    folder = tmp_path_factory.mktemp("doctor") / "run"
    train(folder, GUIDED)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """(feature sets, numbers of the step, facts of the bank) as of a run that has learned.

    Three steps have not: reals of the class are put where its generated samples are.
    """
    job = doctor.restore(folder)
    parts: Any = job.parts
    (one,), drift = doctor.look(job), parts.drift
    even, odd = one.pos[:, ::2], one.pos[:, 1::2]
    noise = 0.01 * jax.random.normal(jax.random.key(0), even.shape)
    one = one._replace(gen=even, nudged=even + noise, pos=odd, weight_pos=one.weight_pos[:, 1::2])
    one = one._replace(unit=float(jnp.mean(distance(even, odd))))
    return [one], drift, doctor.bank_facts(job)._replace(max_steps=1000)


def faults(sets, drift, facts) -> list[str]:
    """Returns the topics of what is wrong."""
    return [one.topic for one in findings.all_findings(sets, drift, facts) if one.is_fault]


def test_a_run_without_a_fault(run):
    assert faults(*run) == []
    told = [one.topic for one in findings.all_findings(*run)]
    assert told == [
        *[f"kernel at {tau}" for tau in (0.02, 0.05, 0.2)],
        "bias of few reals",
        "coverage",
        "positives",
        "age of the bank",
        "feature sets",
        "guidance",
    ]


@pytest.mark.parametrize(
    "changes, found",
    [
        (
            {"temperatures": (0.0005, 0.001)},  # what follows one real alone is biased, too
            ["kernel at 0.0005", "kernel at 0.001", "bias of few reals"],
        ),
        ({"temperatures": (0.0005, 0.2)}, []),  # a narrow kernel beside a wider one
        ({"temperatures": (0.05, 3.0)}, ["kernel at 3"]),
        ({"alpha_max": 50.0, "alpha_power": 6.0}, ["guidance"]),
        ({"no_cfg_frac": 1.0}, ["guidance"]),
        ({"n_pos": 2, "n_c": 1}, ["age of the bank"]),  # most reals leave without use
    ],
)
def test_faults_of_the_numbers(run, changes, found):
    sets, drift, facts = run
    assert faults(sets, dataclasses.replace(drift, **changes), facts) == found


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"filled": np.full(10, 8)}, ["positives"]),
        ({"pushed": 0}, []),  # it holds all data
        ({"pushed": 1, "in_data": 100_000, "max_steps": 100_000}, ["age of the bank"]),  # r times
        ({"in_data": 100_000}, ["age of the bank"]),  # the rest is never seen
    ],
)
def test_faults_of_the_bank(run, changes, found):
    sets, drift, facts = run
    # A real is drawn r = 20 * 32 / 1 times before it leaves.
    drift = dataclasses.replace(drift, n_c=20) if "pushed" in changes else drift
    assert faults(sets, drift, facts._replace(**changes)) == found


def test_faults_of_the_samples(run):
    (one,), drift, facts = run
    one_real = one._replace(gen=one.gen[:, :1] + 1e-3 * one.gen)
    assert "coverage" in faults([one_real], drift, facts)
    low = dataclasses.replace(drift, temperatures=(0.02,))
    floor, *_ = findings.kernel_width([one_real], low)
    assert "at its floor" in floor.advice, "the samples are alike, and no real is near"


def test_fault_of_few_reals(run):
    (one,), drift, _ = run
    few = one._replace(pos=one.pos[:, :4], weight_pos=one.weight_pos[:, :4])
    (fault,) = findings.bias([few], drift)
    assert fault.is_fault and "--drift.bias_correction 1" in fault.advice
    corrected = drift.field_options | {"bias_correction": True}
    (finding,) = findings.bias([few], dataclasses.replace(drift, field_options=corrected))
    assert not finding.is_fault, "what is left is the square"


def test_faults_of_feature_sets(run):
    (one,), drift, facts = run
    noise = jax.random.normal(jax.random.key(1), one.gen.shape)
    planted = {
        "constant": one._replace(pos=jnp.full_like(one.pos, 3.0)),
        "noise": one._replace(nudged=noise * one.unit),
        "still": one._replace(nudged=one.gen),
    }
    for name, fault in planted.items():
        sets = [one, fault._replace(name=name)]
        assert [f.topic for f in findings.feature_sets(sets, drift) if f.is_fault] == [
            f"feature set {name}"
        ]
    assert findings.how_to_drop("conv1_std").endswith('the names of the maps, and "!conv1_std"')
    assert findings.how_to_drop("dinov2/cls").endswith('"!cls", in the place of dinov2')


def test_faults_of_encoders(run):
    (one,), drift, _ = run
    sets = [one._replace(encoder=name, loss=1.0) for name in ("none", "mae", "mae", "dinov2")]
    (even,) = findings.balance(sets, drift)
    assert (
        not even.is_fault and even.text == "none has 25%, mae has 50%, dinov2 has 25% of the loss"
    )
    sets[0] = one._replace(encoder="none", loss=0.001)
    assert not findings.balance(sets, drift)[0].is_fault, "the raw sample may be small"
    sets[3] = one._replace(encoder="dinov2", loss=0.001)
    (fault,) = findings.balance(sets, drift)
    assert "dinov2 x" in fault.advice and "--encoder.balance 1" in fault.advice
    balanced = dataclasses.replace(drift, battery=Battery(is_balanced=True))
    assert "--encoder.balance" not in findings.balance(sets, balanced)[0].advice


@pytest.mark.parametrize("field", ["mmd", "frechet", "learned"])
def test_fields_without_a_softmax(run, field):
    sets, drift, facts = run
    other = dataclasses.replace(drift, field=field, temperatures=(0.0005,))
    assert faults(sets, other, facts) == []


def test_the_share_of_large_scales(run):
    """It is that of the draws of the training."""
    for low, high, power in ((1, 4, 3), (1, 4, 1), (1, 4, 0), (2, 3, 5)):
        alpha = sample_alpha(jax.random.key(0), (20_000,), low, high, power, 0.0)
        at = low + 0.5 * (high - low)
        drawn = float(jnp.mean(alpha > at))
        assert findings.share_above(at, low, high, power) == pytest.approx(drawn, abs=0.01)


def test_the_program(folder):
    """It reads a run, says what was planted in its settings, and names a mistake in one line."""
    config = json.loads((folder / "config.json").read_text())
    config["drift"]["temperatures"] = [3.0]
    (folder / "config.json").write_text(json.dumps(config))
    program = [sys.executable, str(ROOT / "scripts" / "doctor.py"), "--json", "--load_dir"]
    done = subprocess.run([*program, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = {row["topic"]: row["advice"] for row in json.loads(done.stdout)}
    assert told["kernel at 3"] == "flat: give --drift.temperatures below 3"
    config["objective"] = "flow"
    config["model"] |= {"noise_classes": 0, "clip_output": False}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="objective flow: it has no field"):
        doctor.examine(folder)
    with pytest.raises(UserError, match="cannot read"):
        doctor.examine(folder / "samples")


def test_the_log_tells_of_a_kernel_that_knows_no_distance(run, caplog):
    _, drift, _ = run
    with caplog.at_level(logging.WARNING, "train"):
        watch = FieldWatch(drift, max_steps=1000)
        for step in range(0, 100, 10):
            watch.check(step, 32.0)  # samples come from afar
        for step in range(100, 200, 10):
            watch.check(step, 32.0 * (step % 20 == 0))
        other = FieldWatch(dataclasses.replace(drift, field="mmd"), max_steps=1000)
        for step in range(100, 200, 10):
            other.check(step, 32.0)
        assert not caplog.records
        for step in range(200, 200 + 10 * PATIENCE + 50, 10):
            watch.check(step, 31.9)
    (record,) = caplog.records
    assert "spread over 31.9 of 32 reals" in record.getMessage()
