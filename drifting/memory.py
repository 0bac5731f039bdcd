"""What a discrepancy keeps from one step to the next.

Most fields keep nothing: V follows from the samples of the step alone. Others have something of
their own: a network (fields/learned.py), running moments (fields/frechet.py), or what all reals
attract with (fields/mmd.py). Temperatures may be learned (temperature.py). The step treats all
alike:

    seen                 the samples of a step, by their features
    look(state, seen)    -> what is observed in them, and what the field is told of each problem
    update(state, ...)   -> the state after the step

The state is a tree of arrays in `TrainState.field`. It is saved with the run and restored to the
bit, on any number of devices.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from drifting.layout import Layout


class Seen(NamedTuple):
    """What a memory sees of C classes of a step. Features have no gradient."""

    labels: jax.Array  # [C] int32, or conditions [C, E] float32
    gen: dict[str, jax.Array]  # {name: [C N, T, D]}, features of generated samples
    real: dict[str, jax.Array]  # {name: [C R, T, D]}, features of reals, the P positives last
    weight_pos: jax.Array  # [C, P], of the positives
    temperatures: Sequence[float] | jax.Array
    layout: Layout


class Recalled(NamedTuple):
    """Keyword arguments of the field, for the B problems of one width of feature."""

    shared: dict[str, Any] = {}  # the same for all problems
    each: dict[str, jax.Array] = {}  # [B, ...]
    each_tau: dict[str, jax.Array] = {}  # [B, tau, ...], another for each temperature


NOTHING_RECALLED = Recalled()

# Yields (features {name: [M, T, D]}, labels [M]) of all reals, as NumPy arrays.
Reals = Callable[[], Iterator[tuple[dict[str, np.ndarray], np.ndarray]]]


class Memory:
    """A memory that keeps nothing; the others override its methods.

    The attributes of a memory are flags --drift.* of the same names.
    """

    def init(self, key: jax.Array, sets: dict[str, Any], n_classes: int) -> Any:
        """Returns the state before the first step, or None for no state.

        Args:
            key: a random key.
            sets: {name: the shape [1, T, D] and dtype of a feature set}.
            n_classes: of the data set.
        """
        return None

    @property
    def knows_reals(self) -> bool:
        """Whether `fill` is to be called, before the first step and when encoder or data changed.

        The state is then a dict with a "checksum" of both, uint32, which is 0 before.
        """
        return False

    def fill(self, state: Any, reals: Reals) -> Any:
        """Returns the state with what it is to know of all real samples, computed on the host."""
        return state

    def look(self, state: Any, key: jax.Array, seen: Seen) -> tuple[Any, dict[str, Recalled]]:
        """Looks at the samples of C classes.

        Returns:
            What is observed, for `update`: a tree of floating-point arrays, of which the mean is
            taken where a step goes through its classes in groups. And what the field is told,
            {str(D): Recalled}, where a width may be missing.
        """
        return None, {}

    def adapt(self, field: Callable) -> Callable:
        """Returns the field with what this memory changes of it; most change nothing."""
        return field

    def update(
        self, state: Any, observed: Any, stats: Sequence[Any] = ()
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Returns the state after a step, and metrics.

        Args:
            state, observed: as above.
            stats: what the loss told, `drifting.loss.Stats` for each width of feature.
        """
        return state, {}

    def describe(self, state: Any) -> str:
        """Returns what the state is, in a few words, from its arrays or their shapes."""
        return ""


NOTHING = Memory()
