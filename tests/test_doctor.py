"""The doctor of the field: each fault is planted in a run, and is found there and nowhere else."""

import dataclasses
import functools
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
from drifting.temperature import Temperatures
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


# ---- what is planted: functions (one set, drift, facts) -> (sets, drift, facts) ----


def numbers(**changes):
    """Plants other numbers of the step."""

    def plant(one, drift, facts):
        return [one], dataclasses.replace(drift, **changes), facts

    return plant


def use_of_bank(n_c=None, **changes):
    """Plants another use of the bank, by a step of n_c classes."""

    def plant(one, drift, facts):
        drift = dataclasses.replace(drift, n_c=n_c or drift.n_c)
        return [one], drift, facts._replace(**changes)

    return plant


def samples(make, **changes):
    """Plants generated samples, make(one) -> [B, N, D], and other numbers of the step."""

    def plant(one, drift, facts):
        gen = make(one)
        one = one._replace(gen=gen, nudged=gen + one.nudged - one.gen)
        return [one], dataclasses.replace(drift, **changes), facts

    return plant


def beside(**change):
    """Plants a second feature set, which differs from the first by functions of it."""

    def plant(one, drift, facts):
        arrays = {name: make(one) for name, make in change.items()}
        return [one, one._replace(name="other", **arrays)], drift, facts

    return plant


def near_one_real(one):
    return one.gen[:, :1] + 1e-3 * one.gen


def near_the_mean(one):
    return jnp.mean(one.pos, 1, keepdims=True) + 1e-3 * one.gen


def few_reals(one, drift, facts):
    return [one._replace(pos=one.pos[:, :4], weight_pos=one.weight_pos[:, :4])], drift, facts


def encoders(losses, **changes):
    """Plants sets of an encoder each, which have such parts of the loss."""

    def plant(one, drift, facts):
        sets = [one._replace(encoder=name, loss=loss) for name, loss in losses.items()]
        return sets, dataclasses.replace(drift, **changes), facts

    return plant


def noise_of(one):
    return one.unit * jax.random.normal(jax.random.key(1), one.gen.shape)


# {what: (how it is planted, what is to be found)}; [] for what only looks like a fault.
PLANTED: dict[str, tuple[Any, list[str]]] = {
    "nothing": (numbers(), []),
    "narrow kernels": (  # what follows one real alone is biased, too
        numbers(temperatures=(0.0005, 0.001)),
        ["kernel at 0.0005", "kernel at 0.001", "bias of few reals"],
    ),
    "a narrow kernel beside a wider one": (numbers(temperatures=(0.0005, 0.2)), []),
    "a flat kernel": (numbers(temperatures=(0.05, 3.0)), ["kernel at 3"]),
    "few reals": (few_reals, ["bias of few reals"]),
    "samples near one real": (samples(near_one_real), ["coverage", "force"]),
    "samples near the mean": (samples(near_the_mean), ["force"]),
    "scales that are never drawn": (numbers(alpha_max=50.0, alpha_power=6.0), ["guidance"]),
    "no scale but one": (numbers(no_cfg_frac=1.0), ["guidance"]),
    "a bank of few": (use_of_bank(filled=np.full(10, 8)), ["positives"]),
    "a bank of all data": (use_of_bank(pushed=0), []),
    "reals that leave without use": (numbers(n_pos=2, n_c=1), ["age of the bank"]),
    "reals that stay too long": (  # drawn 20 * 32 / 1 times
        use_of_bank(n_c=20, pushed=1, in_data=100_000, max_steps=100_000),
        ["age of the bank"],
    ),
    "reals that are never seen": (use_of_bank(in_data=100_000), ["age of the bank"]),
    "a constant set": (
        beside(pos=lambda one: jnp.full_like(one.pos, 3.0)),
        ["feature set other"],
    ),
    "a set of noise": (beside(nudged=noise_of), ["feature set other"]),
    "a set that stands still": (beside(nudged=lambda one: one.gen), ["feature set other"]),
    "encoders alike": (encoders({"none": 1.0, "mae": 2.0, "dinov2": 1.0}), []),
    "raw samples that add little": (encoders({"none": 0.001, "mae": 2.0, "dinov2": 1.0}), []),
    "an encoder that adds little": (encoders({"mae": 2.0, "dinov2": 0.001}), ["encoders"]),
    "a field without a softmax": (numbers(field="mmd", temperatures=(0.0005,)), []),
    "moments": (numbers(field="frechet", temperatures=(0.0005,)), []),
    "a learned field": (numbers(field="learned", temperatures=(0.0005,)), []),
}


@pytest.fixture(scope="module")
def found(run):
    """Returns a function that gives the topics found where something of PLANTED is planted."""
    (one,), drift, facts = run

    @functools.cache
    def look(what):
        plant, _ = PLANTED[what]
        return faults(*plant(one, drift, facts))

    return look


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_planted_is_found_and_nothing_else(what, found):
    assert found(what) == PLANTED[what][1]


def kind(topic):
    """Returns the finding of a topic, as the page calls it."""
    if topic.startswith("kernel at"):
        return "kernel at tau"
    return "feature sets" if topic.startswith("feature set") else topic


def test_the_page_counts_what_is_planted(found):
    """Its table is that of these tests: for each finding, planted, found, and false alarms."""
    rows = {}
    for what, (_, expected) in PLANTED.items():
        for topic in {*expected, *found(what)}:
            row = rows.setdefault(kind(topic), [0, 0, 0])
            row[0] += topic in expected
            row[1] += topic in expected and topic in found(what)
            row[2] += topic not in expected
    harmless = sum(not expected for _, expected in PLANTED.values())
    page = (ROOT / "docs" / "doctor.md").read_text()
    _, _, table = page.partition(
        "| finding | planted | found | false alarms |\n|---|---|---|---|\n"
    )
    told = {line.strip("| ") for line in table.partition("\n\n")[0].splitlines()}
    assert told == {" | ".join(map(str, (name, *row))) for name, row in rows.items()}
    assert f"{len(PLANTED)} cases, of which {harmless} are harmless" in " ".join(page.split())


def test_a_run_without_a_fault(run):
    told = [one.topic for one in findings.all_findings(*run)]
    assert told == [
        *[f"kernel at {tau}" for tau in (0.02, 0.05, 0.2)],
        "bias of few reals",
        "coverage",
        "force",
        "positives",
        "age of the bank",
        "feature sets",
        "guidance",
    ]


def test_advice_on_samples(run):
    (one,), drift, _ = run
    collapsed = one._replace(gen=near_one_real(one))
    low = dataclasses.replace(drift, temperatures=(0.02,))
    floor, *_ = findings.kernel_width([collapsed], low)
    assert "at its floor" in floor.advice, "the samples are alike, and no real is near"
    for held, advice in (
        (1.2, "saturated: give --drift.neighbours above 1.2"),
        (4, ""),  # the temperature is on its way
        (16, "flat: give --drift.neighbours below 16"),
    ):
        learned = dataclasses.replace(low, memory=Temperatures(held, "laplace"))
        (finding,) = findings.kernel_width([collapsed], learned)
        assert finding.text == floor.text and finding.advice.partition(",")[0] == advice


def test_the_force_of_reals_is_the_floor(run):
    """Samples of the same distribution have one, of another one more, and in its middle less."""
    (one,), drift, _ = run
    keys = jax.random.split(jax.random.key(3), 2)
    pos, gen = (jax.random.normal(key, one.pos.shape) for key in keys)
    one = one._replace(pos=pos, unit=float(jnp.mean(distance(gen, pos))))
    drift = dataclasses.replace(drift, temperatures=(0.2, 0.5, 1.0))
    ratios = {}
    for name, x in (("alike", gen), ("far", gen + 1), ("middle", 1e-3 * gen)):
        ratios[name] = findings._above_floor(one._replace(gen=x), drift, 8)
    np.testing.assert_allclose(ratios["alike"], 1, atol=0.1)
    assert (ratios["far"] > 1.5).all()
    # What the mean of half of the reals varies by is in either size, and wide kernels see it alone.
    assert ratios["middle"][0] < findings.FLOOR and ratios["middle"][2] < 0.8


def test_advice_on_few_reals(run):
    (one,), drift, facts = run
    few, *_ = few_reals(one, drift, facts)
    (fault,) = findings.bias(few, drift)
    assert fault.is_fault and "--drift.bias_correction 1" in fault.advice
    corrected = drift.field_options | {"bias_correction": True}
    (finding,) = findings.bias(few, dataclasses.replace(drift, field_options=corrected))
    assert not finding.is_fault, "what is left is the square"
    learned = dataclasses.replace(drift, memory=Temperatures(16, "laplace"))
    (fault,) = findings.bias(few, learned)
    assert "--drift.neighbours above 16" in fault.advice
    (fault,) = findings.bias(few, dataclasses.replace(learned, joint=1.0))
    assert "a larger --batch_size" in fault.advice


def test_sets_that_learn_a_temperature_are_seen_at_their_own(run):
    """Here the mean of the temperatures is flat, and that of the set is not."""
    (one,), drift, _ = run
    mean = dataclasses.replace(drift, memory=Temperatures(16, "laplace"), temperatures=(3.0,))
    fixed = dataclasses.replace(drift, temperatures=(0.05,))
    own = one._replace(own_tau=0.05)
    for measure in (findings.kernel_width, findings.bias, findings.coverage, findings.force):
        (ours,), (theirs,) = measure([own], mean), measure([one], fixed)
        assert ours.text == theirs.text, "the same number at the same temperature"


@pytest.mark.parametrize("n_neg", [1, 2, 4])
def test_samples_of_a_joint_are_of_every_second_condition(n_neg):
    """As the positives that they are compared with: those are 0, 2, ... or 1, 3, ..."""
    of_condition = np.repeat(np.arange(8), n_neg)[None, :, None]
    for of_odd in (False, True):
        found = findings.evenly(of_condition, 4, of_odd)
        assert found[0, :, 0].tolist() == list(range(of_odd, 8, 2))


def test_advice_on_feature_sets():
    assert findings.how_to_drop("conv1_std").endswith('the names of the maps, and "!conv1_std"')
    assert findings.how_to_drop("dinov2/cls").endswith('"!cls", in the place of dinov2')


def test_advice_on_encoders(run):
    (one,), drift, _ = run
    sets = [one._replace(encoder=name, loss=1.0) for name in ("none", "mae", "mae", "dinov2")]
    (even,) = findings.balance(sets, drift)
    assert even.text == "none has 25%, mae has 50%, dinov2 has 25% of the loss"
    sets[3] = one._replace(encoder="dinov2", loss=0.001)
    (fault,) = findings.balance(sets, drift)
    assert "dinov2 x" in fault.advice and "--encoder.balance 1" in fault.advice
    balanced = dataclasses.replace(drift, battery=Battery(is_balanced=True))
    assert "--encoder.balance" not in findings.balance(sets, balanced)[0].advice


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
