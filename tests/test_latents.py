"""Latents, encoded once or as the images come: the same as the VAE gives, drawn and mirrored as
asked for, and after a kill the same to the byte.
"""

import concurrent.futures
import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from absl.flags import FlagValues
from conftest import CHILD_XLA_FLAGS, ROOT
from PIL import Image
from test_encoders import tiny  # noqa: F401, a fixture
from test_train import STREAM, TINY, as_at, records, same_bits
from test_vae import spec_of, tensors_of, write

import data
from data import pipeline
from data.latents import Latents
from evaluation.fid_csv import read_rows
from evaluation.load_reference import load_reference
from models.encoders import load_encoder
from models.latents import latent_space_of, load_latent_space
from models.runs import load_run
from models.sampling import generate
from models.vae import load_vae
from scripts import cache_latents
from training import drift, fill_memory
from utils import config as config_lib
from utils import sharding
from utils.errors import UserError

N, SIDE = 10, 16


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of images in two classes, and the tiny VAE."""
    root = tmp_path_factory.mktemp("latents")
    rng = np.random.default_rng(0)
    for i in range(N):
        folder = root / "images" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / f"{i}.png")
    spec = spec_of("vae_tiny")
    write(root / "vae", spec["config"], tensors_of(spec))
    return root


ENVIRONMENT = os.environ | {"XLA_FLAGS": CHILD_XLA_FLAGS}


def command(place, out, **flags):
    """The command that encodes the images into the folder `out`."""
    flags = {
        "dataset_name": f"folder:{place / 'images'}",
        "vae": place / "vae",
        "out": place / out,
        "encode_batch_size": 4,
    } | flags
    program = [sys.executable, str(ROOT / "scripts" / "cache_latents.py")]
    return program + [f"--{name}={value}" for name, value in flags.items()]


def cache(place, out, **flags):
    """Runs the command to its end."""
    return subprocess.run(
        command(place, out, **flags), capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )


def cache_here(place, out, **flags):
    """Does the same in this process, whose eight devices share batches of 8: the last has 2."""
    values = config_lib.define_flags(
        ("dataset_name", "seed", "data"), cache_latents.FLAGS, FlagValues()
    )
    words = command(place, out, encode_batch_size=1, **flags)[1:]
    cache_latents.main(config_lib.parse(words, values))


def test_cached_latents(place):
    cache_here(place, "moments")
    name = f"latents:{place / 'moments'}"
    dataset, flipped = data.load(name), data.load(name, options={"flip": True})
    images, labels = pipeline.everything(data.load(f"folder:{place / 'images'}"))
    assert dataset.shape == (8, 8, 4)
    assert dataset.dtype == "float32"
    assert dataset.class_names == ("a", "b")
    assert dataset.counts == (5, 5)
    assert flipped.counts == (10, 10)
    assert len(flipped.samples) == 2 * N
    vae, params = load_vae(place / "vae")
    x = images.astype(np.float32) / 127.5 - 1
    for view, first in ((x, 0), (x[:, :, ::-1], N)):
        mean, logvar = vae.encode(params, view)
        stored = np.stack([flipped.samples[first + i]["image"] for i in range(N)])
        expected = np.concatenate([0.18215 * mean, 0.18215 * np.exp(0.5 * logvar)], -1)
        np.testing.assert_allclose(stored, expected, atol=2e-3 * np.abs(expected).max())  # float16
        assert [flipped.samples[first + i]["label"] for i in range(N)] == labels.tolist()

    def draws_from(position):
        latents, _ = next(pipeline.stream(dataset, 0, 4 * N, position))
        return latents

    # A draw depends on the seed and the position alone.
    draws, later, again = draws_from(0), draws_from(N), draws_from(0)
    np.testing.assert_array_equal(draws, again)
    np.testing.assert_array_equal(draws[N:], later[: 3 * N])
    assert draws.shape == (4 * N, 8, 8, 4)
    assert draws.dtype == np.float32
    mean, std = np.split(np.stack([dataset.samples[i]["image"] for i in range(N)]), 2, -1)
    np.testing.assert_allclose(draws.std() ** 2, (mean.var() + (std**2).mean()), rtol=0.1)


def test_a_killed_process_goes_on(place):
    """SIGKILL while it encodes, then the same command: the bytes of one that was not killed."""
    flags = {"encode_batch_size": 1, "data.image_size": 8}
    assert cache(place, "alive", **flags).returncode == 0
    process = subprocess.Popen(
        command(place, "dead", **flags), env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    done = place / "dead" / "done.json"
    while not done.exists() or json.loads(done.read_text())["samples"] == 0:
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert 0 < json.loads(done.read_text())["samples"] < N
    assert cache(place, "dead", **flags).returncode == 0
    for name in ("latents.npy", "labels.npy", "meta.json", "done.json"):
        assert (place / "dead" / name).read_bytes() == (place / "alive" / name).read_bytes()


def test_goes_on_after_a_kill(place):
    """Rows later than done.json says may be anything: the result is the same to the byte. A folder
    that is not finished is refused.
    """
    cache_here(place, "whole", moments=0, flips=1)
    cache_here(place, "killed", moments=0, flips=1)
    folder = place / "killed"
    latents = np.load(folder / "latents.npy", mmap_mode="r+")
    latents[:, 4:] = 7
    latents.flush()
    (folder / "done.json").write_text(json.dumps({"samples": 4}))
    with pytest.raises(UserError, match="4 of 10 samples are encoded"):
        data.load(f"latents:{folder}")
    cache_here(place, "killed", moments=0, flips=1)
    for name in ("latents.npy", "labels.npy", "meta.json", "done.json"):
        assert (folder / name).read_bytes() == (place / "whole" / name).read_bytes()
    with pytest.raises(UserError, match="mirrored images were not encoded"):
        data.load(f"latents:{folder}", options={"flip": True})
    with pytest.raises(UserError, match="holds latents with moments"):
        cache_here(place, "killed", moments=1, flips=1)
    with pytest.raises(UserError, match="holds no latents"):
        data.load(f"latents:{place}")


def test_rows_of_a_file(tmp_path):
    array = np.arange(2 * 3 * 4, dtype=np.float16).reshape(2, 3, 4)
    np.save(tmp_path / "latents.npy", array)
    np.save(tmp_path / "labels.npy", np.zeros(3, np.int32))
    samples = Latents(tmp_path, flips=2)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        read = list(threads.map(lambda i: samples[i]["image"], range(6)))
    np.testing.assert_array_equal(read, array.reshape(6, 4))
    assert len(list(samples)) == 6
    for outside in (-1, 6):
        with pytest.raises(IndexError, match=f"latent {outside} of 6"):
            samples[outside]
    os.truncate(tmp_path / "latents.npy", os.path.getsize(tmp_path / "latents.npy") - 1)
    with pytest.raises(UserError, match="ends within latent 5"):
        samples[5]


def build(place, folder, **changes):
    """A tiny generator, for images that are encoded as they come; two devices divide the bank."""
    config = config_lib.resolve(
        TINY
        | STREAM
        | {
            "dataset_name": f"folder:{place / 'images'}",
            "save_dir": str(place / folder),
            "model.name": "mlp",
            "model.use_stable_vae": True,
            "vae": str(place / "vae"),
            "batch_size": 8,
            "drift.n_pos": 2,
            "drift.n_unc": 2,
            "drift.bank_push": 4,
            "drift.bank_per_class": 4,
            "drift.bank_global": 8,
            "drift.bank_placement": "divided",
            "max_steps": 4,
            "sample_interval": 4,
            "eval_interval": 4,
            "save_interval": 2,
            "features": "pixels",
            "data.flip": True,
            "encoder.cache": "off",
        }
        | changes
    )
    dataset = data.load(config.dataset_name, options=config.data)
    return drift.build(config, dataset, sharding.make_mesh(2, 1))


def run(place, folder, **changes):
    """A few steps of it."""
    parts = build(place, folder, **changes)
    drift.train(parts, drift.open_run(parts.config))
    return parts


def test_a_draw_does_not_depend_on_how_many_are_encoded_at_once(place, monkeypatch):
    """Not in what a field keeps of all reals either."""
    parts = build(place, "draws")

    def features(at_once):
        monkeypatch.setattr(fill_memory, "ENCODED_AT_ONCE", at_once)
        sets = [found for found, _ in fill_memory.real_features(parts)]
        (name,) = sets[0]
        return np.concatenate([found[name] for found in sets])

    whole = features(N)
    assert len(np.unique(whole[:, 0, 0])) == N
    np.testing.assert_array_equal(features(4), whole)


@pytest.mark.usefixtures("shared_steps")
def test_encoded_as_they_come(place):
    """The bank holds draws from the encoder's distribution of its images, mirrored or not. A
    resumed run is the same to the bit. Grids and scores are of decoded images.
    """
    parts = run(place, "run")
    bank, position = drift.fill_bank(parts)
    images, labels = pipeline.everything(data.load(f"folder:{place / 'images'}"))
    vae, params = load_vae(place / "vae")
    encode = jax.jit(vae.encode)
    candidates = [
        encode(params, view.astype(np.float32) / 127.5 - 1) for view in (images, images[:, :, ::-1])
    ]
    mean = 0.18215 * np.concatenate([mean for mean, _ in candidates])  # [2 S, 8, 8, 4]
    logvar = np.concatenate([logvar for _, logvar in candidates])
    std = 0.18215 * np.exp(0.5 * logvar)
    noise = (bank.pool.reshape(-1, 1, *mean.shape[1:]) - mean) / std  # [G, 2 S, 8, 8, 4]
    rms = np.sqrt(np.mean(noise**2, (2, 3, 4)))  # [G, 2 S] over 256 values each
    assert position >= 8
    assert np.abs(rms.min(1) - 1).max() < 0.3  # Of the right candidate, the values are normal.
    assert len(set(rms.argmin(1) // N)) == 2  # Both views occur.

    as_at(2, place / "run", place / "resumed")
    run(place, "resumed", sample_interval=0, eval_interval=0)
    assert records(place / "run")[2:] == records(place / "resumed")[2:]
    model, params, metadata = load_run(place / "run")
    _, params_of_resumed, _ = load_run(place / "resumed")
    same_bits(params, params_of_resumed)
    assert model.sample_shape == (8, 8, 4)
    assert list((place / "run" / "samples").glob("*.png"))
    (scores, *_) = read_rows(place / "run" / "fid.csv")
    assert scores["reference"] == f"folder:{place / 'images'}:train"

    space = latent_space_of(model, metadata, "", sharding.local_sharding())
    (z,) = generate(model, params, [0, 1, 0], 1.0, 0, batch_size=3)
    expected = jax.jit(vae.decode)(load_vae(place / "vae")[1], z / 0.18215)
    np.testing.assert_allclose(space.decode(z), expected, atol=1e-3 * np.abs(expected).max())
    spec = spec_of("vae_tiny")
    tensors = tensors_of(spec)
    tensors["quant_conv.bias"] = tensors["quant_conv.bias"] + 1
    write(place / "other_vae", spec["config"], tensors)
    with pytest.raises(UserError, match="holds a run on latents of a VAE with the checksum"):
        run(place, "run", vae=str(place / "other_vae"), max_steps=6)
    with pytest.raises(UserError, match="its weights have the checksum"):
        load_latent_space(
            str(place / "other_vae"), sharding.local_sharding(), metadata["dataset"]["latents"]
        )


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True], ids=["encoded as they come", "cached latents"])
def test_a_generator_of_latents_learns_from_an_encoder_of_pixels(place, tiny, cached):  # noqa: F811
    """Generated latents go through the VAE's decoder to the encoder, and the gradient comes back
    the same way: no other feature set could move the generator.
    """
    encoder, path = tiny("resnet18").split(":")
    flags = {
        "model.name": "dit",
        "encoder.name": encoder,
        "encoder.path": path,
        "encoder.image_size": "32",
        "encoder.layers": "layer[34]",
        "encoder.statistics": "mean,std",
        "encoder.patch_sizes": "none",
        "optim.weight_decay": 0.0,
        "eval_interval": 0,
        "data.flip": False,
        "encoder.cache": "auto",
        "max_steps": 3,
    }
    if cached:
        assert cache(place, "seen", moments=0).returncode == 0
        flags |= {
            "dataset_name": f"latents:{place / 'seen'}",
            "model.use_stable_vae": False,
            "drift.bank_per_class": "all",
            "sample_interval": 0,
        }
    folder = f"pixels {cached}"
    parts = run(place, folder, **flags)
    # Where all reals are at hand their features are kept, not their latents.
    assert parts.config.encoder.cache == ("on" if cached else "off")
    logged = records(place / folder)
    assert len(logged) == 3
    assert all(np.isfinite(record["loss"]) for record in logged)
    assert all(record["grad_norm"] > 1e-3 for record in logged)

    vae, vae_params = load_vae(place / "vae")
    encode, params, _ = load_encoder(
        f"{encoder}:{path}",
        image_size=32,
        names=("layer[34]",),
        statistics=("mean", "std"),
        patch_sizes=(),
    )
    z = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    expected = jax.jit(lambda z: encode(params, vae.decode(vae_params, z / 0.18215)))(z)
    for name, feature in jax.jit(parts.encode)(parts.encoder_params, z).items():
        tolerance = 1e-4 * np.abs(expected[name]).max()
        np.testing.assert_allclose(feature, expected[name], atol=tolerance)

    @jax.jit
    def total(z):
        features = parts.encode(parts.encoder_params, z)
        return sum((feature**2).sum() for feature in features.values())

    gradient = jax.grad(total)(z)
    direction = np.sign(gradient) * 1e-3
    difference = total(z + direction) - total(z - direction)
    np.testing.assert_allclose(difference, 2 * (gradient * direction).sum(), rtol=0.05)


def test_reference_of_cached_latents_is_their_images(place):
    assert cache(place, "referenced", **{"data.image_size": 8}).returncode == 0
    name = f"latents:{place / 'referenced'}"
    assert data.load(name).shape == (4, 4, 4)
    reference = load_reference(name, features="pixels", split="train")
    assert reference.name == f"folder:{place / 'images'}:train"
    assert reference.real.count == N
    assert reference.gallery.image(0).shape == (8, 8, 3)


FITTED = {"model.use_stable_vae": True, "vae": "VAE", "drift.n_pos": 2}


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"dataset_name": "digits", "vae": "x/y"}, "learnt in pixels"),
        (
            {"dataset_name": "digits", "model.use_stable_vae": True, "vae": "VAE"},
            "--data.channels 3",
        ),
        (
            {"dataset_name": "digits", "model.use_stable_vae": True, "vae": "/no/such"},
            "neither a folder nor a hub id",
        ),
        (
            {"model.use_stable_vae": True, "vae": "VAE", "data.image_size": 15},
            "give --data.image_size 16",
        ),
        (
            {
                "model.use_stable_vae": True,
                "vae": "VAE",
                "drift.bank_per_class": "all",
                "data.flip": True,
            },
            "encodes each image once",
        ),
        (
            {
                "dataset_name": "digits",
                "encoder.name": "none",
                "sample_interval": 1,
                "model.use_stable_vae": True,
                "vae": "EMPTY",
            },
            "has no config.json",
        ),
        (
            FITTED | {"encoder.name": "whiten"},
            "--encoder.name whiten: it is fitted to samples",
        ),
        (
            FITTED | {"model.output_init": "data"},
            "--model.output_init data: it is fitted to samples",
        ),
    ],
)
def test_mistakes_are_one_line(place, flags, words):
    (place / "empty").mkdir(exist_ok=True)
    flags = {"dataset_name": f"folder:{place / 'images'}"} | flags
    places = {"VAE": str(place / "vae"), "EMPTY": str(place / "empty")}
    flags["vae"] = places.get(flags["vae"], flags["vae"])
    with pytest.raises(UserError, match=words) as caught:
        config = config_lib.resolve(TINY | flags)
        drift.build(
            config, data.load(config.dataset_name, options=config.data), sharding.make_mesh(1, 1)
        )
    assert "\n" not in str(caught.value)
