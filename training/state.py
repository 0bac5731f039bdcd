"""The state of a training on the devices, and as the items of a checkpoint."""

from collections.abc import Callable
from typing import Any

import jax

from drifting.averages import POWER
from drifting.state import TrainState
from utils import compiler, sharding


def state_shapes(
    mesh: jax.sharding.Mesh, first_state: Callable[..., TrainState], *given: Any
) -> TrainState:
    """Returns what `make_state` would make, as shapes, dtypes and shardings; nothing is computed.

    Large arrays of parameters, of the optimiser and of the averages are split over the mesh axis
    "fsdp" (utils/sharding.py). The parameters of a learned field are small and stay whole.
    """
    state = jax.eval_shape(first_state, *given)
    shardings = sharding.state_shardings(mesh, state)
    whole = jax.tree.map(lambda _: sharding.replicated(mesh), state.field)
    return sharding.shapes_with_shardings(state, shardings.replace(field=whole))


def make_state(
    mesh: jax.sharding.Mesh, first_state: Callable[..., TrainState], *given: Any
) -> TrainState:
    """Returns the state before the first step, on the mesh.

    Args:
        mesh: the devices, with axes "data" and "fsdp".
        first_state: makes the state. It is compiled, so that each device computes its part alone.
        given: arrays that it takes, if any, such as the parameters to start from.
    """
    shardings = shardings_of(state_shapes(mesh, first_state, *given))
    return jax.jit(first_state, out_shardings=shardings)(*given)


def jit_step_of_run(
    step: Callable, mesh: jax.sharding.Mesh, state: TrainState, bank: Any = None
) -> Callable:
    """Returns the jitted step for the devices of a run; its first call compiles it.

    Args:
        step: (state, ...) -> (state, metrics), or (state, bank, ...) -> (state, bank, metrics).
            State and bank are donated: their memory is used for the new ones.
        mesh: the devices.
        state: shapes and shardings, as `state_shapes` returns them.
        bank: its shapes and shardings, if the step takes one.
    """
    returned = [shardings_of(state)]
    if bank is not None:
        returned.append(shardings_of(bank))
    return jax.jit(
        step,
        donate_argnums=tuple(range(len(returned))),
        compiler_options=compiler.options(mesh),
        out_shardings=(*returned, sharding.replicated(mesh)),
    )


def shardings_of(shapes: Any) -> Any:
    """Returns the shardings of a tree of arrays or shapes."""
    return jax.tree.map(lambda array: array.sharding, shapes)


# ---- in a checkpoint ----

AVERAGE = "ema_"  # an item for each average of the parameters, such as "ema_0.999"


def to_items(state: TrainState) -> dict[str, Any]:
    """Returns the state as the items of a checkpoint, each of which can be read on its own.

    Sampling and evaluation read a single one: "params" or one of the averages.
    """
    items = {
        "state": {"step": state.step, "seed": state.seed},
        "params": state.params,
        "opt_state": state.opt_state,
    }
    for decay, average in state.ema.items():
        items[AVERAGE + decay] = average
    if state.field:
        items["field"] = state.field
    if state.balance:
        items["balance"] = state.balance
    return items


def snapshot_items(state: TrainState) -> dict[str, Any]:
    """Returns the items of a snapshot: the power-function averages."""
    return {AVERAGE + name: tree for name, tree in state.ema.items() if name.startswith(POWER)}


def from_items(items: dict[str, Any]) -> TrainState:
    """Returns the state whose items these are; the inverse of `to_items`."""
    averages = {
        name.removeprefix(AVERAGE): item for name, item in items.items() if name.startswith(AVERAGE)
    }
    return TrainState(
        step=items["state"]["step"],
        seed=items["state"]["seed"],
        params=items["params"],
        opt_state=items["opt_state"],
        ema=averages,
        field=items.get("field"),
        balance=items.get("balance"),
    )
