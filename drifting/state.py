"""What a training run carries from step to step, and its named randomness."""

import zlib
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


class TrainState(flax.struct.PyTreeNode):
    """The state of a training run between two steps."""

    step: jax.Array  # int32: steps taken so far
    seed: jax.Array  # uint32: the root of all randomness
    params: Any  # of the generator
    opt_state: Any  # of the optimiser
    ema: dict[str, Any]  # {"0.999": averages of the parameters, float32, ...}
    field: Any = None  # what the field keeps from step to step (memory.py), or None


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    ema_decays: Sequence[float],
    seed: int,
    field: Any = None,
) -> TrainState:
    """Returns the state before the first step.

    Args:
        params: the generator's parameters; the averages start from them.
        optimizer: the optax transformation that will update them.
        ema_decays: decays in (0, 1) of the averages, all of which are kept at once (A.8).
        seed: the root of all randomness.
        field: of a field that keeps something, as the `init` of its memory returns it.
    """
    ema = {str(decay): jax.tree.map(jnp.copy, params) for decay in ema_decays}
    step, seed_array = jnp.int32(0), jnp.uint32(seed)
    return TrainState(step, seed_array, params, optimizer.init(params), ema, field)


def named_key(seed, name: str, step: jax.typing.ArrayLike = 0) -> jax.Array:
    """Returns the random key of one purpose at one step.

    It does not depend on how many other keys were drawn before, so adding a use of randomness
    changes no other.
    """
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(key, step)


def named_keys(seed, names: Sequence[str], step) -> dict[str, jax.Array]:
    """Returns {name: named_key(seed, name, step)}, computed together.

    Drawn alone, each key would add a program of its own to the compiled step.
    """
    root = jax.random.key(seed)
    checksums = jnp.array([zlib.crc32(name.encode()) for name in names], jnp.uint32)
    of_purpose = jax.vmap(jax.random.fold_in, (None, 0))(root, checksums)
    of_step = jax.vmap(jax.random.fold_in, (0, None))(of_purpose, step)
    return dict(zip(names, of_step, strict=True))


def update_ema(ema: dict[str, Any], params: Any) -> dict[str, Any]:
    """Moves each average towards the parameters: e <- d e + (1 - d) params, for every decay d."""

    def move(average, decay):
        return jax.tree.map(lambda e, p: e + (1 - float(decay)) * (p - e), average, params)

    return {decay: move(average, decay) for decay, average in ema.items()}
