"""`latents:/path`: the latents of a data set of images, which scripts/cache_latents.py wrote.

Samples are scaled float32 latents. The folder holds

    meta.json     `images`: the data set with its split and options, its shape, the VAE and the
                  checksum of its weights; the class names; the shape of a latent; `moments`
    latents.npy   [flips, S, h, w, 2 C] float16: mean and standard deviation (`moments`);
                  or [flips, S, h, w, C]: one draw. The second flip is of the mirrored images.
    labels.npy    [S] int32
    done.json     `samples`: how many are encoded so far

Labels are read whole, and of the latents those that are asked for.
"""

import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from data.dataset import Dataset, Options
from utils.errors import UserError
from utils.paths import to_local

# All of it was decided when the images were encoded.
UNUSED_OPTIONS = ("dir", "config", "image_size", "channels", "image_column", "label_column")

META, LATENTS, LABELS, DONE = "meta.json", "latents.npy", "labels.npy", "done.json"


class Latents:
    """The latents of a folder by index, one flip after the other: [h,w,2 C] or [h,w,C] float32."""

    def __init__(self, folder: pathlib.Path, flips: int):
        self.folder = folder
        self.flips = flips
        self._open()

    def _open(self):
        self.latents = Rows(self.folder / LATENTS)
        self.labels = np.load(self.folder / LABELS, mmap_mode="r")

    def __len__(self):
        return self.flips * len(self.labels)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"latent {index} of {len(self)}")
        flip, i = divmod(int(index), len(self.labels))
        latent = self.latents[flip * len(self.labels) + i].astype(np.float32)
        return {"image": latent, "label": np.int32(self.labels[i])}

    def __getstate__(self):
        """Leaves the arrays out: a worker process opens them by itself, instead of a copy."""
        return {"folder": self.folder, "flips": self.flips}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()


class Rows:
    """The entries of a .npy file [flips, S, ...], numbered through; each is read by itself.

    Were the array mapped into memory, each sample in random order would bring what the system reads
    ahead around it: with 8 MiB of that, 7.5 MB for a sample of 16 KB (docs/data.md).
    """

    def __init__(self, path: pathlib.Path):
        array: Any = np.load(path, mmap_mode="r")  # for what its header says
        self.shape, self.dtype, self.start = array.shape[2:], array.dtype, array.offset
        self.size = math.prod(self.shape) * self.dtype.itemsize
        self.file = path.open("rb", buffering=0)

    def __getitem__(self, row: int) -> np.ndarray:
        data = b""
        while len(data) < self.size:  # a network's file system may give less than is asked for
            place = self.start + row * self.size + len(data)
            more = os.pread(self.file.fileno(), self.size - len(data), place)
            if not more:
                raise UserError(f"{self.file.name} ends within latent {row}; write it again")
            data += more
        return np.frombuffer(data, self.dtype).reshape(self.shape)


def draw(sample: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """Draws a latent from the normal distribution of its mean and standard deviation."""
    mean, std = np.split(sample["image"], 2, axis=-1)
    latent = mean + std * generator.standard_normal(mean.shape, np.float32)
    return sample | {"image": latent}


def origin(name: str) -> tuple[str, dict[str, Any]]:
    """Returns (name, options) of the data set whose images were encoded."""
    meta, _, _ = _read(name)
    return meta["images"]["dataset"], meta["images"]["data"]


def load(name: str, split: str, options: Options) -> Dataset:
    """Returns the cached split, whatever `split` names.

    --data.flip 1 takes the latents of the mirrored images along, as samples of their own.
    """
    meta, done, n = _read(name)
    if done < n:
        raise UserError(
            f"{name}: {done} of {n} samples are encoded; run scripts/cache_latents.py again to "
            "finish"
        )
    flips = 2 if options.flip else 1
    if flips > meta["flips"]:
        raise UserError(
            f"{name}: --data.flip 1, but mirrored images were not encoded; run "
            "scripts/cache_latents.py with --flips 2 into another folder"
        )
    samples = Latents(_folder(name), flips)
    class_names = tuple(meta["class_names"])
    counts = flips * np.bincount(samples.labels, minlength=len(class_names))
    return Dataset(
        name=name,
        split=meta["images"]["split"],
        samples=samples,
        shape=tuple(meta["shape"]),
        dtype="float32",
        class_names=class_names,
        counts=tuple(counts.tolist()),
        augment=draw if meta["moments"] else None,
        latents=meta["images"],
    )


def _folder(name: str) -> pathlib.Path:
    return to_local(name.partition(":")[2])


def _read(name: str) -> tuple[dict[str, Any], int, int]:
    """Returns (meta.json, samples encoded so far, samples in all)."""
    folder = _folder(name)
    try:
        meta = json.loads((folder / META).read_text())
        done = json.loads((folder / DONE).read_text())
        return meta, done["samples"], len(np.load(folder / LABELS, mmap_mode="r"))
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise UserError(
            f"{name}: {folder} holds no latents ({error}); write them with scripts/cache_latents.py"
        ) from None
