"""Frozen parameters in the dtype of their use: the same features to the bit, half the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weight_rule import tiny_mae

from models import encoders, mae
from models.narrow import narrow
from models.standin import load_shapes

HALF, WHOLE = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)


def cast(a):
    return a.astype(jnp.bfloat16)


def every_use(p, x):
    """A program with one parameter for each way to use one, see `USES`."""
    x = jax.jit(lambda w, x: cast(w) * x)(p["called"], x)
    add = jax.checkpoint(lambda w, x: cast(w) + x)
    x, _ = jax.lax.scan(lambda x, w: (add(w, x), None), x, p["scanned"])
    jax.lax.scan(lambda c, i: (i.astype(jnp.float32), cast(c)), p["carried"], jnp.zeros(3))
    x = x + cast(p["cast"]) + cast(p["both"]) + p["both"] + p["plain"]
    x = x + p["other"].astype(jnp.float16)
    looped = jax.lax.while_loop(lambda w: False, cast, p["half"])
    return x, p["passed"], cast(p["passed"]), looped


# The parameters of `every_use`, and the dtype that each should get.
USES = {
    "called": HALF,  # cast in an inner program
    "scanned": HALF,  # cast in a loop, one slice in each turn
    "cast": HALF,
    "half": HALF,  # bfloat16 already
    "carried": WHOLE,  # the state of a loop keeps its dtype
    "both": WHOLE,  # cast, and used as it is
    "plain": WHOLE,
    "other": WHOLE,  # cast to another dtype
    "passed": WHOLE,  # returned as it is
    "unused": WHOLE,
}


def test_only_what_is_cast_and_used_in_no_other_way():
    params = dict.fromkeys(USES, jnp.float32(1.1))
    params |= {"scanned": jnp.linspace(1, 2, 3), "half": cast(jnp.float32(2))}
    narrowed = narrow(every_use, params, cast(jnp.float32(3)))
    assert {name: leaf.dtype for name, leaf in narrowed.items()} == USES


@pytest.mark.parametrize("use_bf16", [True, False])
def test_features_are_the_same_bits(use_bf16):
    model = tiny_mae(use_bf16=use_bf16)

    def encode(params, x):
        return model.apply({"params": params}, x, method="maps")

    first = jax.jit(lambda: mae.init_mae_params(model))()
    params = jax.tree.map(np.asarray, encoders.used_params(first))
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
    narrowed = narrow(encode, params, x)
    dtypes = {path[-1].key: a.dtype for path, a in jax.tree_util.tree_leaves_with_path(narrowed)}
    assert dtypes == {"kernel": HALF if use_bf16 else WHOLE, "bias": WHOLE, "scale": WHOLE}
    features, expected = jax.jit(encode)(narrowed, x), jax.jit(encode)(params, x)
    jax.tree.map(np.testing.assert_array_equal, features, expected)


def test_published_encoder():
    """The 640-wide MAE, which computes in bfloat16: 7.9 GiB of parameters, 4.0 as they are used."""
    encode, params, _ = load_shapes("mae:hf://mae_latent_640")
    narrowed = narrow(encode, params, jax.ShapeDtypeStruct((1, 32, 32, 4), np.float32))
    assert (gibibytes(params), gibibytes(narrowed)) == (7.9, 4.0)


def gibibytes(tree):
    return round(sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree)) / 2**30, 1)
