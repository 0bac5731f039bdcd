"""Data sets behind one contract: `data.load(name)`. A new source is one file with a `load(name, split, options)`, the options that it has
no use for in WITHOUT, and one line in SOURCES or SCHEMES."""

import dataclasses
import importlib
import logging
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np

from configs.default import TABLE
from utils.errors import UserError
from utils.words import did_you_mean

log = logging.getLogger(__name__)

HUB = (
    "mnist",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "tiny_imagenet",
    "imagenet64",
    "imagenet256",
    "celebahq256",
)
SOURCES = {"digits": "data.digits"} | dict.fromkeys(HUB, "data.huggingface")
SCHEMES = {
    "folder": "data.folder",
    "hf": "data.huggingface",
    "tfds": "data.tfds",
    "latents": "data.latents",
}
EXAMPLES = "folder:/path, hf:owner/name, hf:/path, tfds:name, tfds:/path, latents:/path"
HELD_OUT = (
    "test",
    "val",
    "validation",
    "valid",
)  # what a held-out split is called, in the order of preference


class RandomAccess(Protocol):
    """Samples by index: `source[i] -> {"image": [H,W,C] uint8 (or float32 latent), "label": int}`. Raises `data.images.Corrupt` for one that cannot be read."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict: ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of a data set.

    name: as given on the command line. split: what is in `samples`; "train" when "test" was asked for where nothing is held out.
    shape: (H, W, C) of a sample. dtype: "uint8" (pixels, [0, 255]) or "float32" (scaled latents).
    class_names: one per class, in label order; a set without labels has one class. counts: samples per class, None where they are not known without reading everything.
    augment: (sample, generator) -> sample, applied to each sample drawn, or None. max_corrupt: share of samples that may be unreadable.
    latents: of a set of latents, what they encode: `dataset`, its `split` and `data` options, `image_shape`, and the `vae` with its `vae_weights`; None for pixels.
    order: (source, seed, first position, ranks) -> samples by position, of a set that is read in an order of its own; None = any order will do.
    """

    name: str
    split: str
    samples: RandomAccess
    shape: tuple[int, int, int]
    dtype: str
    class_names: tuple[str, ...]
    counts: tuple[int, ...] | None = None
    augment: Callable[[dict, np.random.Generator], dict] | None = None
    max_corrupt: float = 0.0
    latents: dict | None = None
    order: Callable | None = None

    @property
    def n_classes(self) -> int:
        return len(self.class_names)


def load(
    name: str, split: str = "train", options: Mapping | None = None, facts_only: bool = False
) -> Dataset:
    """A split of the data set `name`: a key of SOURCES, or one of SCHEMES and a place (EXAMPLES).

    split: "train", "test" (what is held out, whatever the set calls it), or a name of the set's own. options: the group `data` of a configuration, None = the defaults.
    facts_only: nothing is read where the facts are known without; the source of such a data set cannot be indexed.
    Raises UserError for an unknown name, a missing split or column, and a set that cannot be reached.
    """
    module = _module(name)
    defaults = {
        key.name.removeprefix("data."): key.default for key in TABLE if key.name.startswith("data.")
    }
    options = types.SimpleNamespace(**defaults | dict(options or {}))
    if options.streaming and module.__name__ != "data.huggingface":
        raise UserError(
            f"--data.streaming 1: {name} is read where it lies; streaming is for the Hugging Face hub and parquet files, leave it out"
        )
    for key in getattr(module, "WITHOUT", ()):
        if getattr(options, key) != defaults[key]:
            raise UserError(
                f"--data.{key} {getattr(options, key)}: {name} has no use for it; leave it out"
            )
    if facts_only and hasattr(module, "facts") and (known := module.facts(name, split, options)):
        return known
    return module.load(name, split, options)


def one_class(name: str, options) -> bool:
    """Whether --data.label_column none asks for a set without labels, of a source without columns."""
    if options.label_column not in ("", "none"):
        raise UserError(
            f"--data.label_column {options.label_column}: {name} has no columns; give none for one class, or leave it out"
        )
    return options.label_column == "none"


def origin(name: str, options: Mapping | None = None) -> tuple[str, Mapping | None]:
    """(name, options) of the data set whose images the latents of `name` encode; any other set is its own."""
    module = _module(name)
    return module.origin(name) if hasattr(module, "origin") else (name, options)


def _module(name: str):
    scheme, colon, place = name.partition(":")
    if colon and scheme in SCHEMES and place:
        return importlib.import_module(SCHEMES[scheme])
    if name in SOURCES:
        return importlib.import_module(SOURCES[name])
    raise UserError(
        f"--dataset_name {name}: unknown data set{did_you_mean(name, SOURCES)} (known: {', '.join(SOURCES)}, {EXAMPLES})"
    )


def choose_split(
    name: str, names: Iterable[str], split: str, known: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """(the set's own name of a split, the split that it really is): "test" is whatever is held out, or else the training split, with a warning.

    names: of the splits there are. known: what this set calls "train" and "test". Raises UserError when there is no such split.
    """
    names, known = list(names), known or {}
    if split == "train":
        wanted = [known.get("train", "train"), *(names if len(names) == 1 else ())]
    elif split == "test":
        # Without the card of a set, the library `datasets` calls files named valid "validation".
        wanted = (
            [known["test"], *(["validation"] if known["test"] == "valid" else []), *HELD_OUT]
            if known
            else HELD_OUT
        )
    else:
        wanted = [split]
    for candidate in wanted:
        if candidate in names:
            return candidate, split
    if split == "test":
        log.warning(
            "%s has no held-out split (%s): the training split stands in for it",
            name,
            ", ".join(HELD_OUT),
        )
        return choose_split(name, names, "train", known)[0], "train"
    raise UserError(
        f"--data.split {split}: {name} has no such split{did_you_mean(split, names)} (it has {', '.join(names)})"
    )
