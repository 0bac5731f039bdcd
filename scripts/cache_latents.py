"""Encodes a data set once with a Stable Diffusion VAE, for `--dataset_name latents:DIR`.

    python scripts/cache_latents.py --dataset_name imagenet256 --out DIR

Stopped or killed, the same command goes on where it was. All local devices share each batch. The
files are described in data/latents.py.
"""

import errno
import json
import logging
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import data
from configs.default import PATH, Key
from data import pipeline
from data.latents import DONE, LABELS, LATENTS, META
from drifting.images import to_float
from models.latents import DEFAULT_VAE, checksum, latent_shape, normal, scaled_moments
from models.vae import VAE, load_vae
from utils import config as config_lib
from utils import sharding
from utils.errors import UserError
from utils.files import write_json_atomic
from utils.logging import setup_logging

log = logging.getLogger("cache_latents")

FLAGS = (
    Key("vae", DEFAULT_VAE, "the VAE: a folder in the diffusers format, or a hub id", PATH),
    Key("out", "", "folder to write", PATH),
    Key(
        "moments",
        True,
        "keep mean and standard deviation, to draw anew each time; false = one draw",
    ),
    Key("flips", 2, "2 = the mirrored images too", "[1, 2]"),
    Key("encode_batch_size", 32, "images per device and call", "[1, inf)"),
)

# What may differ in meta.json when the same command goes on.
MAY_DIFFER = (
    "images.vae",
    "images.data.dir",
    "images.data.workers",
    "images.data.streaming",
    "images.data.max_corrupt",
)
LOG_EVERY = 60  # seconds


def main(flag_values):
    setup_logging()
    flags = config_lib.all_flags(flag_values)
    if not flags.out:
        raise UserError("--out is missing: give the folder for the latents")
    dataset = data.load(flags.dataset_name, flags.data.split, flags.data)
    if dataset.latents:
        raise UserError(
            f"--dataset_name {dataset.name} holds latents already; give a data set of images"
        )
    if dataset.condition_width:
        raise UserError(
            f"--data.condition_column {flags.data.condition_column}: cached latents have no place "
            "for conditions; give --model.use_stable_vae 1 to train_drift.py, and no cache"
        )
    vae, params = load_vae(flags.vae)
    n = len(dataset.samples)
    height, width, channels = latent_shape(dataset.shape, vae.reduction, vae.latent_channels)
    meta = describe(flags, dataset, (height, width, channels), checksum(params))
    stored_channels = 2 * channels if flags.moments else channels
    cache = Cache(pathlib.Path(flags.out), meta, (flags.flips, n, height, width, stored_channels))
    encoder = Encoder(vae, params, flags, n)
    with Progress(n, cache.done) as progress:
        batches = pipeline.in_order(dataset, encoder.batch_size, cache.done, flags.data.workers)
        for images, labels in batches:
            latents = encoder(images, cache.done)
            if not np.isfinite(latents).all():
                last = cache.done + len(images) - 1
                raise UserError(
                    f"the latents of samples {cache.done} to {last} are not finite: the weights of "
                    f"{flags.vae} are damaged or of another kind"
                )
            cache.append(latents, labels)
            progress.update(len(images))
    log.info("%s: %d samples; train with --dataset_name latents:%s", flags.out, n, flags.out)


def describe(
    flags: Any, dataset: data.Dataset, shape: tuple[int, int, int], vae_weights: str
) -> dict[str, Any]:
    """Returns meta.json: what was encoded, and how. shape: (h, w, C) of a latent."""
    images = {
        "dataset": dataset.name,
        "split": dataset.split,
        "data": flags.data.to_dict(),
        "image_shape": list(dataset.shape),
        "vae": str(flags.vae),
        "vae_weights": vae_weights,
    }
    return {
        "images": images,
        "shape": list(shape),
        "class_names": list(dataset.class_names),
        "moments": flags.moments,
        "flips": flags.flips,
        "seed": flags.seed,
    }


# ---------------------------------------------------------------- encoding


def make_encode(
    vae: VAE, moments: bool, flips: int, seed: int
) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
    """Returns the jitted encode(params, images, index).

    It takes images [S,H,W,3] uint8 and their index [S] in the data set, and gives scaled latents
    [flips,S,h,w,C] float16, or [flips,S,h,w,2 C], mean and standard deviation, with `moments`. A
    draw depends on (seed, flip, index) alone.
    """

    def encode_view(params, images, index, flip):
        mean, std = scaled_moments(vae, params, images)
        if moments:
            return jnp.concatenate([mean, std], -1)
        return mean + std * normal(seed, flip, index, mean.shape[1:])

    def encode(params, images, index):
        images = to_float(images)
        views = (images, images[:, :, ::-1])[:flips]
        latents = [encode_view(params, view, index, flip) for flip, view in enumerate(views)]
        return jnp.stack(latents).astype(jnp.float16)

    return jax.jit(encode)


class Encoder:
    """Encodes batches of the n images of a data set on all local devices."""

    def __init__(self, vae: VAE, params: Any, flags: Any, n: int):
        mesh = sharding.make_mesh(0, 1)
        self.n = n
        self.batch_size = flags.encode_batch_size * mesh.size
        self.sharding = sharding.batch_sharding(mesh)
        self.params = jax.device_put(params, sharding.replicated(mesh))
        self.encode = make_encode(vae, flags.moments, flags.flips, flags.seed)

    def __call__(self, images: np.ndarray, first: int) -> np.ndarray:
        """Returns the latents [flips,S,...] of images [S,H,W,3] from index `first` on.

        A batch that is not full is filled up with its last image, so that one program serves all.
        """
        index = np.arange(first, first + self.batch_size)
        index = np.minimum(index, self.n - 1).astype(np.uint32)
        filled = images[np.minimum(np.arange(self.batch_size), len(images) - 1)]
        placed = jax.device_put((filled, index), self.sharding)
        latents = np.asarray(self.encode(self.params, *placed))
        return latents[:, : len(images)]


# ---------------------------------------------------------------- the folder


class Cache:
    """The folder of latents, made if it is new; `done` samples are in it.

    Args:
        folder: Where it is.
        meta: What meta.json says or will say.
        shape: Of all latents, [flips,S,h,w,C or 2 C].

    Raises:
        UserError: The folder holds something else, cannot be written, or its disk is too small.
    """

    def __init__(self, folder: pathlib.Path, meta: dict[str, Any], shape: tuple[int, ...]):
        self.folder = folder
        n_bytes = 2 * int(np.prod(shape))  # of float16
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / META).exists():
                self._check_same(meta)
            else:
                self._create(meta, shape, n_bytes)
            self.latents = np.load(folder / LATENTS, mmap_mode="r+")
            self.labels = np.load(folder / LABELS, mmap_mode="r+")
            self.done: int = json.loads((folder / DONE).read_text())["samples"]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"--out {folder}: no room for {n_bytes / 1e9:.1f} GB; give a folder on a "
                    "larger disk, --flips 1 or --moments 0"
                ) from None
            raise UserError(
                f"--out {folder}: {error.strerror}; give a folder that can be written"
            ) from None

    def _check_same(self, meta: dict[str, Any]):
        """Raises UserError if the folder was begun with other settings."""
        before = config_lib.flatten(json.loads((self.folder / META).read_text()))
        for key, now in config_lib.flatten(meta).items():
            if key not in MAY_DIFFER and before.get(key) != now:
                raise UserError(
                    f"--out {self.folder} holds latents with {key} = {str(before.get(key))[:80]}, "
                    f"now {str(now)[:80]}; give another --out"
                )

    def _create(self, meta: dict[str, Any], shape: tuple[int, ...], n_bytes: int):
        free = shutil.disk_usage(self.folder).free
        if n_bytes > free:
            raise UserError(
                f"--out {self.folder}: {n_bytes / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB "
                "free; give a folder on a larger disk, --flips 1 or --moments 0"
            )
        np.lib.format.open_memmap(self.folder / LATENTS, "w+", np.float16, shape)
        np.lib.format.open_memmap(self.folder / LABELS, "w+", np.int32, shape[1:2])
        for name in (LATENTS, LABELS):
            # Take the disk's blocks now: a mapped file that finds none later kills the program.
            with open(self.folder / name, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        write_json_atomic(self.folder / DONE, {"samples": 0})
        # The last file: with it the folder is whole.
        write_json_atomic(self.folder / META, meta)

    def append(self, latents: np.ndarray, labels: np.ndarray):
        """Writes the next latents [flips,S,...] and labels [S], then how many are done."""
        end = self.done + len(labels)
        self.latents[:, self.done : end] = latents
        self.labels[self.done : end] = labels
        self.latents.flush()
        self.labels.flush()
        self.done = end
        write_json_atomic(self.folder / DONE, {"samples": end})


class Progress:
    """A bar on a terminal; a log file gets a line a minute instead."""

    def __init__(self, n: int, done: int):
        self.n = n
        self.first = self.done = done
        self.start = self.logged = time.perf_counter()
        self.bar = tqdm(total=n, initial=done, unit="image", disable=None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def update(self, size: int):
        """Counts `size` more samples."""
        self.done += size
        self.bar.update(size)
        now = time.perf_counter()
        if self.bar.disable and now - self.logged > LOG_EVERY:
            self.logged = now
            rate = (self.done - self.first) / (now - self.start)
            log.info(
                "%d of %d samples, %.1f a second, %.1f hours to go",
                self.done,
                self.n,
                rate,
                (self.n - self.done) / rate / 3600,
            )


if __name__ == "__main__":
    config_lib.define_flags(("dataset_name", "seed", "data"), FLAGS)
    config_lib.run_main(main)
