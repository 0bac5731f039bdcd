"""The paper's feature encoder and the feature sets.

They are compared with golden data of the authors' release, naive loops and finite differences.
"""

import json
import pathlib

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from weight_rule import draw_flax, tiny_mae

from models import mae
from models.encoders import load_encoder
from models.encoders.mae import mae_from_config, save_mae
from models.features import feature_sets
from models.norms import GroupNorm
from utils.errors import UserError

GOLDEN = pathlib.Path(__file__).parent / "golden"
SMALL = tiny_mae(
    in_channels=2, layers=(1, 2, 1, 1), input_patch_size=2, dropout_prob=0.5, num_classes=3
)


def artifact(name, folder):
    """The golden MAE `name` as a folder in the published format."""
    spec = json.loads((GOLDEN / name / "spec.json").read_text())
    tensors = {}
    for path, shape in spec["tensors"].items():
        tensors[path] = draw_flax(path, tuple(shape), spec["weight_seed"])
    tree = unflatten_dict(tensors, sep="/")
    (folder / "metadata.json").write_text((GOLDEN / name / "metadata.json").read_text())
    (folder / "ema_params.msgpack").write_bytes(flax.serialization.msgpack_serialize(tree))
    return folder


def small_params(seed=0):
    """Parameters of SMALL, drawn by rule."""
    params = {}
    for path, leaf in flatten_dict(mae.mae_shapes(SMALL)).items():
        params[path] = draw_flax("/".join(path), leaf.shape, seed)
    return unflatten_dict(params)


def assert_close(found, expected, name):
    atol = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=atol, err_msg=name)


@pytest.mark.parametrize("name", ["mae_latent_small", "mae_pixel_small"])
def test_golden_features(name, tmp_path):
    golden = np.load(GOLDEN / name / "activations.npz")
    encode, params, metadata = load_encoder(artifact(name, tmp_path))
    sets = jax.jit(encode)(params, golden["x"])
    assert metadata["kind"] == "mae"
    recorded = [key for key in golden.files if key.startswith("shape/")]
    assert set(sets) == {key.removeprefix("shape/") for key in recorded}
    for key, value in sets.items():
        value = np.asarray(value)
        head, moments = golden[f"head/{key}"], golden[f"moments/{key}"]
        assert value.shape == tuple(golden[f"shape/{key}"]) and value.dtype == np.float32
        assert_close(value.ravel()[:64], head, key)
        assert_close([value.mean(dtype=float), value.std(dtype=float)], moments, key)


@pytest.mark.parametrize("name", ["mae_latent_ablation_256", "mae_latent_640", "mae_pixel_640"])
def test_official_shapes(name):
    spec = json.loads((GOLDEN / "official_specs" / f"{name}.json").read_text())
    shapes = mae.mae_shapes(mae.MAE(num_classes=spec["num_classes"], **spec["model_config"]))
    found = {name: list(leaf.shape) for name, leaf in flatten_dict(shapes, sep="/").items()}
    assert found == spec["tensors"]
    assert sum(np.prod(shape, dtype=np.int64) for shape in found.values()) == spec["num_params"]


def test_feature_sets_against_loops():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    sets = feature_sets({"a": x, "v": x[:, 0]}, ("*",), ("map", "mean", "std"), (2, 4))
    # 4 does not divide the width: no patches of 4.
    assert set(sets) == {"a", "a_mean", "a_std", "a_mean_2", "a_std_2", "v"}
    np.testing.assert_array_equal(sets["v"], x[:, 0])
    np.testing.assert_array_equal(sets["a"], x.reshape(2, 24, 3))
    for b in range(2):
        np.testing.assert_allclose(sets["a_mean"][b, 0], x[b].reshape(-1, 3).mean(0), atol=1e-6)
        np.testing.assert_allclose(
            sets["a_std"][b, 0], np.sqrt(x[b].reshape(-1, 3).var(0) + 1e-6), atol=1e-6
        )
        for i in range(2):
            for j in range(3):
                patch = x[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(4, 3)
                np.testing.assert_allclose(sets["a_mean_2"][b, 3 * i + j], patch.mean(0), atol=1e-6)
                np.testing.assert_allclose(
                    sets["a_std_2"][b, 3 * i + j], np.sqrt(patch.var(0) + 1e-6), atol=1e-6
                )


def test_std_of_a_constant_has_a_finite_gradient():
    def total(x):
        return feature_sets({"map": x}, ("*",), ("std",), (2,))["map_std_2"].sum()

    np.testing.assert_array_equal(jax.grad(total)(jnp.ones((1, 4, 4, 1))), 0)


def test_choosing_feature_sets():
    maps = {name: np.ones((1, 4, 4, 2), np.float32) for name in ("conv1", "layer1", "layer2")}
    assert set(feature_sets(maps, ("layer*",), ("mean",), ())) == {"layer1_mean", "layer2_mean"}
    assert set(feature_sets(maps, ("layer?", "!layer1"), ("map", "std"), ())) == {
        "layer1_std",
        "layer2",
        "layer2_std",
    }
    for names, statistics, message in [
        (("layer9",), ("map",), "layer9"),
        (("*", "!x*"), ("map",), "x*"),
        (("*",), ("median",), "median"),
        (("*",), (), "layer1"),
    ]:
        with pytest.raises(UserError, match=message.replace("*", r"\*")):
            feature_sets(maps, names, statistics, (2,))


def test_patchify_orders_rows_columns_channels():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3))
    cells = mae.patchify(x, 2)
    np.testing.assert_array_equal(cells[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(mae.unpatchify(cells, 2), x)
    with pytest.raises(UserError, match="5x6"):
        mae.patchify(np.ones((1, 5, 6, 3)), 2)


def test_mask_hides_whole_patches_with_the_given_probability():
    mask = np.asarray(mae.random_mask(jax.random.key(0), (64, 16, 24, 7), 2, 0.3))
    assert mask.shape == (64, 16, 24, 1) and set(np.unique(mask)) == {0.0, 1.0}
    patches = mask.reshape(64, 8, 2, 12, 2)
    assert (patches == patches[:, :, :1, :, :1]).all()
    assert abs(mask.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / (64 * 96))
    with pytest.raises(UserError, match="patch_size"):
        mae.random_mask(jax.random.key(0), (1, 15, 16, 1), 2, 0.5)


def test_loss_counts_masked_cells_only():
    rng = np.random.default_rng(0)
    recon, cells = rng.normal(size=(2, 2, 4, 4, 3))
    mask = np.zeros((2, 4, 4, 1))
    mask[0, :2, :2] = 1
    loss = mae.reconstruction_loss(recon, cells, mask)
    np.testing.assert_allclose(loss, [((recon - cells)[0, :2, :2] ** 2).sum() / 4, 0], rtol=1e-5)


def test_training_pass_does_not_see_masked_cells():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 2, 32, 32, 2)).astype(np.float32)
    mask = mae.random_mask(jax.random.key(1), (2, 16, 16), 2, 0.5)
    hidden = mae.unpatchify(jnp.repeat(mask, 8, -1), 2)  # [2, 32, 32, 2]

    @jax.jit
    def run(params, x):
        layer4 = SMALL.apply({"params": params}, x * (1 - hidden), method="maps")["layer4"]
        return *SMALL.apply({"params": params}, x, mask, False), layer4

    params = small_params()
    recon, logits, layer4 = run(params, x)
    assert recon.shape == (2, 16, 16, 8) and logits.shape == (2, 3)
    np.testing.assert_allclose(
        logits, layer4.mean((1, 2)) @ params["fc"]["kernel"] + params["fc"]["bias"], atol=1e-5
    )
    np.testing.assert_array_equal(run(params, jnp.where(hidden > 0, noise, x))[0], recon)
    assert not np.allclose(run(params, jnp.where(hidden > 0, x, noise))[0], recon, atol=1e-2)


def test_dropout_draws_only_when_training():
    params = small_params()
    x, mask = jax.random.normal(jax.random.key(2), (1, 32, 32, 2)), jnp.zeros((1, 16, 16, 1))

    @jax.jit
    def logits(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return SMALL.apply({"params": params}, x, mask, True, rngs=rngs)[1]

    assert not np.allclose(logits(0), logits(1))


def test_gradient_to_the_image_and_the_parameters():
    """Against central differences along a random direction, in float64.

    They are the gradients of the features, the reconstruction and the logits.
    """
    model = SMALL.clone(dropout_prob=0.0)
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        x = jnp.asarray(rng.normal(size=(1, 32, 32, 2)))
        mask = jnp.asarray(rng.integers(0, 2, (1, 16, 16, 1)).astype(float))
        # In NumPy: each shape of a parameter would be a program of its own.
        args = jax.tree.map(lambda a: np.asarray(a, np.float64), (small_params(), x))

        def projection(params, x):
            maps = model.apply({"params": params}, x, method="maps")
            sets = feature_sets(
                maps, ("norm_x", "conv1", "layer2_blk2", "layer4"), ("mean", "std"), (2,)
            )
            outputs = [*sets.values(), *model.apply({"params": params}, x, mask, False)]
            assert all(y.dtype == jnp.float64 for y in outputs)
            return sum(
                jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))
                for y in outputs
            )

        run = jax.jit(jax.value_and_grad(projection, (0, 1)))
        gradient = jax.device_get(run(*args)[1])
        random = jax.tree.map(lambda a: rng.normal(size=a.shape), args)

        def moved(direction, step):
            return run(*jax.tree.map(lambda a, d: a + step * d, args, direction))[0]

        still = jax.tree.map(np.zeros_like, args)
        for direction in ((random[0], still[1]), (still[0], random[1])):
            # A ReLU whose argument changes sign within the step spoils the difference: it is small.
            up, down = moved(direction, 1e-8), moved(direction, -1e-8)
            pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
            exact = sum(np.sum(g * d) for g, d in pairs)
            np.testing.assert_allclose(exact, (up - down) / 2e-8, rtol=1e-5)


def test_bfloat16_is_close_and_returns_float32(tmp_path):
    folder = artifact("mae_pixel_small", tmp_path)
    x = np.load(GOLDEN / "mae_pixel_small" / "activations.npz")["x"][:1, :32, :32]
    options = {"names": ("norm_x", "layer[12]"), "statistics": ("mean",), "patch_sizes": ()}
    encode, params, _ = load_encoder(folder, **options)
    half, half_params, _ = load_encoder(folder, bf16=True, **options)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half_params))
    exact, close = jax.jit(encode)(params, x), jax.jit(half)(half_params, x)
    assert set(close) == {"norm_x", "layer1_mean", "layer2_mean"}
    for name, value in close.items():
        assert value.dtype == jnp.float32
        error = np.linalg.norm(value - exact[name]) / np.linalg.norm(exact[name])
        assert error < 0.05, (name, error)


def test_save_and_load(tmp_path):
    params = small_params()
    save_mae(tmp_path, SMALL, params, {"step": 7})
    encode, loaded, metadata = load_encoder(f"mae:{tmp_path}")
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert metadata["step"] == 7 and mae_from_config(metadata["model_config"], "") == SMALL
    assert "layer2_blk2_std_4" in jax.eval_shape(encode, loaded, jnp.zeros((1, 32, 32, 2)))


def test_wrong_weights(tmp_path):
    folder = artifact("mae_pixel_small", tmp_path)
    path = folder / "ema_params.msgpack"
    whole = path.read_bytes()
    tree = flatten_dict(flax.serialization.msgpack_restore(whole), sep=".")

    def check(tensors, *words):
        """The artifact with these tensors is refused in these words."""
        path.write_bytes(flax.serialization.msgpack_serialize(unflatten_dict(tensors, sep=".")))
        expect(*words)

    def expect(*words):
        with pytest.raises(UserError) as error:
            load_encoder(folder)
        message = str(error.value)
        assert "\n" not in message and all(word in message for word in words), message

    name = "encoder.stages_1.layers_0.conv2.kernel"
    check({k: v for k, v in tree.items() if k != name}, "lacks", name)
    check(tree | {name: tree[name][..., :-1]}, name, "[3, 3, 64, 63]", "[3, 3, 64, 64]")
    extra = "encoder.stages_1.layers_2.conv1.kernel"
    check(tree | {extra: tree[name]}, "unexpected", extra)
    path.write_bytes(whole[: len(whole) // 2])
    expect("ema_params.msgpack")
    path.unlink()
    expect("ema_params.msgpack")
    metadata = json.loads((folder / "metadata.json").read_text())
    del metadata["model_config"]["base_channels"]
    (folder / "metadata.json").write_text(json.dumps(metadata))
    expect("base_channels")


def test_latents_for_a_pixel_encoder_are_refused(tmp_path):
    encode, params, _ = load_encoder(artifact("mae_pixel_small", tmp_path))
    with pytest.raises(UserError, match="3 channels"):
        encode(params, jnp.zeros((1, 32, 32, 4)))


def test_groups_of_two_numbers_are_normalised_exactly():
    """Two numbers whose difference is small beside them, as a group may hold on a 1x1 map.

    float64 says what remains of them.
    """
    x = (3 + 2e-3 * np.random.default_rng(0).normal(size=(16, 1, 1, 64))).astype(np.float32)
    norm = mae.group_norm(64, None, None)
    pairs = x.astype(np.float64).reshape(16, 32, 2)
    expected = (pairs - pairs.mean(-1, keepdims=True)) / np.sqrt(
        pairs.var(-1, keepdims=True) + norm.epsilon
    )
    found = norm.apply(norm.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(found.reshape(16, 32, 2), expected, atol=1e-3)


@pytest.mark.parametrize("channels", [48, 64], ids=["one channel a group", "two"])
def test_group_norm_is_that_of_flax(channels):
    """In value and in the gradients of maps and parameters, far from 0 as well."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(3, 2, (2, 4, 4, channels)), jnp.float32)
    weight = jnp.asarray(random.normal(size=x.shape), jnp.float32)
    groups = 32 if channels == 64 else channels
    ours = GroupNorm(groups)
    theirs = nn.GroupNorm(groups, use_fast_variance=False)
    noise = jnp.asarray(random.normal(1, 0.3, (2, channels)), jnp.float32)
    params = {"params": {"scale": noise[0], "bias": noise[1]}}
    shapes = [jax.tree.map(jnp.shape, norm.init(jax.random.key(0), x)) for norm in (ours, theirs)]
    assert shapes[0] == shapes[1]

    def value_and_gradients(norm):
        def weighted_sum(params, x):
            y = norm.apply(params, x)
            return jnp.sum(y * weight), y

        return jax.grad(weighted_sum, (0, 1), has_aux=True)(params, x)

    for a, b in zip(*map(jax.tree.leaves, map(value_and_gradients, (ours, theirs))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
