"""The attention kernel for TPUs, interpreted on the CPU, against the attention of JAX."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models.dit import Attention, DiT, kernel_of_device
from models.positions import rope_rotation
from tests.test_dit import SMALL
from tests.test_train import DIT, parts_of
from training import drift
from utils import sharding
from utils.errors import UserError
from utils.flops import matmul_flops

TOKENS = 9  # no multiple of what a TPU likes


def attention(kernel, heads, dtype, qk_norm=True):
    return Attention(heads, qk_norm, dtype == jnp.float32, kernel, dtype)


def inputs(width, heads, dtype, samples=2, tokens=TOKENS):
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (samples, tokens, width)).astype(dtype)
    return x, jax.random.normal(keys[1], x.shape)


def parameters(heads, x, rotation, qk_norm=True):
    """Returns parameters of attention, with scales of the norms that are not one."""
    params = attention("xla", heads, jnp.float32, qk_norm).init(jax.random.key(1), x, rotation)
    noise = iter(jax.random.split(jax.random.key(2), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda p: p + 0.3 * jax.random.normal(next(noise), p.shape), params)


def assert_close(ours, theirs, tolerance):
    """Compares trees of arrays, each in units of its largest number."""
    for our, their in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        our, their = np.asarray(our, np.float32), np.asarray(their, np.float32)
        np.testing.assert_allclose(our, their, rtol=0, atol=tolerance * np.abs(their).max())


@pytest.mark.parametrize(
    ("tokens", "width", "heads", "dtype", "rope_and_norm", "tolerance"),
    [
        # ImageNet's 256 patches and 16 context tokens, in two groups of two heads.
        (272, 256, 4, jnp.float32, True, 1e-5),
        (TOKENS, 128, 1, jnp.float32, False, 1e-5),  # a head as wide as a group
        (TOKENS, 256, 4, jnp.bfloat16, True, 1e-2),
    ],
)
def test_values_and_gradients_are_those_of_jax(
    tokens, width, heads, dtype, rope_and_norm, tolerance
):
    x, gradient = inputs(width, heads, dtype, tokens=tokens)
    rotation = rope_rotation(tokens, width // heads) if rope_and_norm else None
    params = parameters(heads, x, rotation, rope_and_norm)

    def of_kernel(kernel):
        module = attention(kernel, heads, dtype, rope_and_norm)

        def inner_product(params, x):
            return jnp.sum(module.apply(params, x, rotation).astype(jnp.float32) * gradient)

        return jax.jit(jax.value_and_grad(inner_product, (0, 1)))(params, x)

    assert_close(of_kernel("pallas"), of_kernel("xla"), tolerance)


def test_each_device_does_its_own_samples():
    """The samples stay on their devices, and the gradient of the scales is that of all of them."""
    mesh = sharding.make_mesh(4, fsdp=2)
    spread = sharding.MeshLayout(mesh, ("data",), ("fsdp",)).rows_sharding
    x, _ = inputs(128, 2, jnp.float32, samples=4)
    params = parameters(2, x, None)
    module = attention("pallas", 2, jnp.float32)

    def plain_loss(params, x):
        return jnp.sum(jnp.square(module.apply(params, x, None)))

    def loss(params, x):
        with sharding.samples_divided(spread):
            return plain_loss(params, x)

    divided = jax.jit(jax.grad(loss), in_shardings=(sharding.replicated(mesh), spread))
    compiled = divided.lower(params, x).compile()
    assert "all-gather" not in compiled.as_text()
    assert_close(
        compiled(params, jax.device_put(x, spread)), jax.jit(jax.grad(plain_loss))(params, x), 1e-5
    )


CPU = types.SimpleNamespace(device_kind="cpu")
V4 = types.SimpleNamespace(device_kind="TPU v4")
V6E = types.SimpleNamespace(device_kind="TPU v6 lite")
H100 = types.SimpleNamespace(device_kind="NVIDIA H100", compute_capability="9.0")
V100 = types.SimpleNamespace(device_kind="Tesla V100", compute_capability="7.0")
MI300 = types.SimpleNamespace(device_kind="AMD Instinct MI300X", compute_capability="gfx942")


@pytest.mark.parametrize(
    "device, tokens, width, heads, dtype, kernel",
    [
        (V6E, 272, 768, 12, jnp.float32, "pallas"),
        (V6E, 272, 192, 2, jnp.float32, "xla"),  # not a multiple of 128
        (V6E, 1024, 768, 12, jnp.float32, "xla"),  # too large for the chip's memory
        (V4, 272, 768, 12, jnp.float32, "xla"),
        (H100, 272, 768, 12, jnp.bfloat16, "cudnn"),
        (H100, 272, 768, 12, jnp.float32, "xla"),
        (H100, 272, 512, 2, jnp.bfloat16, "xla"),  # heads of 256
        (H100, 272, 720, 12, jnp.bfloat16, "xla"),  # heads of 60
        (V100, 272, 768, 12, jnp.bfloat16, "xla"),
        (MI300, 272, 768, 12, jnp.bfloat16, "xla"),
        (CPU, 272, 768, 12, jnp.bfloat16, "xla"),
    ],
)
def test_auto_takes_the_kernel_of_the_device(device, tokens, width, heads, dtype, kernel):
    assert kernel_of_device(device, tokens, width, heads, dtype) == kernel


@pytest.mark.parametrize(
    "asked, words",
    [
        ("auto", "xla, which auto takes here (cpu); --model.attention cudnn or pallas asks for"),
        ("pallas", "pallas, as --model.attention asks"),
    ],
)
def test_a_dry_run_says_the_kernel(asked, words):
    wide = DIT | {"model.attention": asked, "model.hidden_size": 128}
    parts = parts_of(wide)
    report = drift.DriftJob.report(parts)
    (row,) = [line for line in report.splitlines() if line.startswith("attention")]
    assert words in row
    assert "attention" not in drift.DriftJob.report(parts_of({"model.name": "mlp"}))


def test_the_kernel_of_a_model_is_that_of_its_sequence():
    """16 context tokens and 256 patches are the 272 of ImageNet; 1,024 patches are too many."""
    sizes = dict(n_cls_tokens=16, input_size=32, patch_size=2, hidden_size=768, num_heads=12)
    model = DiT(**SMALL | sizes | dict(attention="auto"))
    assert model.kernel_on(V6E) == "pallas" and model.kernel_on(H100) == "xla"
    bf16 = dict(use_bf16=True, attn_fp32=False)
    assert model.clone(**bf16).kernel_on(H100) == "cudnn"
    assert model.clone(patch_size=1).kernel_on(V6E) == "xla"
    assert model.clone(attention="xla").kernel_on(V6E) == "xla"


def test_auto_asks_the_devices_of_the_samples():
    """They are not always the first ones that JAX names: a planned step's are not even here."""
    other = jax.devices()[1]
    x, _ = inputs(128, 2, jnp.float32)
    params = parameters(2, x, None)

    def program(kernel):
        return str(jax.make_jaxpr(attention(kernel, 2, jnp.float32).apply)(params, x, None))

    with sharding.samples_divided(NamedSharding(Mesh(np.array([other]), "data"), P("data"))):
        assert sharding.device_of_samples() == other
        assert program("auto") == program("xla")
    assert sharding.device_of_samples() == jax.devices()[0]


def test_the_products_in_a_kernel_count():
    """Two products over all tokens for each head, whose lanes are those of its group."""
    x, _ = inputs(128, 2, jnp.float32, samples=3)
    params = parameters(2, x, None)

    def flops(kernel):
        module = attention(kernel, 2, jnp.float32)
        return matmul_flops(jax.make_jaxpr(module.apply)(params, x, None))

    assert flops("pallas") - flops("xla") == 3 * 2 * TOKENS**2 * 128 * 2


def test_a_width_that_does_not_fit_is_said():
    with pytest.raises(UserError, match='"pallas" takes heads whose width'):
        DiT(**SMALL | dict(attention="pallas", hidden_size=192, num_heads=2))
