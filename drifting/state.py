"""What a training run carries from step to step, and its named randomness."""

import zlib
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from drifting.averages import POWER, step_rate, width_of


class TrainState(flax.struct.PyTreeNode):
    """The state of a training run between two steps."""

    step: jax.Array  # int32: steps taken so far
    seed: jax.Array  # uint32: the root of all randomness
    params: Any  # of the generator
    opt_state: Any  # of the optimiser
    ema: dict[str, Any]  # {"0.999" or "power_0.05": averages of the parameters, float32, ...}
    field: Any = None  # what the field keeps from step to step (memory.py), or None
    balance: Any = None  # the sizes of encoders in balance (battery.py), or None


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    ema_decays: Sequence[float | str],
    seed: int,
    field: Any = None,
    balance: Any = None,
) -> TrainState:
    """Returns the state before the first step.

    Args:
        params: the generator's parameters; the averages start from them.
        optimizer: the optax transformation that will update them.
        ema_decays: decays in (0, 1) of the averages, all of which are kept at once (A.8),
            and names of power-function averages (averages.py).
        seed: the root of all randomness.
        field: of a field that keeps something, as the `init` of its memory returns it.
        balance: of encoders in balance, as `Battery.init` returns it.
    """
    ema = {str(decay): jax.tree.map(jnp.copy, params) for decay in ema_decays}
    step, seed_array = jnp.int32(0), jnp.uint32(seed)
    opt_state = optimizer.init(params)
    return TrainState(step, seed_array, params, opt_state, ema, field, balance)


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


def update_ema(ema: dict[str, Any], params: Any, step: jax.typing.ArrayLike = 0) -> dict[str, Any]:
    """Moves each average towards the parameters: e <- d e + (1 - d) params, for every decay d.

    step: the steps taken, this one included; power-function averages alone need it.
    """

    def move(average, name):
        if name.startswith(POWER):
            rate = step_rate(width_of(name), step)
        else:
            rate = 1 - float(name)
        return jax.tree.map(lambda e, p: e + rate * (p - e), average, params)

    return {name: move(average, name) for name, average in ema.items()}
