"""The generators against the recorded outputs of the published one, and against NumPy."""

import functools
import json
import operator
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from scipy.ndimage import correlate

from models.conditioning import Conditioning
from models.dit import DiT
from models.generator import check_inputs, count_parameters, draw_style_indices, init_params
from models.mlp import MLPGenerator
from models.positions import sincos_positions
from models.refinement import Refinement
from models.weights import load_generator
from utils.errors import UserError

GOLDEN = pathlib.Path(__file__).parent / "golden"
ARTIFACTS = ["latent_tiny", "pixel_tiny", "plain_tiny"]

SMALL = dict(
    cond_dim=8,
    num_classes=3,
    noise_classes=5,
    noise_coords=2,
    input_size=8,
    in_channels=2,
    n_cls_tokens=2,
    patch_size=4,
    hidden_size=16,
    depth=2,
    num_heads=2,
    mlp_ratio=2.0,
    out_channels=3,
    use_qknorm=True,
    use_swiglu=True,
    use_rope=True,
    use_rmsnorm=True,
    use_bf16=False,
    attn_fp32=True,
)
WIDE = SMALL | dict(input_size=(8, 12))
SMALL_MLP = dict(
    cond_dim=8,
    num_classes=3,
    noise_classes=5,
    noise_coords=2,
    sample_shape=(2,),
    hidden_size=16,
    depth=2,
    mlp_ratio=2.0,
    use_bf16=False,
)


def assert_close(got, expected, tolerance=1e-4):
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


def example_inputs(model, batch=3):
    keys = jax.random.split(jax.random.key(1), 2)
    noise = jax.random.normal(keys[0], (batch, *model.noise_shape))
    labels = jnp.arange(batch, dtype=jnp.int32) % model.num_classes
    return noise, labels, jnp.linspace(1.0, 2.0, batch), draw_style_indices(model, keys[1], batch)


@functools.cache
def initial_params(model):
    return init_params(model, jax.random.key(0))


def random_params(model):
    """No parameter is zero, as after some training; quicker than compiling the initialisation."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    return jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), shapes)


def sample(model, params, *inputs):
    return np.asarray(jax.jit(model.apply)({"params": params}, *inputs))


def golden_inputs(name):
    io = np.load(GOLDEN / name / "io.npz")
    return [jnp.asarray(io[k]) for k in ("noise", "labels", "cfg_scale", "style_indices")], io


# ---- the published generator ----


@pytest.mark.parametrize("name", ARTIFACTS)
def test_samples_are_the_published_ones(name):
    model, params, _ = load_generator(GOLDEN / name)
    inputs, io = golden_inputs(name)
    samples = sample(model, params, *inputs)
    assert samples.dtype == jnp.float32
    assert_close(samples, io["samples"], 1e-5)  # the approximate GELU would differ by 2e-5


@pytest.mark.parametrize("name", ARTIFACTS)
def test_conditioning_is_the_published_one(name):
    model, params, _ = load_generator(GOLDEN / name)
    conditioning = Conditioning(
        model.cond_dim, model.num_classes, model.noise_classes, model.noise_coords, False
    )
    (_, *inputs), io = golden_inputs(name)
    assert_close(conditioning.apply({"params": params["conditioning"]}, *inputs), io["cond"])


@pytest.mark.parametrize("name", ARTIFACTS)
def test_positions_start_from_the_published_sincos(name):
    # The recorded positions are the initial ones plus noise of std 0.08. Swapped axes would
    # correlate by less than 0.9.
    model, params, _ = load_generator(GOLDEN / name)
    side = model.input_size // model.patch_size
    initial = sincos_positions(None, side, side, model.hidden_size)
    assert np.corrcoef(initial.ravel(), params["positions"].ravel())[0, 1] > 0.97


@pytest.mark.parametrize("attn_fp32", [True, False])
def test_bfloat16_is_close_to_float32(attn_fp32):
    model, params, _ = load_generator(GOLDEN / "latent_tiny")
    inputs, io = golden_inputs("latent_tiny")
    samples = sample(model.clone(use_bf16=True, attn_fp32=attn_fp32), params, *inputs)
    assert samples.dtype == jnp.float32
    error = np.abs(samples - io["samples"]).max() / np.abs(io["samples"]).max()
    assert 1e-5 < error < 3e-2  # above the first bound: bfloat16 was really used


# ---- structure ----


def test_patches_stay_in_place():
    # At the start all blocks are closed: a patch of noise reaches its own patch of the sample.
    model, params = DiT(**WIDE), initial_params(DiT(**WIDE))
    noise, *rest = example_inputs(model)
    moved = noise.at[:, 4:8, 8:12].add(1.0)
    change = sample(model, params, moved, *rest) - sample(model, params, noise, *rest)
    change = np.abs(change).max(axis=(0, 3))  # [8, 12]
    assert change.shape == (8, 12) and model.sample_shape == (8, 12, 3)
    assert (change[4:8, 8:12] > 1e-3).all()
    change[4:8, 8:12] = 0
    assert (change == 0).all()


def test_initial_samples_are_not_collapsed():
    model = DiT(**WIDE)
    samples = sample(model, initial_params(model), *example_inputs(model, 3))
    assert 0.3 < samples.std(axis=0).mean() < 3
    zero = model.clone(zero_init_output=True)
    output = jax.jit(lambda key: init_params(zero, key)["output"])(jax.random.key(0))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(output["linear"]))


def count_equations(jaxpr):
    """The number of equations of a program, those of inner programs included."""
    total = len(jaxpr.eqns)
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            total += sum(count_equations(inner) for inner in _jaxprs(value))
    return total


def _jaxprs(value):
    """The programs in a parameter of an equation."""
    if isinstance(value, (tuple, list)):
        return [sub for item in value for sub in _jaxprs(item)]
    value = getattr(value, "jaxpr", value)
    return [value] if hasattr(value, "eqns") else []


@pytest.mark.parametrize("remat", [False, True])
def test_program_size_does_not_grow_with_depth(remat):
    def size(depth):
        model = DiT(**SMALL | dict(depth=depth, remat=remat))
        params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))

        def total(params):
            return model.apply({"params": params}, *example_inputs(model)).sum()

        return count_equations(jax.make_jaxpr(jax.grad(total))(params).jaxpr)

    assert size(2) == size(8) > 100


@pytest.mark.parametrize(
    "model",
    [DiT(**SMALL, refine_channels=6), MLPGenerator(**SMALL_MLP)],
    ids=["dit", "mlp"],
)
def test_gradients_reach_every_parameter_and_survive_remat(model):
    params, inputs = random_params(model), example_inputs(model, 4)

    def gradients(model):
        def loss(params):
            return (model.apply({"params": params}, *inputs) ** 2).mean()

        return jax.jit(jax.grad(loss))(params)

    plain, remat = gradients(model), gradients(model.clone(remat=True))
    for (path, g), r in zip(jax.tree.leaves_with_path(plain), jax.tree.leaves(remat), strict=True):
        assert np.isfinite(g).all() and np.abs(g).max() > 0, jax.tree_util.keystr(path)
        np.testing.assert_allclose(g, r, atol=1e-5 * np.abs(g).max(), rtol=1e-4)


@pytest.mark.parametrize("side, reach", [(16, 14), (9, 7)], ids=["cells of 2x2", "pixels"])
def test_refinement_against_scipy(side, reach):
    """It starts as the identity, and a pixel reaches 14 x 14 of them, or 7 x 7."""
    model = Refinement(5, jnp.float32)
    x = np.random.default_rng(0).normal(size=(1, side, side, 2)).astype(np.float32)
    params = model.init(jax.random.key(0), x)["params"]
    np.testing.assert_array_equal(model.apply({"params": params}, x), x)

    params = jax.tree.map(lambda p: p + 0.1 * np.arange(p.size).reshape(p.shape) / p.size, params)
    p = 2 - side % 2
    y = rearrange(x, "1 (h p) (w q) c -> (p q c) h w", p=p, q=p)
    for name in ("conv1", "conv2", "conv3"):
        y = y / (1 + np.exp(-y)) if name != "conv1" else y
        kernel, bias = (np.asarray(params[name][leaf]) for leaf in ("kernel", "bias"))
        total = np.stack([np.full(y.shape[1:], b, np.float64) for b in bias])
        for source, target in np.ndindex(kernel.shape[2:]):
            weights = kernel[..., source, target] / np.sqrt(9 * len(y))
            total[target] += correlate(y[source], weights, mode="constant")
        y = total
    expected = x + rearrange(y, "(p q c) h w -> 1 (h p) (w q) c", p=p, q=p)
    got = jax.jit(model.apply)({"params": params}, x)
    assert_close(got, expected, 1e-5)

    half = Refinement(5, jnp.bfloat16).apply({"params": params}, 0 * x)
    assert np.any(half != half.astype(jnp.bfloat16))  # the last of the three is float32

    moved = x.copy()
    moved[0, side // 2, side // 2] += 1
    change = np.abs(jax.jit(model.apply)({"params": params}, moved) - got)
    assert np.count_nonzero(change.sum((0, 2, 3))) == reach


def test_null_class_is_one_more_label():
    model, null = DiT(**SMALL), DiT(**SMALL, null_class=True)
    noise, _, cfg_scale, styles = example_inputs(model)
    # With num_classes 3: a class, the null class, and no class at all.
    labels = jnp.array([0, 3, 4], jnp.int32)
    params = random_params(null)
    rows = params["conditioning"]["class_embedding"]
    assert rows.shape == (4, 8)
    samples = sample(null, params, noise, labels, cfg_scale, styles)
    assert np.isfinite(samples[:2]).all() and np.isnan(samples[2]).all()

    params = params | {"conditioning": params["conditioning"] | {"class_embedding": rows[:3]}}
    without = sample(model, params, noise, labels, cfg_scale, styles)
    assert_close(without[0], samples[0], 1e-6)
    assert np.isnan(without[1:]).all()


def test_style_draw_is_uniform():
    model = DiT(**SMALL)
    styles = draw_style_indices(model, jax.random.key(0), 5000)
    assert styles.shape == (5000, 2) and styles.dtype == jnp.int32
    counts = np.stack([np.bincount(column, minlength=5) for column in np.asarray(styles).T])
    assert counts.shape == (2, 5)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(5000 * 0.2 * 0.8)
    assert (draw_style_indices(model.clone(noise_classes=0), jax.random.key(0), 7) == 0).all()


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (GOLDEN / "official_specs").glob("gen_*.json"))
)
def test_parameter_counts_of_the_published_sizes(name):
    spec = json.loads((GOLDEN / "official_specs" / f"{name}.json").read_text())
    config = {k: v for k, v in spec["model_config"].items() if k != "use_remat"}
    model = DiT(num_classes=spec["num_classes"], **config)
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    assert count_parameters(params) == spec["num_params"]


# ---- mistakes ----


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(patch_size=3), "patch_size 3"),
        (dict(input_size=(8, 10)), "input_size (8, 10)"),
        (dict(num_heads=3), "num_heads 3"),
        (dict(hidden_size=18), "hidden_size 18"),
        (dict(num_heads=16), "even head width"),
        (dict(depth=0), "depth is 0"),
        (dict(noise_coords=0), "noise_coords is 0"),
        (dict(noise_classes=-1), "noise_classes is -1"),
        (dict(attention="flash"), "'flash'"),
        (dict(attention="cudnn"), "use_bf16"),
        (dict(attention="cudnn", use_bf16=True, attn_fp32=False, num_heads=4), "multiple of 8"),
    ],
)
def test_contradicting_fields(change, words):
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        DiT(**SMALL | change)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "position, value, words",
    [
        (
            0,
            np.zeros((3, 10, 10, 2), np.float32),
            "noise has shape (3, 10, 10, 2), but this DiT expects (3, 8, 8, 2)",
        ),
        (0, np.zeros((3, 8, 8, 2), np.int32), "noise is int32"),
        (0, np.float32(0), "noise has shape ()"),
        (1, np.zeros((3,), np.float32), "labels is float32"),
        (1, np.zeros((3, 1), np.int32), "labels has shape (3, 1)"),
        (2, np.ones((2,), np.float32), "cfg_scale has shape (2,)"),
        (2, np.ones((3,), np.int32), "cfg_scale is int32"),
        (
            3,
            np.zeros((3, 4), np.int32),
            "style_indices has shape (3, 4), but this DiT expects (3, 2)",
        ),
    ],
)
def test_wrong_inputs(position, value, words):
    model = DiT(**SMALL)
    inputs = list(example_inputs(model))
    inputs[position] = value
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        check_inputs(model, *inputs)
    assert words in str(error.value)


def test_call_checks_its_inputs():
    model = DiT(**SMALL)
    noise, labels, cfg_scale, styles = example_inputs(model)
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))

    def apply(params):
        return model.apply({"params": params}, noise[:, :4], labels, cfg_scale, styles)

    with pytest.raises(UserError, match="noise has shape"):
        jax.eval_shape(apply, params)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="cudnn works on this device")
def test_cudnn_needs_a_gpu():
    model = DiT(**SMALL | dict(use_bf16=True, attn_fp32=False, attention="cudnn"))
    with pytest.raises(UserError, match="needs a GPU"):
        check_inputs(model, *example_inputs(model))


# ---- the MLP ----


def numpy_mlp(params, noise, cond):
    """The MLP generator written out, one block after another."""

    def linear(p, x):
        return x @ p["kernel"] + p["bias"]

    def silu(x):
        return x / (1 + np.exp(-x))

    def norm(p, x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"]

    x = linear(params["noise_embedding"], noise)
    for i in range(len(params["blocks"]["norm"]["scale"])):
        block = jax.tree.map(operator.itemgetter(i), params["blocks"])
        shift, scale, gate = np.split(linear(block["modulation"], silu(cond)), 3, axis=-1)
        h = norm(block["norm"], x) * (1 + scale) + shift
        x = x + gate * linear(block["down"], silu(linear(block["up"], h)))
    shift, scale = np.split(linear(params["output"]["modulation"], silu(cond)), 2, axis=-1)
    x = norm(params["output"]["norm"], x) * (1 + scale) + shift
    return linear(params["output"]["linear"], x)


@pytest.mark.parametrize("shape", [(2,), (4, 3, 2)])
def test_mlp_against_numpy(shape):
    model = MLPGenerator(**SMALL_MLP | dict(sample_shape=shape))
    params = random_params(model)
    noise, *conditions = example_inputs(model)
    conditioning = Conditioning(
        model.cond_dim, model.num_classes, model.noise_classes, model.noise_coords, False
    )
    cond = conditioning.apply({"params": params["conditioning"]}, *conditions)
    samples = sample(model, params, noise, *conditions)
    assert samples.dtype == jnp.float32
    params = jax.tree.map(np.asarray, params)
    expected = numpy_mlp(params, np.asarray(noise).reshape(3, -1), np.asarray(cond))
    assert_close(samples, expected.reshape(3, *shape))


def test_mlp_rejects_wrong_shapes():
    with pytest.raises(UserError, match="sample_shape"):
        MLPGenerator(**SMALL_MLP | dict(sample_shape=()))
    model = MLPGenerator(**SMALL_MLP)
    noise, *rest = example_inputs(model)
    with pytest.raises(UserError, match="MLPGenerator expects"):
        check_inputs(model, noise[:, :1], *rest)
