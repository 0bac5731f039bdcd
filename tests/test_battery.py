"""Several encoders in balance: their sizes, the log of each, and that a run goes on with them."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import share_steps
from test_train import STREAM, everything_saved, parts_of, same_bits, train

from drifting.battery import DECAY, LEAST, Battery
from training import doctor, findings
from utils.errors import UserError

BALANCED = STREAM | {
    "model.name": "mlp",
    "encoder.name": "none+whiten",
    "encoder.weights": "1,0.25",
    "encoder.balance": True,
    "max_steps": 6,
}
WEIGHTS = {"none": 1.0, "whiten": 0.25}


def expected_losses(records):
    """Yields the loss of each step, from what the log says of the encoders."""
    mean, weight = dict.fromkeys(WEIGHTS, 0.0), 0.0
    for record in records:
        size = dict.fromkeys(WEIGHTS, 3.0**2)  # the bound: three temperatures, one set each
        if weight:
            size = {name: mean[name] / weight for name in WEIGHTS}
        yield sum(WEIGHTS[name] * record[f"loss/{name}"] / size[name] for name in WEIGHTS)
        weight = DECAY * weight + 1 - DECAY
        for name in WEIGHTS:
            mean[name] = DECAY * mean[name] + (1 - DECAY) * record[f"loss/{name}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, lines of its log) of a short run."""
    folder = tmp_path_factory.mktemp("battery") / "run"
    with pytest.MonkeyPatch.context() as patch:
        share_steps(patch)
        return folder, train(folder, BALANCED)


@pytest.mark.usefixtures("shared_steps")
def test_each_encoder_adds_its_weight_and_a_run_goes_on(run, tmp_path):
    folder, straight = run
    train(tmp_path / "resumed", BALANCED | {"max_steps": 3})  # between two saves
    assert train(tmp_path / "resumed", BALANCED) == straight
    tree, _, _ = everything_saved(folder, BALANCED)
    same_bits(tree, everything_saved(tmp_path / "resumed", BALANCED)[0])

    losses = [record["loss"] for record in straight]
    np.testing.assert_allclose(losses, list(expected_losses(straight)), rtol=1e-5)
    np.testing.assert_allclose(losses[1:], 1.25, rtol=0.2)
    assert all(record["drift/none"] > 0 and record["drift/whiten"] > 0 for record in straight)

    # The doctor sees the loss as it is trained.
    job = doctor.restore(folder)
    part = dict.fromkeys(WEIGHTS, 0.0)
    sets = doctor.look(job)
    for one in sets:
        part[one.encoder] += one.loss
    assert part["none"] / part["whiten"] == pytest.approx(4, rel=0.3)
    (finding,) = findings.balance(sets, job.parts.drift)
    assert not finding.is_fault


def test_the_sizes_are_those_of_one_device_and_one_group(run, tmp_path):
    _, one = run
    divided = {"optim.accumulate": 2, "drift.exact_scales": True}
    other = train(tmp_path / "other", BALANCED | divided, devices=2)
    for key in ("loss", "loss/none", "loss/whiten", "drift/whiten", "grad_norm"):
        of_both = [[record[key] for record in records] for records in (one, other)]
        np.testing.assert_allclose(*of_both, rtol=1e-3, err_msg=key)


def test_an_encoder_that_tells_nothing_is_not_magnified():
    """Its loss is rounding. Sets count: the bound is T^2 for each."""
    battery = Battery(("x", "y"), lambda name: name[0], is_balanced=True)
    state = {"mean": jnp.array([6.0, 1e-9]), "weight": jnp.float32(1.0)}
    factors = battery.factors(state, ["x1", "x2", "y1"], n_temperatures=2)
    np.testing.assert_allclose([factors["x1"], factors["x2"]], 1 / 6)
    np.testing.assert_allclose(factors["y1"], 1 / (4 * LEAST))


def test_one_encoder_has_nothing_to_balance():
    with pytest.raises(UserError, match="--encoder.balance 1: none is the only encoder"):
        parts_of({"encoder.balance": True})
