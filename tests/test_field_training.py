"""The fields in the trainer.

Checkpoints of the learned field, second batches, guidance, bfloat16 networks, and flags that do not
fit together.
"""

import jax
import numpy as np
import pytest
from test_train import as_at, everything_saved, parts_of, same_bits, train

from drifting.temperature import RATE, START
from training import doctor, drift
from utils.errors import UserError

LEARNED = {
    "drift.temperatures": "learned",
    "drift.neighbours": 3,
    "encoder.name": "none+whiten",
    "model.name": "mlp",
    "max_steps": 3,
    "save_interval": 2,
}
GUIDED = {"drift.n_unc": 4, "drift.alpha_max": 3.0, "model.use_bf16": True}


@pytest.mark.usefixtures("shared_steps")
def test_a_learned_field_resumes_in_the_same_bits(tmp_path):
    """Its parameters, optimiser and average are in the checkpoint, and they are trained.

    Its loss is that of its own training.
    """
    learned = {
        "model.name": "mlp",
        "drift.field": "learned",
        "drift.field_width": 8,
        "drift.temperatures": (0.2, 0.5),
        "drift.field_lr": 0.01,
    }
    straight = train(tmp_path / "straight", learned | {"max_steps": 8})
    folder = as_at(4, tmp_path / "straight", tmp_path / "resumed")
    resumed = train(folder, learned | {"max_steps": 8})
    assert straight == resumed
    tree, _, _ = everything_saved(tmp_path / "straight", learned)
    tree2, _, _ = everything_saved(tmp_path / "resumed", learned)
    same_bits(tree, tree2)
    assert int(tree["field"]["opt_state"][0].count) == 8
    before = drift.make_state(parts_of(learned)).field["params"]
    differences = jax.tree.map(np.subtract, tree["field"]["params"], before)
    moved = [np.abs(difference).max() for difference in jax.tree.leaves(differences)]
    assert min(moved) > 1e-3, "every array of the field's parameters is trained"
    assert resumed[-1]["field_loss"] < resumed[0]["field_loss"]
    assert resumed[-1]["field_grad_norm"] > 0
    with pytest.raises(UserError, match="drift.field = learned, .*but drift.field = kernel"):
        train(tmp_path / "resumed", {"max_steps": 12, "drift.field": "kernel"})


def test_sinkhorn_trains_with_guidance_in_bf16(tmp_path):
    """At tau = 0.02, in float32 beside bfloat16 networks, the drift is finite.

    The loss is at most the number of temperatures squared.
    """
    records = train(tmp_path, GUIDED | {"drift.field": "sinkhorn", "max_steps": 8})
    assert len(records) == 8
    for record in records:
        assert "not_finite" not in record and 0 < record["loss"] <= 9
        assert record["drift_rms_0.02"] > 0.01


def test_a_second_batch_is_another_draw(tmp_path):
    """The first step with a second batch differs from that without it by its negatives alone.

    Samples, reals, and the scale of the loss are the same.
    """
    uncoupled = {"drift.field": "uncoupled", "max_steps": 1}
    (own,) = train(tmp_path / "own", uncoupled | {"drift.negatives": "own"})
    (second,) = train(tmp_path / "second", uncoupled | {"drift.negatives": "second"})
    for same in ("energy_distance", "diversity"):
        assert own[same] == second[same]
    for other in ("drift_rms_0.2", "loss"):
        assert own[other] != second[other]


@pytest.mark.usefixtures("shared_steps")
def test_temperatures_on_a_schedule(tmp_path):
    """The first step is that of the start, and a run that stopped between goes on exactly."""
    plain = {"drift.temperatures": (0.05, 0.2), "max_steps": 3, "save_interval": 2}
    scheduled = plain | {"drift.temperature_schedule": "4:1"}
    straight = train(tmp_path / "straight", scheduled)
    factors = [record["temperature_factor"] for record in straight]
    np.testing.assert_allclose(factors, [4, 2, 1], rtol=1e-6)
    start = {"drift.temperatures": (0.2, 0.8), "max_steps": 1}
    (first,) = train(tmp_path / "start", plain | start)
    for ours, theirs in (("loss", "loss"), ("drift_rms_0.05", "drift_rms_0.2")):
        np.testing.assert_allclose(straight[0][ours], first[theirs], rtol=1e-5)

    tree, _, _ = everything_saved(tmp_path / "straight", scheduled)
    folder = as_at(2, tmp_path / "straight", tmp_path / "resumed")
    assert train(folder, scheduled) == straight
    same_bits(tree, everything_saved(folder, scheduled)[0])

    job = doctor.restore(tmp_path / "straight")
    job.state = job.state.replace(step=1)
    np.testing.assert_allclose(doctor.drift_now(job).temperatures, (0.1, 0.4), rtol=1e-6)


def test_temperatures_that_are_learned(tmp_path, shared_steps):
    """Each set has its own, which falls where its neighbours are many; a run goes on exactly.

    They are the same on two devices that take the classes in two groups.
    """
    straight = train(tmp_path / "straight", LEARNED)
    groups = {"optim.accumulate": 2, "drift.exact_scales": True}
    divided = train(tmp_path / "divided", LEARNED | groups, devices=2)
    for key in ("temperature/global", "temperature/white", "perplexity", "loss", "grad_norm"):
        values = [[record[key] for record in of_run] for of_run in (divided, straight)]
        np.testing.assert_allclose(*values, rtol=1e-4, err_msg=key)
    for name in ("temperature/global", "temperature/white"):
        first, second, third = (record[name] for record in straight)
        np.testing.assert_allclose(first, START, rtol=1e-6)
        assert third < second < first
    of_both = [np.log(straight[1][f"temperature/{name}"]) for name in ("global", "white")]
    expected = np.log(START) - RATE * np.log(straight[0]["perplexity"] / 3)
    np.testing.assert_allclose(np.mean(of_both), expected, rtol=1e-3)

    folder = as_at(2, tmp_path / "straight", tmp_path / "resumed")
    assert train(folder, LEARNED) == straight
    tree, _, _ = everything_saved(tmp_path / "straight", LEARNED)
    same_bits(tree, everything_saved(folder, LEARNED)[0])

    job = doctor.restore(folder)
    now = np.exp([tree["field"]["64"]["global"], tree["field"]["28"]["white"]])
    mean = np.exp(np.mean(np.log(now)))
    np.testing.assert_allclose(doctor.drift_now(job).temperatures, [mean], rtol=1e-6)
    sets = doctor.look(job)
    assert all(np.isfinite(one.loss) for one in sets)
    np.testing.assert_allclose([one.own_tau for one in sets], now, rtol=1e-6)
    with pytest.raises(UserError, match="temperatures = learned, .*but drift.temperatures = 0.05"):
        train(folder, LEARNED | {"drift.temperatures": (0.05,), "drift.neighbours": 16})


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"drift.field": "sinkhorn", "drift.iterations": 1.3},
            "drift.iterations 1.3: expected a multiple of 0.5",
        ),
        (
            {"drift.field": "sinkhorn", "drift.normalize": "y"},
            "drift.normalize y: the sinkhorn field has no use for it",
        ),
        (
            {"drift.field": "learned", "drift.kernel": "gaussian"},
            "drift.kernel gaussian: the learned field",
        ),
        ({"drift.iterations": 3.0}, "drift.iterations 3.0: the kernel field"),
        ({"drift.field_width": 32}, "drift.field_width 32: the kernel field"),
        (
            {"drift.field": "uncoupled", "drift.normalize": "none"},
            "drift.normalize none: the uncoupled field",
        ),
        (
            {"drift.bias_correction": True, "drift.normalize": "none"},
            "not normalised have no bias",
        ),
        ({"drift.field": "mmd", "drift.bias_correction": True}, "the mmd field has no use for it"),
        ({"drift.kernel": "energy"}, "not a kernel of the kernel field"),
        (
            {"drift.field": "mmd", "drift.kernel": "energy"},
            "drift.temperatures 0.02,0.05,0.2: the energy kernel has no width",
        ),
        ({"drift.field": "sinkhron"}, "did you mean sinkhorn"),
        ({"drift.temperature_schedule": "10"}, "schedule 10: expected START:END"),
        ({"drift.temperature_schedule": "10:0"}, "schedule 10:0: expected START:END"),
        (
            {"drift.temperature_schedule": "0.2:0.1"},
            "give --drift.temperatures 0.002,0.005,0.02 --drift.temperature_schedule 2:1",
        ),
        (
            {"drift.field": "frechet", "drift.temperature_schedule": "2:1"},
            "the frechet field has no temperature; leave it out",
        ),
        (
            {"drift.field": "mmd", "drift.landmarks": 8, "drift.temperature_schedule": "2:1"},
            "--drift.landmarks 8 freezes the kernel; leave it out",
        ),
        (
            {"drift.field": "mmd", "drift.temperatures": "learned"},
            "the mmd field has no softmax kernel .*: kernel, uncoupled, sinkhorn.; give numbers",
        ),
        ({"drift.neighbours": 3}, "learned alone; leave it out, or give 16.0 where"),
        (LEARNED | {"drift.temperature_schedule": "2:1"}, "2:1: learned temperatures follow no"),
        (
            LEARNED | {"drift.n_pos": 8, "drift.neighbours": 8},
            "neighbours 8: a step has 8 positives",
        ),
    ],
)
def test_flags_that_the_field_has_no_use_for(changes, words):
    with pytest.raises(UserError, match=words):
        parts_of(changes)
