"""Data sets behind one contract: `data.load(name)` gives a `Dataset`, wherever it is read from.

A reader is one file of this folder that knows one way to read data sets. To add a reader:

1. Write one file, such as `data/flowers.py`, with one function:

       def load(name: str, split: str, options: Options) -> Dataset

   `name` is what the user gave for --dataset_name. `split` is "train", "test", or a name of the
   set's own. `options` has the settings `data.*` of `configs/default.py` as attributes, such as
   `options.image_size`. What a user can mend (a missing file, an unknown split) is raised as
   `UserError`, in one line that says what to do.
2. Add one line: to SOURCES, for a set with a name of its own (--dataset_name flowers), or to
   SCHEMES, for sets anywhere (--dataset_name flowers:/path).

`data/digits.py` is the shortest example. `data.images.make_images` turns stored images of any kind
into samples of one shape, and `data.splits.choose_split` finds what is held out. A data set of the
Hugging Face hub needs no file: one entry in `data/hub_cards.py` gives it a short name.

A reader may also define:

    UNUSED_OPTIONS   names of the settings `data.*` that mean nothing to it: setting one is an error
    CAN_STREAM       True if it can read piece by piece (--data.streaming 1)
    TAKES_CONDITIONS True if it reads vectors beside the images (--data.condition_column)
    facts(name, split, options) -> Dataset | None
                     the same data set without reading anything, for --dry_run; its samples have a
                     length, but cannot be indexed; None where something has to be read
    origin(name) -> (name, options)
                     of a set that was made from another one (latents): that other set
"""

import importlib
import pathlib
import types
from collections.abc import Mapping
from typing import Any

from configs.default import TABLE
from data.dataset import Dataset, Options, Samples
from data.hub_cards import CARDS
from utils.errors import UserError
from utils.words import completed, did_you_mean

__all__ = ["HUB", "SCHEMES", "SOURCES", "Dataset", "Options", "Samples", "load", "origin"]

# Short names of data sets on the Hugging Face hub.
HUB = tuple(CARDS)

# --dataset_name NAME: the module that reads the set of this name.
SOURCES = {
    "digits": "data.digits",
    "mnist_5k": "data.mnist_5k",
} | dict.fromkeys(HUB, "data.huggingface")

# --dataset_name SCHEME:SOURCE: the module that reads sets from such sources.
SCHEMES = {
    "folder": "data.folder",
    "hf": "data.huggingface",
    "tfds": "data.tfds",
    "latents": "data.latents",
    "npz": "data.npz",
}
EXAMPLES = "folder:/path, hf:owner/name, hf:/path, tfds:name, tfds:/path, latents:/path, npz:/path"


def load(
    name: str,
    split: str = "train",
    options: Mapping[str, Any] | None = None,
    facts_only: bool = False,
) -> Dataset:
    """Returns one split of a data set.

    Args:
        name: A key of SOURCES, or one of SCHEMES followed by a source, as in EXAMPLES.
        split: "train"; "test", which is what is held out, whatever the set calls it; or a name of
            the set's own.
        options: The group `data` of a configuration; None for the defaults.
        facts_only: Read nothing where the shape, the classes and the number of samples are known
            without. The samples of such a data set cannot be indexed.

    Raises:
        UserError: For an unknown name, a missing split or column, an option without a use, and a
            data set that cannot be reached.
    """
    module = _module_of(name)
    defaults = _default_options()
    settings = types.SimpleNamespace(**defaults | dict(options or {}))
    _check_options(name, module, settings, defaults)
    if facts_only and hasattr(module, "facts"):
        known = module.facts(name, split, settings)
        if known is not None:
            return known
    return module.load(name, split, settings)


def origin(
    name: str, options: Mapping[str, Any] | None = None
) -> tuple[str, Mapping[str, Any] | None]:
    """Returns (name, options) of the data set whose images the latents of `name` encode.

    Any other data set is its own origin.
    """
    module = _module_of(name)
    if hasattr(module, "origin"):
        return module.origin(name)
    return name, options


def _module_of(name: str) -> types.ModuleType:
    """Returns the reader of the data set of this name."""
    scheme, _, source = name.partition(":")
    if scheme in SCHEMES and source:
        return importlib.import_module(SCHEMES[scheme])
    if name in SOURCES:
        return importlib.import_module(SOURCES[name])
    known = ", ".join(SOURCES)
    guess = did_you_mean(name, SOURCES) or completed(name, SOURCES) or _as_source(name)
    raise UserError(f"--dataset_name {name}: unknown data set{guess} (known: {known}, {EXAMPLES})")


def _as_source(name: str) -> str:
    """Returns "; did you mean folder:/my/pictures?" for a path or a name of the hub, or ""."""
    path = pathlib.Path(name).expanduser()
    if path.suffix == ".npz":
        return f"; did you mean npz:{name}?"
    if path.is_dir() or name.startswith(("/", ".", "~")):
        return f"; did you mean folder:{name}?"
    owner, slash, repository = name.partition("/")
    if not (owner and slash and repository):
        return ""
    # Some sets of the hub have a short name and a recipe here.
    short = repository.replace("-", "_").lower()
    also = f", or {short}, which has a recipe" if short in HUB else ""
    return f"; did you mean hf:{name}{also}?"


def _default_options() -> dict[str, Any]:
    """Returns the defaults of the settings `data.*`, without that prefix."""
    prefix = "data."
    return {
        key.name.removeprefix(prefix): key.default for key in TABLE if key.name.startswith(prefix)
    }


def _check_options(
    name: str, module: types.ModuleType, options: Options, defaults: Mapping[str, Any]
):
    """Raises UserError for a setting that the reader has no use for."""
    if options.streaming and not getattr(module, "CAN_STREAM", False):
        raise UserError(
            f"--data.streaming 1: {name} is read where it lies; streaming is for the Hugging Face "
            "hub and parquet files, leave it out"
        )
    if options.condition_column:
        _check_conditions(name, module, options)
    for option in getattr(module, "UNUSED_OPTIONS", ()):
        value = getattr(options, option)
        if value != defaults[option]:
            raise UserError(f"--data.{option} {value}: {name} has no use for it; leave it out")


def _check_conditions(name: str, module: types.ModuleType, options: Options):
    """Raises UserError where the reader, or the way of reading, has no place for conditions."""
    flag = f"--data.condition_column {options.condition_column}"
    if not getattr(module, "TAKES_CONDITIONS", False):
        raise UserError(f"{flag}: {name} has no columns of vectors; give npz:FILE, or hf: data")
    if options.streaming:
        raise UserError(f"{flag}: conditions are not streamed; give --data.streaming 0")
