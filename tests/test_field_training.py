"""The fields in the trainer: checkpoints of the learned one, second batches, guidance, bfloat16 networks, and flags that do not fit together."""

import jax
import numpy as np
import pytest
from test_train import everything_saved, parts_of, same_bits, train

from training import drift
from utils.errors import UserError

GUIDED = {"drift.n_unc": 4, "drift.alpha_max": 3.0, "model.use_bf16": True}


def test_a_learned_field_resumes_in_the_same_bits(tmp_path):
    """Its parameters, optimiser and average are in the checkpoint; they move, and its loss is that of its own training."""
    learned = {
        "drift.field": "learned",
        "drift.field_width": 8,
        "drift.temperatures": (0.2, 0.5),
        "drift.field_lr": 0.01,
    }
    straight = train(tmp_path / "straight", learned | {"max_steps": 8})
    train(tmp_path / "resumed", learned | {"max_steps": 4})
    resumed = train(tmp_path / "resumed", learned | {"max_steps": 8})
    assert straight == resumed
    (tree, _, _), (tree2, _, _) = (
        everything_saved(tmp_path / name, learned) for name in ("straight", "resumed")
    )
    same_bits(tree, tree2)
    assert int(tree["field"]["opt_state"][0].count) == 8
    before = drift.make_state(parts_of(learned)).field["params"]
    moved = jax.tree.map(
        lambda a, b: float(np.abs(np.asarray(a) - b).max()), tree["field"]["params"], before
    )
    assert min(jax.tree.leaves(moved)) > 1e-3, "every array of the field's parameters is trained"
    assert (
        resumed[-1]["field_loss"] < resumed[0]["field_loss"] and resumed[-1]["field_grad_norm"] > 0
    )
    with pytest.raises(UserError, match="drift.field = learned, but drift.field = kernel"):
        train(tmp_path / "resumed", {"max_steps": 12, "drift.field": "kernel"})


def test_sinkhorn_trains_with_guidance_in_bf16(tmp_path):
    """tau = 0.02 in float32 beside bfloat16 networks; the drift is finite and the loss is the number of temperatures squared at most."""
    records = train(tmp_path, GUIDED | {"drift.field": "sinkhorn", "max_steps": 8})
    assert len(records) == 8
    for record in records:
        assert "not_finite" not in record and 0 < record["loss"] <= 9
        assert record["drift_rms_0.02"] > 0.01


def test_a_second_batch_is_another_draw(tmp_path):
    """The first step with a second batch differs from that without by its negatives alone: same samples, same reals, same scale of the loss."""
    own, second = (
        train(tmp_path / n, {"drift.field": "uncoupled", "drift.negatives": n, "max_steps": 1})[0]
        for n in ("own", "second")
    )
    assert (
        own["energy_distance"] == second["energy_distance"]
        and own["diversity"] == second["diversity"]
    )
    assert own["drift_rms_0.2"] != second["drift_rms_0.2"] and own["loss"] != second["loss"]


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
        ({"drift.field": "sinkhron"}, "did you mean sinkhorn"),
    ],
)
def test_flags_that_the_field_has_no_use_for(changes, words):
    with pytest.raises(UserError, match=words):
        parts_of(changes)
