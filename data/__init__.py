"""Data sets behind one contract: `data.load(name)`. A new source is one file with a `load` and one line in SOURCES."""

import dataclasses
import difflib
import importlib
from typing import Protocol

from utils.errors import UserError

SOURCES = {"digits": "data.digits"}


class RandomAccess(Protocol):
    """Samples by index: `source[i] -> {"image": [H,W,C] uint8 (or float32 latent), "label": int}`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict: ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of a data set.

    name: as given on the command line. shape: (H, W, C) of a sample. dtype: "uint8" (pixels, [0, 255]) or "float32" (scaled latents).
    class_names: one per class, in label order; a set without labels has one class. counts: samples per class, where known without reading everything.
    """

    name: str
    split: str
    source: RandomAccess
    shape: tuple[int, int, int]
    dtype: str
    class_names: tuple[str, ...]
    counts: tuple[int, ...] | None = None

    @property
    def n_classes(self) -> int:
        return len(self.class_names)


def load(name: str, split: str = "train") -> Dataset:
    """The split "train" or "test" of the data set `name`, a key of SOURCES."""
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, 1)
        raise UserError(f"--dataset_name {name}: unknown data set{f'; did you mean {near[0]}?' if near else ''} (known: {', '.join(SOURCES)})")
    if split not in ("train", "test"):
        raise UserError(f"--data.split {split}: expected 'train' or 'test'.")
    return importlib.import_module(SOURCES[name]).load(name, split)
