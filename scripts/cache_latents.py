"""Encodes a data set once with a Stable Diffusion VAE, for `--dataset_name latents:DIR`.

    python scripts/cache_latents.py --dataset_name imagenet256 --vae stabilityai/sd-vae-ft-ema --out DIR

Stopped or killed, the same command goes on where it was. All local devices share each batch. The files are described in data/latents.py.
"""

import errno
import json
import logging
import os
import pathlib
import shutil
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import data
from configs.default import Key
from data import pipeline
from data.latents import DONE, LABELS, LATENTS, META
from models.latents import DEFAULT, checksum, latent_shape, normal, scaled_moments
from models.vae import load_vae
from utils import config as config_lib
from utils import sharding
from utils.errors import UserError
from utils.files import write_json_atomic
from utils.logging import setup_logging

log = logging.getLogger("cache_latents")

FLAGS = (
    Key("vae", DEFAULT, "the VAE: a folder in the diffusers format, or a hub id"),
    Key("out", "", "folder to write"),
    Key(
        "moments",
        True,
        "keep mean and standard deviation, to draw anew each time; false = one draw",
    ),
    Key("flips", 2, "2 = the mirrored images too", "[1, 2]"),
    Key("encode_batch_size", 32, "images per device and call", "[1, inf)"),
)


MOVABLE = (
    "images.vae",
    "images.data.dir",
    "images.data.workers",
    "images.data.streaming",
    "images.data.max_corrupt",
)  # what may differ when the same command goes on


def make_encoder(vae, moments: bool, flips: int, seed: int):
    """encode(params, images [S,H,W,3] uint8, index [S]) -> [flips, S, h, w, 2C or C] float16, scaled. A draw depends on (seed, flip, index) alone."""

    def one(params, images, index, flip):
        mean, std = scaled_moments(vae, params, images)
        return (
            jnp.concatenate([mean, std], -1)
            if moments
            else mean + std * normal(seed, flip, index, mean.shape[1:])
        )

    def encode(params, images, index):
        images = images.astype(jnp.float32) / 127.5 - 1
        views = (images, images[:, :, ::-1])[:flips]
        return jnp.stack([one(params, x, index, flip) for flip, x in enumerate(views)]).astype(
            jnp.float16
        )

    return jax.jit(encode)


def open_cache(folder: pathlib.Path, meta: dict, shape: tuple[int, ...]):
    """(latents, labels, samples done) of the folder, made if it is new. Raises UserError when it holds something else, or when the disk is too small."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / META).exists():
            before = json.loads((folder / META).read_text())
            was, now = (
                {k: v for k, v in config_lib.flatten(m).items() if k not in MOVABLE}
                for m in (before, meta)
            )
            changed = [k for k in now if was.get(k) != now[k]]
            if changed:
                raise UserError(
                    f"--out {folder} holds latents with {changed[0]} = {str(was.get(changed[0]))[:80]}, now {str(now[changed[0]])[:80]}; give another --out"
                )
            return *(
                np.load(folder / name, mmap_mode="r+") for name in (LATENTS, LABELS)
            ), json.loads((folder / DONE).read_text())["samples"]
        needed, free = 2 * int(np.prod(shape)), shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"--out {folder}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free; give a folder on a larger disk, --flips 1 or --moments 0"
            )
        latents = np.lib.format.open_memmap(folder / LATENTS, "w+", np.float16, shape)
        labels = np.lib.format.open_memmap(folder / LABELS, "w+", np.int32, shape[1:2])
        for name in (
            LATENTS,
            LABELS,
        ):  # the disk's blocks now: a mapped file that finds none later kills the program
            with open(folder / name, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        write_json_atomic(folder / DONE, {"samples": 0})
        write_json_atomic(folder / META, meta)  # last: with it the folder is whole
        return latents, labels, 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"--out {folder}: no room for {2 * int(np.prod(shape)) / 1e9:.1f} GB; give a folder on a larger disk, --flips 1 or --moments 0"
            ) from None
        raise UserError(
            f"--out {folder}: {error.strerror}; give a folder that can be written"
        ) from None


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
    vae, params = load_vae(flags.vae)
    mesh = sharding.make_mesh(0, 1)
    batch_size, n = flags.encode_batch_size * mesh.size, len(dataset.samples)
    latent = latent_shape(flags.vae, dataset.shape)
    images = {
        "dataset": dataset.name,
        "split": dataset.split,
        "data": flags.data.to_dict(),
        "image_shape": list(dataset.shape),
        "vae": str(flags.vae),
        "vae_weights": checksum(params),
    }
    meta = {
        "images": images,
        "shape": list(latent),
        "class_names": list(dataset.class_names),
        "moments": flags.moments,
        "flips": flags.flips,
        "seed": flags.seed,
    }
    shape = (flags.flips, n, *latent[:-1], latent[-1] * (2 if flags.moments else 1))
    latents, labels, done = open_cache(pathlib.Path(flags.out), meta, shape)
    encode = make_encoder(vae, flags.moments, flags.flips, flags.seed)
    params = jax.device_put(params, sharding.replicated(mesh))
    start, first, told = time.perf_counter(), done, time.perf_counter()
    with tqdm(
        total=n, initial=done, unit="image", disable=None
    ) as bar:  # on a terminal; a log file gets a line a minute
        for images, classes in pipeline.in_order(dataset, batch_size, done, flags.data.workers):
            size = len(images)
            index = np.minimum(np.arange(done, done + batch_size), n - 1).astype(np.uint32)
            filled = images[
                np.minimum(np.arange(batch_size), size - 1)
            ]  # the last batch is filled up: one program serves all
            codes = np.asarray(
                encode(params, *jax.device_put((filled, index), sharding.batch_sharding(mesh)))
            )[:, :size]
            if not np.isfinite(codes).all():
                raise UserError(
                    f"the latents of samples {done} to {done + size - 1} are not finite: the weights of {flags.vae} are damaged or of another kind"
                )
            latents[:, done : done + size], labels[done : done + size] = codes, classes
            latents.flush(), labels.flush()
            done += size
            write_json_atomic(pathlib.Path(flags.out) / DONE, {"samples": done})
            bar.update(size)
            if bar.disable and time.perf_counter() - told > 60:
                told, rate = time.perf_counter(), (done - first) / (time.perf_counter() - start)
                log.info(
                    "%d of %d samples, %.1f a second, %.1f hours to go",
                    done,
                    n,
                    rate,
                    (n - done) / rate / 3600,
                )
    log.info("%s: %d samples; train with --dataset_name latents:%s", flags.out, n, flags.out)


if __name__ == "__main__":
    config_lib.define_flags(("dataset_name", "seed", "data"), FLAGS)
    config_lib.run_main(main)
