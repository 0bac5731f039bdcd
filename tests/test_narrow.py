"""Frozen parameters in the type of their use: the same features, to the bit, from half the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import encoders, mae
from models.narrow import narrow
from models.standin import load_shapes

HALF, WHOLE = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)


def test_only_what_is_cast_and_used_in_no_other_way():
    cast = lambda a: a.astype(jnp.bfloat16)

    def f(p, x):
        x = jax.jit(lambda w, x: cast(w) * x)(p["called"], x)
        x, _ = jax.lax.scan(
            lambda x, w: (jax.checkpoint(lambda w, x: cast(w) + x)(w, x), None), x, p["scanned"]
        )
        jax.lax.scan(lambda c, i: (i.astype(jnp.float32), cast(c)), p["carried"], jnp.zeros(3))
        return (
            x
            + cast(p["cast"])
            + cast(p["both"])
            + p["both"]
            + p["plain"]
            + p["other"].astype(jnp.float16),
            p["passed"],
            cast(p["passed"]),
            jax.lax.while_loop(lambda w: False, cast, p["half"]),
        )

    p = dict.fromkeys(
        ("called", "cast", "both", "plain", "other", "passed", "unused", "carried"),
        jnp.float32(1.1),
    ) | {"scanned": jnp.linspace(1, 2, 3), "half": cast(jnp.float32(2))}
    types = {k: a.dtype for k, a in narrow(f, p, cast(jnp.float32(3))).items()}
    assert types == dict.fromkeys(p, WHOLE) | {
        "called": HALF,
        "cast": HALF,
        "scanned": HALF,
        "half": HALF,
    }


@pytest.mark.parametrize("of_bf16", [True, False])
def test_features_are_the_same_bits(of_bf16):
    model = mae.MAE(
        **dict(
            num_classes=10,
            in_channels=1,
            base_channels=8,
            patch_size=2,
            layers=(1, 1, 1, 1),
            input_patch_size=1,
            dropout_prob=0.0,
            use_bf16=of_bf16,
        )
    )
    params = jax.tree.map(np.asarray, encoders.only_used(mae.mae_params(model)))
    encode = lambda params, x: model.apply({"params": params}, x, method="maps")
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
    narrowed = narrow(encode, params, x)
    types = {path[-1].key: a.dtype for path, a in jax.tree_util.tree_leaves_with_path(narrowed)}
    assert types == {"kernel": HALF if of_bf16 else WHOLE, "bias": WHOLE, "scale": WHOLE}
    for a, b in zip(
        jax.tree.leaves(jax.jit(encode)(params, x)), jax.tree.leaves(jax.jit(encode)(narrowed, x))
    ):
        np.testing.assert_array_equal(a, b)


def test_published_encoder():
    """The 640-wide MAE, which computes in bfloat16: 7.9 GiB of parameters, 4.0 as they are kept."""
    encode, params, _ = load_shapes("mae:hf://mae_latent_640")
    size = lambda tree: sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree)) / 2**30
    narrowed = narrow(encode, params, jax.ShapeDtypeStruct((1, 32, 32, 4), np.float32))
    assert (round(size(params), 1), round(size(narrowed), 1)) == (7.9, 4.0)
