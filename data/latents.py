"""`latents:/path`: what scripts/cache_latents.py wrote. Samples are scaled float32 latents; the files are mapped into memory, not read.

meta.json     `images`: the data set with its split and options, its shape, the VAE and the checksum of its weights; class names, shape of a latent, `moments`
latents.npy   [flips, S, h, w, 2 C] float16: mean and standard deviation, or [flips, S, h, w, C]: one draw; the second of the flips is the mirrored image
labels.npy    [S] int32
done.json     samples encoded so far
"""

import json
import pathlib

import numpy as np

from data import Dataset
from utils.errors import UserError

WITHOUT = (
    "dir",
    "image_size",
    "channels",
    "image_column",
    "label_column",
)  # all decided when the images were encoded
META, LATENTS, LABELS, DONE = "meta.json", "latents.npy", "labels.npy", "done.json"


class Latents:
    """Random access over the flips one after another. A sample is [h,w,2 C] or [h,w,C], as in the file."""

    def __init__(self, folder: pathlib.Path, flips: int):
        self.folder, self.flips = folder, flips
        self._map()

    def _map(self):
        self.latents, self.labels = (
            np.load(self.folder / name, mmap_mode="r") for name in (LATENTS, LABELS)
        )

    def __len__(self):
        return self.flips * len(self.labels)

    def __getitem__(self, index):
        flip, i = divmod(int(index), len(self.labels))
        return {
            "image": self.latents[flip, i].astype(np.float32),
            "label": np.int32(self.labels[i]),
        }

    def __getstate__(self):
        return {"folder": self.folder, "flips": self.flips}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._map()


def draw(sample: dict, generator: np.random.Generator) -> dict:
    """A latent out of its mean and standard deviation."""
    mean, std = np.split(sample["image"], 2, axis=-1)
    return sample | {"image": mean + std * generator.standard_normal(mean.shape, np.float32)}


def origin(name: str) -> tuple[str, dict]:
    """(name, options) of the data set whose images were encoded."""
    images = _read(name)[0]["images"]
    return images["dataset"], images["data"]


def _read(name: str) -> tuple[dict, int, int]:
    """(meta.json, samples encoded so far, samples in all)."""
    folder = pathlib.Path(name.partition(":")[2]).expanduser()
    try:
        meta, done = (json.loads((folder / file).read_text()) for file in (META, DONE))
        return meta, done["samples"], len(np.load(folder / LABELS, mmap_mode="r"))
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise UserError(
            f"{name}: {folder} holds no latents ({error}); write them with scripts/cache_latents.py"
        ) from None


def load(name: str, split: str, options) -> Dataset:
    """The cached split, whatever `split` names; --data.flip takes the mirrored images along, as samples of their own."""
    folder = pathlib.Path(name.partition(":")[2]).expanduser()
    meta, done, n = _read(name)
    if done < n:
        raise UserError(
            f"{name}: {done} of {n} samples are encoded; run scripts/cache_latents.py again to finish"
        )
    flips = 2 if options.flip else 1
    if flips > meta["flips"]:
        raise UserError(
            f"{name}: --data.flip 1, but mirrored images were not encoded; run scripts/cache_latents.py with --flips 2 into another folder"
        )
    source = Latents(folder, flips)
    counts = flips * np.bincount(source.labels, minlength=len(meta["class_names"]))
    augment = draw if meta["moments"] else None
    return Dataset(
        name,
        meta["images"]["split"],
        source,
        tuple(meta["shape"]),
        "float32",
        tuple(meta["class_names"]),
        tuple(counts.tolist()),
        augment,
        latents=meta["images"],
    )
