"""What every reader returns: a split of a data set, its samples and what is known of them."""

import dataclasses
import types
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

# The settings `data.*` of a configuration as attributes: options.image_size, options.dir, ...
Options = types.SimpleNamespace


class Samples(Protocol):
    """Samples by index.

    `samples[i]` is `{"image": array, "label": int}`. The array is [H,W,C]: uint8 pixels in
    [0, 255], or float32 latents. It raises `data.images.Corrupt` for a sample that cannot be read.
    Worker processes (--data.workers) pickle the object.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of a data set.

    Attributes:
        name: As given on the command line.
        split: What is in `samples`. It is "train" when "test" was asked for and nothing is held
            out.
        samples: The samples, by index.
        shape: (H, W, C) of a sample after `augment`.
        dtype: "uint8" for pixels in [0, 255], "float32" for scaled latents.
        class_names: One per class, in the order of the labels. A set without labels has one class.
        counts: Samples per class; None where they are not known without reading everything.
        augment: Applied to each sample that is drawn: (sample, generator) -> sample. None for
            nothing.
        max_corrupt: The part of the samples, in [0, 1], that may be unreadable.
        latents: Of a set of latents, what they encode: `dataset`, its `split` and `data` options,
            its `image_shape`, the `vae` and the checksum of its weights, `vae_weights`. None for
            pixels.
        order: Of a set that has to be read in an order of its own (streaming): (samples, seed,
            first position, number of processes) -> samples by position of the endless stream.
            None where any order will do.
        conditions: [S, E] float32, a vector of each sample, from which it is generated in the place
            of a class. There is one class then. None for classes.
    """

    name: str
    split: str
    samples: Samples
    shape: tuple[int, int, int]
    dtype: str
    class_names: tuple[str, ...]
    counts: tuple[int, ...] | None = None
    augment: Callable[[dict, np.random.Generator], dict] | None = None
    max_corrupt: float = 0.0
    latents: dict[str, Any] | None = None
    order: Callable[[Samples, int, int, int], Samples] | None = None
    conditions: np.ndarray | None = None

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def condition_width(self) -> int:
        """K, the numbers of a condition; 0 for classes."""
        return 0 if self.conditions is None else self.conditions.shape[1]
