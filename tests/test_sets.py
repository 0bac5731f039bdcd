"""Feature sets packed by width, keys drawn together, settings of the compiler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.battery import Battery
from drifting.config import DriftConfig
from drifting.fields.learned import field_loss, init_field
from drifting.loss import drift_loss
from drifting.measure import Distances, mean_distances, measure, spread
from drifting.problems import by_width, pack, unpack
from drifting.state import named_key, named_keys
from drifting.step import feature_loss
from utils import compiler, sharding


def test_pack_and_unpack():
    random = np.random.default_rng(0)
    phi = {
        "b": random.normal(size=(3, 4, 2)),
        "wide": random.normal(size=(3, 1, 5)),
        "a": random.normal(size=(3, 1, 2)),
    }
    assert by_width(phi) == {"2": ["a", "b"], "5": ["wide"]}
    packed = pack(phi)
    np.testing.assert_array_equal(
        packed["2"], np.concatenate([phi["a"], phi["b"]], 1).astype(np.float32)
    )
    other = unpack({d: f[:2] for d, f in packed.items()}, phi)  # of fewer samples
    for name, f in phi.items():
        np.testing.assert_array_equal(other[name], f[:2].astype(np.float32))


def test_keys_drawn_together_are_those_drawn_apart():
    keys = named_keys(np.uint32(3), ("labels", "noise", "noise second"), 17)
    for name, key in keys.items():
        np.testing.assert_array_equal(
            jax.random.key_data(key), jax.random.key_data(named_key(np.uint32(3), name, 17))
        )


def test_compiler_settings_that_are_named_or_unknown_are_left_alone(monkeypatch):
    mesh = sharding.make_mesh(1, 1)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    assert set(compiler.options(mesh)) == {"xla_cpu_experimental_ynn_fusion_type"}
    monkeypatch.setitem(compiler.CPU_OPTIONS, "xla_cpu_no_such_setting", 1)
    assert set(compiler.options(mesh)) == {"xla_cpu_experimental_ynn_fusion_type"}
    assert jax.jit(lambda x: x + 1, compiler_options=compiler.options(mesh))(1) == 2


def test_a_class_with_a_single_real():
    random = np.random.default_rng(0)
    gen, pos = random.normal(size=(2, 2, 4, 3)).astype(np.float32)
    one, all_four = np.float32([1, 0, 0, 0]), np.ones(4, np.float32)

    both = mean_distances(gen, pos, jnp.stack([one, all_four]))
    first = mean_distances(gen[:1], pos[:1], one[None])
    second = mean_distances(gen[1:], pos[1:], all_four[None])
    np.testing.assert_allclose(both, np.mean([first, second], 0), rtol=1e-6)

    assert first.real_real == first.gen_real  # the only distance to a real that there is
    far_apart = jnp.mean(jnp.linalg.norm(gen[0, :, None] - gen[0], axis=-1)) * 4 / 3
    np.testing.assert_allclose(spread(first)["diversity"], far_apart / first.gen_real, rtol=1e-5)


CONFIG = DriftConfig(
    n_classes=3,
    n_c=2,
    n_neg=4,
    n_pos=5,
    n_unc=3,
    alpha_min=1.0,
    alpha_max=3.0,
    alpha_power=1.0,
    no_cfg_frac=0.0,
    temperatures=(0.1, 0.5),
    field="kernel",
    style_shape=(0, 0),
    set_weight={"b": 0.5, "a": 2.0, "wide": 3.0}.get,
)
ENCODERS = {"b": "x", "a": "x", "wide": "y"}
SIZES = {"b": (4, 2), "wide": (2, 5), "a": (1, 2)}  # T, D


def drawn(seed, samples):
    """Feature sets [C N, T, D] of unlike scales."""
    random = np.random.default_rng(seed)
    return {
        k: jnp.asarray((i + 1) * random.normal(size=(CONFIG.n_c * samples, *size)), jnp.float32)
        for i, (k, size) in enumerate(SIZES.items())
    }


@pytest.mark.parametrize("second", [False, True])
def test_sets_side_by_side_have_the_losses_of_each_alone(second):
    """Loss, gradient and scalars, and the parts of two encoders in balance.

    One call for each width against one `drift_loss` for each set, of C T problems; guidance, an
    absent positive, weights of sets.
    """
    c, gen, real, other = (
        CONFIG,
        drawn(0, CONFIG.n_neg),
        drawn(1, CONFIG.n_unc + CONFIG.n_pos),
        drawn(2, CONFIG.n_neg),
    )
    weight_pos, weight_unc = (
        np.ones((2, c.n_pos), np.float32),
        np.array([[0.5] * c.n_unc, [2.0] * c.n_unc], np.float32),
    )
    weight_pos[1, -1] = 0
    battery = Battery(("x", "y"), ENCODERS.__getitem__, is_balanced=True)
    means = {"mean": jnp.array([0.3, 0.5]), "weight": jnp.float32(0.1)}
    size = {"x": 3.0, "y": 5.0}  # mean / weight

    def side_by_side(gen):
        weights = jnp.asarray(weight_pos), jnp.asarray(weight_unc)
        phi_second = other if second else None
        factors = battery.factors(means, list(gen), len(c.temperatures))
        more = {"phi_second": phi_second, "factors": factors}
        loss, sets = feature_loss(gen, pack(real), *weights, c, **more)
        parts = {name: part.loss for name, part in battery.parts(gen, sets).items()}
        distances = Distances(*jnp.ones(3))
        return loss, measure(sets, distances, c.temperatures) | parts

    def problems(features):
        """[2 N, T, D] -> [2 T, N, D]: each location of each of two classes."""
        by_class = features.reshape(2, -1, *features.shape[1:])
        return jnp.moveaxis(by_class, 2, 1).reshape(-1, by_class.shape[1], features.shape[2])

    def one_by_one(gen):
        total, infos, parts = 0.0, [], {"x": 0.0, "y": 0.0}
        for name, (n_locations, _) in SIZES.items():
            y = problems(real[name])
            loss, info = drift_loss(
                problems(gen[name]),
                y[:, c.n_unc :],
                y[:, : c.n_unc],
                weight_pos=np.repeat(weight_pos, n_locations, 0),
                weight_neg=np.repeat(weight_unc, n_locations, 0),
                temperatures=c.temperatures,
                second=problems(other[name]) if second else None,
            )
            encoder = ENCODERS[name]
            parts[encoder] += jnp.mean(loss)
            total += c.set_weight(name) * jnp.mean(loss) / size[encoder]
            infos.append(info)
        scalars = {"feature_scale": "scale", "perplexity": "perplexity"}
        return total, parts | {
            metric: jnp.mean(jnp.stack([info[name] for info in infos]))
            for metric, name in scalars.items()
        }

    (packed, scalars), slope = jax.jit(jax.value_and_grad(side_by_side, has_aux=True))(gen)
    (alone, expected), expected_slope = jax.jit(jax.value_and_grad(one_by_one, has_aux=True))(gen)
    np.testing.assert_allclose(packed, alone, rtol=1e-5)
    for k in SIZES:
        np.testing.assert_allclose(slope[k], expected_slope[k], rtol=1e-4, atol=1e-6)
    for k, value in expected.items():
        np.testing.assert_allclose(scalars[k], value, rtol=1e-5)


def test_a_learned_field_sees_positives_alone():
    """Of the reals of a step, the unconditional ones come first and are no part of the sets
    that it denoises.
    """
    c, real = CONFIG, drawn(1, CONFIG.n_unc + CONFIG.n_pos)
    params = init_field(jax.random.key(0), [d for _, d in SIZES.values()], 4, True)
    loss = jax.jit(
        lambda packed: field_loss(
            params,
            jax.random.key(1),
            unpack(packed, drawn(0, c.n_neg)),
            jnp.ones((2, c.n_pos)),
            c.temperatures,
        )
    )

    def moved(of_class):
        shift = jnp.zeros((2, c.n_unc + c.n_pos)).at[:, of_class].set(1.0).reshape(-1, 1, 1)
        return loss(pack({k: f * (1 + shift) for k, f in real.items()}))

    whole = loss(pack(real))
    np.testing.assert_array_equal(moved(slice(0, c.n_unc)), whole)
    assert all(
        abs(moved(i) - whole) > 1e-4 for i in (c.n_unc, -1)
    )  # the first and the last positive
