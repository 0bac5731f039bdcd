"""Several encoders at once: what each adds to the loss, and their balance.

The loss of a step sums over feature sets. Each is normalised (A.6), so that
an encoder weighs as much as it has sets. In balance it is divided by its size,

    L      = sum_e w_e L_e / size_e
    m_e   <- b m_e + (1 - b) L_e
    size_e = m_e / (1 - b^t)

where L_e sums the losses of the sets of encoder e, without its weight w_e,
and m_e is a running mean over the t steps before. Each encoder then adds
about w_e to the loss.

The size is that of earlier steps. So it is a constant in the gradient, and one
number for all groups of a step (accumulate.py) and all devices.

There is a bound: each of T temperatures adds a V of mean square 1 at most, so
the loss of a set is at most T^2. The bound stands for the size before the first
step. A hundredth of it is the least size: below that V is at its floor, where
it is rounding, which is not to be magnified.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drifting.loss import Stats
from drifting.problems import by_width

DECAY = 0.99  # b
LEAST = 0.01  # of the bound


class Part(NamedTuple):
    """What one encoder has in a step."""

    loss: Float[Array, ""]  # L_e
    drift_sq_norm: Float[Array, ""]  # the mean of V^2 before normalisation


@dataclasses.dataclass(frozen=True)
class Battery:
    """The encoders of a step, where they are several."""

    names: tuple[str, ...] = ()  # () for a single encoder
    encoder_of: Callable[[str], str] = str  # from the name of a feature set
    is_balanced: bool = False

    def init(self) -> dict[str, jax.Array] | None:
        """Returns the running means before the first step; None without balance."""
        if not self.is_balanced:
            return None
        mean = jnp.zeros(len(self.names))
        return {"mean": mean, "weight": jnp.zeros(())}

    def factors(
        self,
        state: dict[str, jax.Array] | None,
        sets: Sequence[str],
        n_temperatures: int,
    ) -> dict[str, jax.Array]:
        """Returns {feature set: 1 / size of its encoder}; {} without balance.

        Args:
            state: the running means.
            sets: the names of all feature sets.
            n_temperatures: T.
        """
        if state is None:
            return {}
        owners = [self.encoder_of(name) for name in sets]
        counts = [owners.count(name) for name in self.names]
        bound = n_temperatures**2 * jnp.asarray(counts, jnp.float32)
        weight = state["weight"]
        mean = state["mean"] / jnp.maximum(weight, 1e-30)
        size = jnp.where(weight > 0, mean, bound)
        factor = 1 / jnp.maximum(size, LEAST * bound)
        of_encoder = dict(zip(self.names, factor, strict=True))
        return {name: of_encoder[self.encoder_of(name)] for name in sets}

    def parts(self, phi: dict[str, Any], stats: list[Stats]) -> dict[str, Part]:
        """Returns {encoder: its part} of a step; {} for a single encoder.

        Args:
            phi: the feature sets [M, T, D] by name.
            stats: what the loss tells of them, an entry for each width.
        """
        loss = {name: [] for name in self.names}
        square = {name: [] for name in self.names}
        if not self.names:
            return {}
        for sets, of_sets in zip(by_width(phi).values(), stats, strict=True):
            for i, name in enumerate(sets):
                encoder = self.encoder_of(name)
                loss[encoder].append(of_sets.loss[i])
                square[encoder].append(of_sets.drift_sq_norm[:, i])
        return {
            name: Part(jnp.sum(jnp.stack(loss[name])), jnp.mean(jnp.stack(square[name])))
            for name in self.names
        }

    def update(
        self, state: dict[str, jax.Array] | None, parts: dict[str, Part]
    ) -> dict[str, jax.Array] | None:
        """Returns the running means after a step."""
        if state is None:
            return None
        loss = jnp.stack([parts[name].loss for name in self.names])
        mean = DECAY * state["mean"] + (1 - DECAY) * loss
        weight = DECAY * state["weight"] + (1 - DECAY)
        return {"mean": mean, "weight": weight}


ONE_ENCODER = Battery()


def measure_parts(parts: dict[str, Part]) -> dict[str, jax.Array]:
    """Returns the metrics of each encoder.

    loss/ENCODER   L_e, without weight and balance
    drift/ENCODER  root mean square of V before its normalisation, over its
                   sets and all temperatures
    """
    metrics = {}
    for name, part in parts.items():
        metrics[f"loss/{name}"] = part.loss
        metrics[f"drift/{name}"] = jnp.sqrt(part.drift_sq_norm)
    return metrics
