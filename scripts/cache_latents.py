"""Encodes a data set once with a Stable Diffusion VAE, for `--dataset_name latents:DIR`.

    python scripts/cache_latents.py --dataset_name imagenet256 --vae stabilityai/sd-vae-ft-ema --out DIR

Stopped or killed, the same command goes on where it was. All local devices share each batch. The files are described in data/latents.py.
"""

import json
import logging
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import data
from configs.default import Key
from data import pipeline
from data.latents import DONE, LABELS, LATENTS, META
from models.vae import load_vae, sample_latents
from utils import config as config_lib, sharding
from utils.errors import UserError
from utils.logging import setup_logging, write_json_atomic

log = logging.getLogger("cache_latents")

FLAGS = (
    Key("vae", "stabilityai/sd-vae-ft-ema", "the VAE: a folder in the diffusers format, or a hub id"),
    Key("out", "", "folder to write"),
    Key("moments", True, "keep mean and standard deviation, to draw anew each time; false = one draw"),
    Key("flips", 2, "2 = the mirrored images too", "[1, 2]"),
    Key("encode_batch_size", 32, "images per device and call", "[1, inf)"),
)


def make_encoder(vae, moments: bool, flips: int, seed: int):
    """encode(params, images [S,H,W,3] uint8, index [S]) -> [flips, S, h, w, 2C or C] float16, scaled. A draw depends on (seed, flip, index) alone."""
    def one(params, images, index, flip):
        mean, logvar = vae.encode(params, images)
        if moments:
            return jnp.concatenate([vae.scale(mean), vae.scaling_factor * jnp.exp(0.5 * logvar)], -1)
        key = jax.random.fold_in(jax.random.key(seed), flip)
        noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), mean.shape[1:]))(index)
        return vae.scale(sample_latents(mean, logvar, noise))

    def encode(params, images, index):
        images = images.astype(jnp.float32) / 127.5 - 1
        if images.shape[-1] == 1:
            images = jnp.repeat(images, 3, -1)
        views = (images, images[:, :, ::-1])[:flips]
        return jnp.stack([one(params, x, index, flip) for flip, x in enumerate(views)]).astype(jnp.float16)

    return jax.jit(encode)


def open_cache(folder: pathlib.Path, meta: dict, shape: tuple[int, ...]):
    """(latents, labels, samples done) of the folder, made if it is new. Raises UserError when it holds something else, or when the disk is too small."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / META).exists():
            before = json.loads((folder / META).read_text())
            changed = [k for k in meta if before.get(k) != meta[k]]
            if changed:
                raise UserError(f"--out {folder} holds latents with {changed[0]} = {str(before.get(changed[0]))[:80]}, now {str(meta[changed[0]])[:80]}; give another --out")
            return *(np.load(folder / name, mmap_mode="r+") for name in (LATENTS, LABELS)), json.loads((folder / DONE).read_text())["samples"]
        needed, free = 2 * int(np.prod(shape)), shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(f"--out {folder}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free; give a folder on a larger disk, --flips 1 or --moments 0")
        latents = np.lib.format.open_memmap(folder / LATENTS, "w+", np.float16, shape)
        labels = np.lib.format.open_memmap(folder / LABELS, "w+", np.int32, shape[1:2])
        write_json_atomic(folder / DONE, {"samples": 0})
        write_json_atomic(folder / META, meta)  # last: with it the folder is whole
        return latents, labels, 0
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}; give a folder that can be written") from None


def main(flag_values):
    setup_logging()
    flags = config_lib.all_flags(flag_values)
    if not flags.out:
        raise UserError("--out is missing: give the folder for the latents")
    dataset = data.load(flags.dataset_name, flags.data.split, flags.data)
    vae, params = load_vae(flags.vae)
    mesh = sharding.make_mesh(0, 1)
    batch_size, n = flags.encode_batch_size * mesh.size, len(dataset.source)
    latent = jax.eval_shape(vae.encode, params, jax.ShapeDtypeStruct((1, *dataset.shape[:2], 3), jnp.float32))[0].shape[1:]
    meta = {"dataset": dataset.name, "split": dataset.split, "vae": str(flags.vae), "scaling_factor": vae.scaling_factor, "image_shape": list(dataset.shape),
            "shape": list(latent), "class_names": list(dataset.class_names), "moments": flags.moments, "flips": flags.flips, "seed": flags.seed}  # fmt: skip
    shape = (flags.flips, n, *latent[:-1], latent[-1] * (2 if flags.moments else 1))
    latents, labels, done = open_cache(pathlib.Path(flags.out), meta, shape)
    encode = make_encoder(vae, flags.moments, flags.flips, flags.seed)
    params = jax.device_put(params, sharding.replicated(mesh))
    with tqdm(total=n, initial=done, unit="image", disable=None) as bar:
        for images, classes in pipeline.in_order(dataset, batch_size, done, flags.data.workers):
            size = len(images)
            index = np.minimum(np.arange(done, done + batch_size), n - 1).astype(np.uint32)
            filled = images[np.minimum(np.arange(batch_size), size - 1)]  # the last batch is filled up: one program serves all
            codes = np.asarray(encode(params, *jax.device_put((filled, index), sharding.batch_sharding(mesh))))[:, :size]
            if not np.isfinite(codes).all():
                raise UserError(f"the latents of samples {done} to {done + size - 1} are not finite: the weights of {flags.vae} are damaged or of another kind")
            latents[:, done : done + size], labels[done : done + size] = codes, classes
            latents.flush(), labels.flush()
            done += size
            write_json_atomic(pathlib.Path(flags.out) / DONE, {"samples": done})
            bar.update(size)
    log.info("%s: %d samples; train with --dataset_name latents:%s", flags.out, n, flags.out)


if __name__ == "__main__":
    config_lib.define_flags(("dataset_name", "seed", "data"), FLAGS)
    config_lib.run_main(main)
