"""What a training run carries from step to step, and its named randomness."""

import zlib
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class TrainState:
    """step: int32, steps taken. seed: uint32, the root of all randomness. ema: {"0.999": params, ...}, float32 averages of the parameters. field: of a learned field, or None."""

    step: jax.Array
    seed: jax.Array
    params: Any
    opt_state: Any
    ema: dict[str, Any]
    field: Any = None


def init_state(params, optimizer, ema_decays, seed, field=None) -> TrainState:
    """State before the first step. ema_decays: decays in (0, 1), all kept at once (A.8); the averages start at the parameters. field: of `learned.init_field_state`."""
    ema = {str(decay): jax.tree.map(jnp.copy, params) for decay in ema_decays}
    return TrainState(jnp.int32(0), jnp.uint32(seed), params, optimizer.init(params), ema, field)


def named_key(seed, name: str, step=0):
    """The key of one purpose at one step: nothing depends on how many other keys were drawn before it."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(key, step)


def named_keys(seed, names, step) -> dict[str, jax.Array]:
    """{name: named_key(seed, name, step)}, computed together: alone, each would be a program of its own."""
    purposes = jax.vmap(lambda crc: jax.random.fold_in(jax.random.key(seed), crc))(
        jnp.array([zlib.crc32(name.encode()) for name in names], jnp.uint32)
    )
    return dict(zip(names, jax.vmap(lambda key: jax.random.fold_in(key, step))(purposes)))


def update_ema(ema, params):
    """e <- d e + (1 - d) params for every decay d."""
    return {
        d: jax.tree.map(lambda e, p: e + (1 - float(d)) * (p - e), tree, params)
        for d, tree in ema.items()
    }
