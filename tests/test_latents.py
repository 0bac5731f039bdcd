"""Latents encoded once: the same as the VAE gives, resumed after a kill to the same bytes, drawn and mirrored as asked for."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import data
from conftest import ROOT
from data import pipeline
from models.vae import load_vae
from test_vae import spec_of, tensors_of, write
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


def cache(place, out, **flags):
    flags = {"dataset_name": f"folder:{place / 'images'}", "vae": place / "vae", "out": place / out, "encode_batch_size": 4} | flags
    command = [sys.executable, str(ROOT / "scripts" / "cache_latents.py"), *(f"--{k}={v}" for k, v in flags.items())]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": ""}, timeout=120)


def test_cached_latents(place):
    assert (done := cache(place, "moments")).returncode == 0, done.stderr
    name = f"latents:{place / 'moments'}"
    dataset, flipped = data.load(name), data.load(name, options={"flip": True})
    images, labels = pipeline.everything(data.load(f"folder:{place / 'images'}"))
    assert dataset.shape == (8, 8, 4) and dataset.dtype == "float32" and dataset.class_names == ("a", "b")
    assert dataset.counts == (5, 5) and flipped.counts == (10, 10) and len(flipped.source) == 2 * N
    vae, params = load_vae(place / "vae")
    x = images.astype(np.float32) / 127.5 - 1
    for view, first in ((x, 0), (x[:, :, ::-1], N)):
        mean, logvar = vae.encode(params, view)
        stored = np.stack([flipped.source[first + i]["image"] for i in range(N)])
        expected = np.concatenate([0.18215 * mean, 0.18215 * np.exp(0.5 * logvar)], -1)
        np.testing.assert_allclose(stored, expected, atol=2e-3 * np.abs(expected).max())  # float16
        assert [flipped.source[first + i]["label"] for i in range(N)] == labels.tolist()
    draws = [x for x, _ in (next(pipeline.stream(dataset, 0, 4 * N, position)) for position in (0, N, 0))]
    np.testing.assert_array_equal(draws[0], draws[2])  # a draw depends on the seed and the position alone
    np.testing.assert_array_equal(draws[0][N:], draws[1][: 3 * N])
    assert draws[0].shape == (4 * N, 8, 8, 4) and draws[0].dtype == np.float32
    mean, std = np.split(np.stack([dataset.source[i]["image"] for i in range(N)]), 2, -1)
    np.testing.assert_allclose(draws[0].std() ** 2, (mean.var() + (std**2).mean()), rtol=0.1)


def test_goes_on_after_a_kill(place):
    """What a kill leaves is as done.json says: later rows may be anything. The result is the same to the byte, and is refused before."""
    assert cache(place, "whole", moments=0, flips=1).returncode == 0
    assert cache(place, "killed", moments=0, flips=1).returncode == 0
    folder = place / "killed"
    latents = np.load(folder / "latents.npy", mmap_mode="r+")
    latents[:, 4:] = 7
    latents.flush()
    (folder / "done.json").write_text(json.dumps({"samples": 4}))
    with pytest.raises(UserError, match="4 of 10 samples are encoded"):
        data.load(f"latents:{folder}")
    assert (done := cache(place, "killed", moments=0, flips=1)).returncode == 0, done.stderr
    for name in ("latents.npy", "labels.npy", "meta.json", "done.json"):
        assert (folder / name).read_bytes() == (place / "whole" / name).read_bytes()
    with pytest.raises(UserError, match="mirrored images were not encoded"):
        data.load(f"latents:{folder}", options={"flip": True})
    other = cache(place, "killed", moments=1, flips=1)
    assert other.returncode == 2 and "holds latents with moments" in other.stderr and "Traceback" not in other.stderr
    with pytest.raises(UserError, match="holds no latents"):
        data.load(f"latents:{place}")
