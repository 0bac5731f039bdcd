"""Where the samples of a step are on the devices.

The step never names a device. Wherever the place of a sample matters it calls one of five methods
of a layout, and `utils.sharding.MeshLayout` implements the same five for a mesh of many devices.
On one device there is nothing to move, so here they only change shapes.
"""

from typing import Any, Protocol

import jax
from einops import rearrange


class Layout(Protocol):
    """The five methods that the step calls. C: classes, N: generated samples of each class."""

    def groups(self, tree: Any) -> Any:
        """Arrays [K, C, ...], K groups of C classes: move each group's classes to their devices."""
        ...

    def classes(self, tree: Any) -> Any:
        """Arrays [C, ...]: make each class whole on the device (or devices) it belongs to."""
        ...

    def rows(self, tree: Any) -> Any:
        """Arrays [M, ...] of any samples: divide them evenly over all devices."""
        ...

    def merge(self, samples: jax.Array) -> jax.Array:
        """[C, N, ...] -> [C N, ...], in an order in which no sample leaves its device."""
        ...

    def split(self, samples: jax.Array, classes: int) -> jax.Array:
        """[C N, ...] -> [C, N, ...], the inverse of `merge`; classes is C."""
        ...


class OneDevice:
    """The layout of a step on a single device."""

    def groups(self, tree: Any) -> Any:
        return tree

    def classes(self, tree: Any) -> Any:
        return tree

    def rows(self, tree: Any) -> Any:
        return tree

    def merge(self, samples: jax.Array) -> jax.Array:
        return rearrange(samples, "c n ... -> (c n) ...")

    def split(self, samples: jax.Array, classes: int) -> jax.Array:
        return rearrange(samples, "(c n) ... -> c n ...", c=classes)


ONE_DEVICE = OneDevice()
