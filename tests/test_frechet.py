"""The frechet field: minus the gradient of the distance itself, and moments that a run keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import as_at, everything_saved, parts_of, same_bits, train

from drifting.fields.frechet import Moments, frechet_field
from drifting.layout import ONE_DEVICE
from drifting.memory import Seen
from metrics.evidence import Evidence
from metrics.fid import frechet_distance
from metrics.statistics import write_statistics
from training import fill_memory
from training.drift_state import make_state
from utils.errors import UserError

SETTINGS = {
    "model.name": "mlp",
    "drift.field": "frechet",
    "drift.alpha_max": 1.0,
    "drift.moment_decay": 0.5,
}


def moments_of(rows):
    """Mean and covariance, divided by n, in float64."""
    rows = np.float64(rows).reshape(-1, rows.shape[-1])
    return rows.mean(0), np.cov(rows.T, bias=True)


def pixels_of(digits):
    """All digits as rows [S, 64] in [-1, 1], and their labels [S]."""
    samples = [digits.samples[i] for i in range(len(digits.samples))]
    rows = np.stack([sample["image"] for sample in samples]).reshape(len(samples), -1)
    return rows / 127.5 - 1.0, np.array([sample["label"] for sample in samples])


def seen(gen, labels):
    """One set of features of C classes: gen [C, N, T, D]."""
    c, n, t, d = gen.shape
    features = {"a": jnp.float32(gen.reshape(c * n, t, d))}
    weight = jnp.ones((c, 2))
    return Seen(jnp.asarray(labels), features, features, weight, (0.1,), ONE_DEVICE)


def start(memory, real, labels):
    """The state that knows real [M, T, D] of these labels, which come in two batches."""
    shape = {"a": jax.ShapeDtypeStruct((1, *real.shape[1:]), np.float32)}
    state = memory.init(jax.random.key(0), shape, int(max(labels)) + 1)

    def batches():
        yield {"a": real[:7]}, labels[:7]
        yield {"a": real[7:]}, labels[7:]

    return jax.tree.map(jnp.asarray, memory.fill(state, batches))


@pytest.mark.parametrize("moments", ["class", "all"])
@pytest.mark.parametrize("locations", [1, 3])
def test_it_is_minus_the_gradient_of_the_distance(moments, locations):
    """-(N / 2 (1 - b)) dFD / dx by central differences in float64, in the second step.

    Half of the running moments are then those of the first step, and have no gradient.
    """
    rng, (c, n, d) = np.random.default_rng(0), (2, 9, 3)
    mix = rng.normal(size=(d, d))
    real = rng.normal(size=(50, locations, d)) @ mix + 1
    labels = np.arange(50) % c
    first, gen = rng.normal(size=(2, c, n, locations, d))
    memory = Moments(moments=moments, moment_decay=0.5)
    state = start(memory, np.float32(real), labels)
    observed, _ = memory.look(state, jax.random.key(0), seen(first, [0, 1]))
    state, _ = memory.update(state, observed)
    observed, recalled = memory.look(state, jax.random.key(0), seen(gen, [0, 1]))
    told = recalled[str(d)].each  # of each problem, location by location in each class

    # Of two steps, as in Adam: the weights of the two are b (1 - b) and 1 - b of 1 - b^2.
    share = 0.5 / 0.75

    def groups(samples):
        return [samples] if moments == "all" else list(samples)

    def distance(gen):
        total = 0.0
        for g, (old, new) in enumerate(zip(groups(first), groups(gen), strict=True)):
            own = real if moments == "all" else real[labels == g]
            (m0, s0), (m1, s1) = moments_of(old), moments_of(new)
            mean = (1 - share) * m0 + share * m1
            second = (1 - share) * (s0 + np.outer(m0, m0)) + share * (s1 + np.outer(m1, m1))
            total += frechet_distance(*moments_of(own), mean, second - np.outer(mean, mean))
        return total

    n_groups = len(groups(gen))
    np.testing.assert_allclose(observed["distance"], distance(gen) / n_groups, rtol=1e-4)
    samples = n * locations * c / n_groups
    for place in [(0, 0, 0, 0), (0, 4, locations - 1, 2), (1, 8, 0, 1), (1, 3, 0, 2)]:
        moved = np.zeros_like(gen)
        moved[place] = 1e-5
        slope = (distance(gen + moved) - distance(gen - moved)) / 2e-5
        k, i, t, j = place
        problem = k * locations + t
        x = jnp.float32(gen[k, :, t])
        one = jnp.ones(n)
        told_here = {name: value[problem] for name, value in told.items()}
        v, _ = frechet_field(x, x, x, one, one, 0.1, 0, **told_here)
        np.testing.assert_allclose(v[i, j], -slope * samples / (2 * share), rtol=2e-3, atol=1e-4)


def test_an_update_contracts_towards_the_batch():
    """From M, a batch B gives b M + (1 - b) B, of the classes in it; the others keep theirs.

    Their weights 1 - b^n are those of the steps that a class was in. The oracle is in float64.
    """
    rng, b, d = np.random.default_rng(4), 0.8, 3
    real = np.float32(rng.normal(size=(30, 1, d)) + 2)
    memory = Moments(moments="class", moment_decay=b)
    state = start(memory, real, np.arange(30) % 3)
    centre = np.float64(state["real"]["3"]["mean"][:, 0])  # moments are about the reals' mean
    mean, second, weight = np.zeros((3, d)), np.zeros((3, d, d)), np.zeros(3)

    @jax.jit
    def take_step(state, gen, labels):
        observed, _ = memory.look(state, jax.random.key(0), seen(gen, labels))
        return memory.update(state, observed)[0]

    for labels in ([0, 2], [2, 1], [2, 0]):
        gen = np.float32(rng.normal(size=(2, 9, 1, d)))
        state = take_step(state, gen, np.array(labels))
        for label, rows in zip(labels, np.float64(gen[:, :, 0]), strict=True):
            rows = rows - centre[label]
            mean[label] = b * mean[label] + (1 - b) * rows.mean(0)
            second[label] = b * second[label] + (1 - b) * rows.T @ rows / 9
            weight[label] = b * weight[label] + 1 - b
        np.testing.assert_allclose(state["gen"]["3"]["mean"][:, 0], mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state["gen"]["3"]["second"][:, 0], second, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state["weight"], weight, rtol=1e-6)


def test_equal_moments_leave_the_samples_where_they_are():
    """V = 0 where the generated samples are the reals, and T turns q into p where they are not."""
    rng = np.random.default_rng(1)
    real = np.float32(rng.normal(size=(40, 1, 4)) @ rng.normal(size=(4, 4)))
    memory = Moments(moments="all", moment_decay=0.0)
    state = start(memory, real, np.zeros(40, int))
    for gen, size in ((real, 0.0), (real[::-1] * 2 + 1, None)):
        _, recalled = memory.look(state, jax.random.key(0), seen(gen[None], [0]))
        told = {name: value[0] for name, value in recalled["4"].each.items()}
        x = jnp.float32(gen[:, 0])
        v, _ = frechet_field(x, x, x, jnp.ones(40), jnp.ones(40), 0.1, 0, **told)
        if size == 0.0:
            assert jnp.abs(v).max() < 1e-3
        mean, covariance = moments_of(np.asarray(x + v))
        expected_mean, expected = moments_of(real)
        np.testing.assert_allclose(mean, expected_mean, atol=1e-3)
        np.testing.assert_allclose(covariance, expected, atol=2e-3 * np.abs(expected).max())


def test_float32_statistics_lose_little_to_a_far_mean():
    """64 features at 50 standard deviations from 0, after 300 steps of decay 0.99.

    The distance is that of float64 moments to 1e-3.
    """
    rng, d = np.random.default_rng(2), 64
    scale = np.linspace(0.1, 2, d)
    real = np.float32(rng.normal(size=(4000, 1, d)) * scale + 50)
    memory = Moments(moments="all", moment_decay=0.99)
    state = start(memory, real, np.zeros(4000, int))
    step = jax.jit(lambda state, gen: memory.look(state, jax.random.key(0), seen(gen, [0]))[0])
    update = jax.jit(lambda state, observed: memory.update(state, observed)[0])
    mean = second = np.zeros(1)
    for _ in range(300):
        gen = np.float32(rng.normal(size=(1, 64, 1, d)) * (scale + 0.1) + 50.1)
        observed = step(state, gen)
        state = update(state, observed)
        rows = np.float64(gen[0, :, 0])
        mean = 0.99 * mean + 0.01 * rows.mean(0)
        second = 0.99 * second + 0.01 * rows.T @ rows / 64
    weight = 1 - 0.99**300
    mean, second = mean / weight, second / weight
    exact = frechet_distance(*moments_of(real), mean, second - np.outer(mean, mean))
    np.testing.assert_allclose(observed["distance"], exact, rtol=1e-3)


@pytest.mark.usefixtures("shared_steps")
def test_the_moments_resume_in_the_same_bits(tmp_path, caplog):
    """And those of the reals are made anew where the encoder or the data changed."""
    straight = train(tmp_path / "straight", SETTINGS | {"max_steps": 8})
    folder = as_at(4, tmp_path / "straight", tmp_path / "resumed")
    resumed = train(folder, SETTINGS | {"max_steps": 8})
    assert straight == resumed
    tree, _, _ = everything_saved(tmp_path / "straight", SETTINGS)
    tree2, _, _ = everything_saved(tmp_path / "resumed", SETTINGS)
    same_bits(tree, tree2)
    assert all(record["frechet_distance"] > 0 for record in straight)
    assert "made anew" not in caplog.text

    with pytest.raises(UserError, match="drift.field = frechet, .*but drift.field = kernel"):
        train(tmp_path / "resumed", {"max_steps": 12, "drift.field": "kernel"})


def test_what_is_known_of_the_reals_depends_on_them(monkeypatch, caplog):
    parts = parts_of(SETTINGS)
    state = fill_memory.fill_memory(parts, make_state(parts))
    again = fill_memory.fill_memory(parts, state)
    assert again is state, "it is computed once"
    monkeypatch.setattr(fill_memory, "identity", lambda dataset: {"crc32": 1})
    anew = fill_memory.fill_memory(parts, state)
    assert "made anew" in caplog.text
    same_bits(anew.field["real"], state.field["real"])
    (root,) = (sets["root"] for sets in state.field["real"].values())
    pixels, labels = pixels_of(parts.dataset)
    _, covariance = moments_of(pixels[labels == 3])
    np.testing.assert_allclose(root[3, 0] @ root[3, 0], covariance, atol=1e-5)


def test_moments_of_another_encoder_do_not_go_on():
    """Running moments lie about the mean of the reals; where that changes, they begin anew."""
    rng = np.random.default_rng(3)
    real, gen = np.float32(rng.normal(size=(2, 40, 1, 4)))
    memory = Moments(moments="all", moment_decay=0.9)
    state = start(memory, real, np.zeros(40, int))
    observed, _ = memory.look(state, jax.random.key(0), seen(gen[None], [0]))
    state, _ = memory.update(state, observed)
    again = memory.fill(jax.device_get(state), lambda: iter([({"a": real + 9}, np.zeros(40, int))]))
    assert not again["weight"].any() and not again["gen"]["4"]["second"].any()
    np.testing.assert_allclose(again["real"]["4"]["mean"][0, 0], real.mean((0, 1)) + 9, rtol=1e-5)


@pytest.mark.parametrize(
    "moments, classes, changes, devices",
    [
        pytest.param("all", 3, {}, 2, marks=pytest.mark.slow),
        # Three classes in each group, their rows over two devices.
        ("class", 6, {"optim.accumulate": 2, "drift.exact_scales": True}, 2),
    ],
    ids=["rows", "rows and groups"],
)
def test_the_numbers_are_those_of_one_device_and_one_group(
    tmp_path, moments, classes, changes, devices
):
    settings = SETTINGS | {"drift.moments": moments, "max_steps": 3, "save_interval": 3}
    settings |= {"drift.n_neg": 8, "batch_size": 8 * classes}
    one = train(tmp_path / "one", settings)
    other = train(tmp_path / "other", settings | changes, devices=devices)
    for key in ("loss", "frechet_distance", "drift_rms_0.02", "grad_norm"):
        of_both = [[record[key] for record in records] for records in (one, other)]
        np.testing.assert_allclose(*of_both, rtol=1e-3, err_msg=key)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"drift.alpha_max": 2.0, "drift.n_unc": 4}, "frechet field has no guidance"),
        ({"drift.negatives": "second"}, "moments in the place of negatives"),
        ({"model.class_dropout_prob": 0.1}, "none of the null class; give --drift.moments all"),
    ],
)
def test_what_moments_have_no_use_for_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        parts_of(SETTINGS | changes)


# ---------------------------------------------------------------- moments of a file


OF_ALL = SETTINGS | {"drift.moments": "all"}
PIXELS = {"network": "pixels", "resize": "", "weights": ""}


def write_moments(path, rows, **provenance):
    evidence = Evidence(len(rows), *moments_of(rows))
    write_statistics(path, evidence, PIXELS | provenance)
    return {"drift.moments_file": str(path)}


def test_moments_of_a_file_take_the_place_of_those_of_the_data(tmp_path, caplog):
    of_data = parts_of(OF_ALL)
    state = fill_memory.fill_memory(of_data, make_state(of_data))
    pixels, _ = pixels_of(of_data.dataset)
    same = parts_of(OF_ALL | write_moments(tmp_path / "same.npz", pixels))
    filled = fill_memory.fill_memory(same, make_state(same))
    for name in ("mean", "root"):
        of_both = filled.field["real"]["64"][name], state.field["real"]["64"][name]
        np.testing.assert_allclose(*of_both, atol=2e-4)

    # A run goes on with its moments, until the file is another.
    assert fill_memory.fill_memory(same, filled) is filled
    other = parts_of(OF_ALL | write_moments(tmp_path / "other.npz", pixels + 1))
    assert "made anew" not in caplog.text
    shifted = fill_memory.fill_memory(other, filled)
    assert "made anew" in caplog.text
    difference = shifted.field["real"]["64"]["mean"] - filled.field["real"]["64"]["mean"]
    np.testing.assert_allclose(difference, 1, atol=1e-5)


@pytest.mark.parametrize(
    "width, provenance, changes, words",
    [
        (3, {}, {}, "moments of 3 features, but global of the encoder none has 64"),
        (64, {"network": "inception"}, {}, "of the network inception, but samples are compared in"),
        (64, {}, {"encoder.name": "none+whiten"}, "one feature set, but the encoder gives 2"),
        (64, {}, {"drift.moments_file": "nowhere.npz"}, "nowhere.npz: there is no such file"),
        (64, {}, {"drift.moments": "class"}, "not of each class; give --drift.moments all"),
        (64, {}, {"drift.field": "kernel", "drift.moments": "class"}, "kernel field has no use"),
    ],
)
def test_moments_that_do_not_fit_are_refused(tmp_path, width, provenance, changes, words):
    rows = np.random.default_rng(0).normal(size=(9, width))
    given = write_moments(tmp_path / "moments.npz", rows, **provenance)
    if changes.get("drift.field"):
        given["drift.moment_decay"] = 0.999
    with pytest.raises(UserError, match=words) as error:
        parts_of(OF_ALL | given | changes)
    assert "\n" not in str(error.value)
