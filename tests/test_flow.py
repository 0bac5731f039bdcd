"""The rectified-flow baseline.

Closed forms of velocity, loss and guidance, and exact runs of the trainer with it.
"""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from test_train import DIT, TINY, as_at, everything_saved, parts_of, records, same_bits, train

from baselines.flow import Flow, draw, flow_loss, sample_t, with_steps
from drifting.bank import Bank, Counters
from drifting.images import clip
from evaluation import evaluate_command, sample_command
from evaluation.fid_csv import read_rows
from evaluation.flags import define_evaluation_flags, define_sampling_flags
from models.build import build_generator, describe, from_description
from models.export import export_run
from models.generator import init_params
from models.mlp import MLPGenerator
from models.runs import load_run
from models.sampling import generate
from models.weights import load_generator
from training import drift
from training.program import configure
from training.resolve_start import given_params
from utils import config as config_lib
from utils.errors import UserError

WITHOUT_STYLES = DIT | {"model.noise_classes": 0, "model.noise_coords": 1}
FLOW = WITHOUT_STYLES | {"objective": "flow", "batch_size": 40}
STREAM = {"drift.bank_per_class": 16, "drift.n_pos": 8, "data.flip": True}


class Oracle:
    """A network that is a function v(x, t, labels); label 1 is the null class."""

    noise_classes, noise_coords, num_classes, null_class = 0, 1, 1, True

    def __init__(self, v):
        self.v = v

    def apply(self, variables, x, labels, cfg_scale, style_indices):
        return self.v(x, cfg_scale[:, None] / 1000, labels[:, None])


def euler(v, steps, x_0, scale=1.0):
    n = len(x_0)
    return Flow(Oracle(v), steps).apply(
        {"params": {}}, x_0, jnp.zeros(n, int), jnp.full(n, scale), None
    )


X_0 = jax.random.normal(jax.random.key(0), (50, 2))


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_point_mass_is_reached_in_any_number_of_steps(steps):
    """Its velocity is (c - x) / (1 - t): the paths are straight."""
    c = jnp.array([1.0, -2.0])
    np.testing.assert_allclose(
        euler(lambda x, t, y: (c - x) / (1 - t), steps, X_0),
        jnp.broadcast_to(c, X_0.shape),
        atol=1e-5,
    )


MEAN, STD = jnp.array([1.0, -2.0]), 0.5


def gaussian_velocity(x, t, y=None):
    """Returns E[x_1 - x_0 | x_t = x] for x_1 ~ N(MEAN, STD^2).

    Its slope is Cov(x_1 - x_0, x_t) / Var(x_t).
    """
    slope = (t * STD**2 - (1 - t)) / (t**2 * STD**2 + (1 - t) ** 2)
    return MEAN + slope * (x - t * MEAN)


def test_a_gaussian_is_reached_with_an_error_of_first_order():
    """The flow from N(0, 1) to N(MEAN, STD^2) is x -> MEAN + STD x.

    The error of Euler's steps halves when they double.
    """
    errors = {}
    for steps in (64, 128, 256):
        found = euler(gaussian_velocity, steps, X_0)
        errors[steps] = float(jnp.abs(found - (MEAN + STD * X_0)).max())
    assert errors[256] < 0.01
    assert 1.9 < errors[64] / errors[128] < 2.1
    assert 1.9 < errors[128] / errors[256] < 2.1


def test_loss_is_least_at_the_conditional_mean():
    """There it is the mean conditional variance of x_1 - x_0, integrated over t by a sum.

    A velocity that is wrong by d costs d^2 more.
    """
    n = 200_000
    keys = jax.random.split(jax.random.key(1), 3)
    x_0, x_1 = jax.random.normal(keys[0], (n, 2)), MEAN + STD * jax.random.normal(keys[1], (n, 2))
    t = sample_t(keys[2], n, "uniform")
    grid = (np.arange(10_000) + 0.5) / 10_000
    variance = 1 + STD**2 - (grid * STD**2 - (1 - grid)) ** 2 / (grid**2 * STD**2 + (1 - grid) ** 2)
    best = flow_loss(lambda x, t: gaussian_velocity(x, t[:, None]), x_0, x_1, t)
    wrong = flow_loss(lambda x, t: gaussian_velocity(x, t[:, None]) + 0.3, x_0, x_1, t)
    np.testing.assert_allclose(best, variance.mean(), rtol=0.01)
    np.testing.assert_allclose(wrong - best, 0.09, atol=0.006)


def test_times_have_their_density():
    """log-normal: logit(t) is a standard normal."""
    t = np.asarray(sample_t(jax.random.key(0), 100_000, "log-normal"))
    logit = np.log(t / (1 - t))
    assert abs(logit.mean()) < 0.01 and abs(logit.std() - 1) < 0.01
    t = np.asarray(sample_t(jax.random.key(0), 100_000, "uniform"))
    assert abs(t.mean() - 0.5) < 0.005 and abs(t.std() - 12**-0.5) < 0.005


def test_guidance_goes_beyond_the_null_class():
    """With constant velocities a for the label and b for none, x_1 = x_0 + b + s (a - b).

    The scale s is each sample's own.
    """
    a, b = jnp.array([1.0, 0.0]), jnp.array([0.0, 3.0])

    def v(x, t, y):
        return jnp.where(y == 0, a, b) + 0 * x

    for scale in (1.0, 2.5):
        np.testing.assert_allclose(euler(v, 3, X_0, scale), X_0 + b + scale * (a - b), atol=1e-5)
    mixed = Flow(Oracle(v), 3).apply(
        {"params": {}}, X_0[:2], jnp.zeros(2, int), jnp.array([1.0, 2.5]), None
    )
    np.testing.assert_allclose(mixed, X_0[:2] + b + jnp.array([[1.0], [2.5]]) * (a - b), atol=1e-5)


def test_draws_of_a_whole_bank():
    """Every sample is as likely, empty slots never come, and a sample keeps its label."""
    counters = Counters(filled=jnp.array([4, 0, 2]), next=None, pool_filled=None, pool_next=None)
    bank = Bank(samples=jnp.arange(12).reshape(3, 4), pool=jnp.zeros(0), counters=counters)
    images, labels = draw(bank, jax.random.uniform(jax.random.key(0), (60_000,)))
    found, count = np.unique(images, return_counts=True)
    assert found.tolist() == [0, 1, 2, 3, 8, 9] and np.abs(count - 10_000).max() < 500
    assert (labels == images // 4).all()


@pytest.mark.parametrize(
    "changes",
    [pytest.param(FLOW, marks=pytest.mark.slow), FLOW | STREAM],
    ids=["whole bank", "stream"],
)
@pytest.mark.usefixtures("shared_steps")
def test_resumed_ends_in_the_same_bits(tmp_path, changes):
    train(tmp_path / "straight", changes | {"max_steps": 8})
    folder = as_at(4, tmp_path / "straight", tmp_path / "twice")
    train(folder, changes | {"max_steps": 8})
    (tree, metadata, _), (tree2, metadata2, _) = (
        everything_saved(tmp_path / name, changes) for name in ("straight", "twice")
    )
    same_bits(tree, tree2)
    assert metadata["position"] == metadata2["position"] == (8 * 40 if changes != FLOW else 0)
    assert (
        records(tmp_path / "straight") == records(tmp_path / "twice")
        and len(records(tmp_path / "twice")) == 8
    )


@pytest.mark.slow
def test_devices_do_not_change_the_losses(tmp_path):
    wide = FLOW | {"model.hidden_size": 64, "max_steps": 6}
    divided = wide | {"drift.bank_placement": "divided"}
    one, eight = train(tmp_path / "1", wide), train(tmp_path / "8", divided, devices=8, fsdp=4)
    for key in ("loss", "grad_norm"):
        np.testing.assert_allclose([r[key] for r in eight], [r[key] for r in one], rtol=1e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow")
    train(
        folder,
        FLOW
        | {
            "max_steps": 8,
            "model.class_dropout_prob": 0.2,
            "eval_interval": 8,
            "sample_interval": 8,
            "denoise_timesteps": 2,
        },
    )
    return folder


def program(module, given, define_flags):
    values = define_flags(flags.FlagValues())
    module.main(config_lib.parse(["program", *(f"--{k}={v}" for k, v in given.items())], values))


def test_samples_do_not_depend_on_the_batch(run):
    model, params, metadata = load_run(run)
    assert (
        isinstance(model, Flow) and model.steps == 2 and metadata["config"]["objective"] == "flow"
    )
    labels = np.arange(20) % 10
    for scale in (1.0, 3.0):
        whole = np.concatenate(list(generate(model, params, labels, scale, 3, batch_size=20)))
        parts = np.concatenate(list(generate(model, params, labels, scale, 3, batch_size=7)))
        np.testing.assert_allclose(parts, whole, atol=1e-5)
    mixed = next(
        generate(model, params, labels, np.where(np.arange(20) < 10, 1.0, 3.0), 3, batch_size=20)
    )
    np.testing.assert_allclose(mixed[10:], whole[10:], atol=1e-5)
    alone = next(generate(model, params, labels, 1.0, 3, batch_size=20))
    np.testing.assert_allclose(mixed[:10], alone[:10], atol=1e-5)
    more = next(generate(with_steps(model, 9), params, labels, 1.0, 3, batch_size=20))
    assert np.abs(more - alone).max() > 1e-3


def test_sampling_and_evaluation_take_the_steps(run, tmp_path):
    (row,) = read_rows(run / "fid.csv")
    assert row["denoise_timesteps"] == 2
    program(
        sample_command,
        {
            "load_dir": run,
            "num_samples": 5,
            "denoise_timesteps": 4,
            "cfg_scale": 2,
            "out": tmp_path / "x.npz",
        },
        define_sampling_flags,
    )
    assert np.load(tmp_path / "x.npz")["arr_0"].shape == (5, 8, 8, 1)
    for steps in (2, 4):
        program(
            evaluate_command,
            {"load_dir": run, "num_samples": 40, "denoise_timesteps": steps},
            define_evaluation_flags,
        )
    rows = read_rows(run / "fid.csv")
    assert [r["denoise_timesteps"] for r in rows] == [2, 2, 4] and rows[1]["fd_pixels"] != rows[2][
        "fd_pixels"
    ]


@pytest.mark.parametrize("name", ["mlp", "dit"])
def test_the_first_draw_of_a_converted_network_is_one_euler_step(name):
    config = config_lib.resolve(TINY | FLOW | {"model.name": name, "model.refine_channels": 4})
    network = build_generator(config.model, (8, 8, 1), 10)
    params = init_params(network, jax.random.key(5))
    params = jax.tree.map(lambda p: p + 0.1, params)  # convolutions start at zero
    one = Flow(network, 1), network.clone(from_flow=True, clip_output=True)
    step, draw = (next(generate(model, params, [1, 2], 1.0, 3, batch_size=2)) for model in one)
    np.testing.assert_allclose(draw, clip(step), atol=1e-5)


@pytest.mark.usefixtures("shared_steps")
def test_a_flow_run_becomes_a_run_of_one_pass(run, tmp_path):
    """The run, its export and what starts from them know it without a flag.

    It goes on where the flow is gone, and its null class is left behind. The second discrepancy
    keeps something from step to step.
    """
    source = shutil.copytree(run, tmp_path / "flow")
    frechet = {"drift.field": "frechet", "drift.n_unc": 0, "drift.alpha_max": 1.0}
    changes = WITHOUT_STYLES | frechet | {"init_from": str(source), "max_steps": 2}
    parts = parts_of(changes)
    flow, params, _ = load_run(run)
    assert parts.model.from_flow and flow.null_class and not parts.model.null_class
    labels = np.arange(20) % 10
    step = next(generate(with_steps(flow, 1), params, labels, 1.0, 3, batch_size=20))
    first = drift.make_state(parts).params
    draw = next(generate(parts.model, first, labels, 1.0, 3, batch_size=20))
    np.testing.assert_allclose(draw, clip(step), atol=1e-6)  # digits are

    train(tmp_path / "one", changes)
    shutil.rmtree(source)
    train(tmp_path / "one", changes | {"model.from_flow": True, "max_steps": 4})
    elsewhere = {"load_dir": str(tmp_path / "one"), "save_dir": str(tmp_path / "new")}
    assert parts_of(changes | elsewhere).model.from_flow
    export_run(tmp_path / "one", tmp_path / "artifact")
    for there in ("one", "artifact"):
        model, params, _ = load_generator(tmp_path / there)
        assert model.from_flow
        assert parts_of(WITHOUT_STYLES | {"init_from": str(tmp_path / there)}).model.from_flow
    for refuse in (drift.DriftJob.check_parts, given_params):  # by the shapes alone, and as read
        with pytest.raises(UserError, match="style_codebooks is absent there"):
            refuse(parts_of(DIT | {"init_from": str(run)}))
    with pytest.raises(UserError, match="generator of one pass"):
        parts_of(FLOW | {"model.from_flow": True})


@pytest.mark.parametrize("source", ["init_from", "load_dir"])
def test_the_source_decides_whether_it_is_a_flow(run, tmp_path, source):
    def configured(from_flow):
        values = config_lib.define_flags(flag_values=flags.FlagValues())
        given = {source: run, "model.from_flow": from_flow, "save_dir": tmp_path / "new"}
        config_lib.parse(["x", *(f"--{name}={value}" for name, value in given.items())], values)
        return configure(drift.DriftJob, values)[0]

    with pytest.raises(UserError, match=f"from_flow 0: {run} holds a flow, .* leave the flag out"):
        configured(0)
    assert configured(1).model.from_flow


def test_mistakes(run, tmp_path):
    with pytest.raises(UserError, match="noise_classes"):
        parts_of(FLOW | {"model.noise_classes": 4})
    with pytest.raises(UserError, match="divide over 8 devices; give --batch_size 24"):
        parts_of(FLOW | {"batch_size": 20}, devices=8)
    with pytest.raises(UserError, match="one pass"):
        with_steps(MLPGenerator(4, 2, 0, 1, (2,), 4, 1, 2.0, False), 3)
    model, params, _ = load_run(run)
    without = from_description(
        describe(model) | {"network": describe(model.network) | {"null_class": False}}
    )
    with pytest.raises(UserError, match="--cfg_scale 2.*class_dropout_prob"):
        next(generate(without, params, [0], 2.0, 0))
    with pytest.raises(UserError, match="objective = flow"):
        train(
            run,
            {
                "max_steps": 9,
                "model.noise_classes": 0,
                "model.noise_coords": 1,
                "model.class_dropout_prob": 0.2,
            },
        )
