"""A generator whose first samples are like the data, and whose samples are clipped."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from test_train import DIT, parts_of

import data
from configs import presets
from drifting.images import clip
from models.generator import init_params
from models.refinement import Refinement
from models.sampling import generate
from training import drift
from training.first_samples import check_output, patches
from training.resolve_encoder import some_samples
from training.resolve_start import fitted
from utils import config as config_lib
from utils.errors import UserError

LABELS = np.arange(256) % 10
START = {"model.output_init": "data", "model.hidden_size": 256}


def moments(samples, model):
    x = np.asarray(patches(samples, model), np.float64)
    return x.mean(0), np.cov(x, rowvar=False)


@pytest.mark.parametrize(
    "changes", [DIT | {"model.patch_size": 4}, {"model.name": "mlp"}], ids=["patches", "whole"]
)
def test_first_samples_are_like_the_data(changes):
    """The mean, and the covariance up to what 256 random directions leave of it."""
    off = {}
    for start in ("data", "random"):
        parts = parts_of(START | changes | {"model.output_init": start})
        params = drift.make_state(parts).params
        model = parts.model.clone(clip_output=False)
        made = np.concatenate(list(generate(model, params, LABELS, 1.0, seed=1)))
        mean, covariance = moments(made, parts.model)
        true_mean, true_covariance = moments(some_samples(parts.dataset), parts.model)
        off[start] = np.linalg.norm(covariance - true_covariance) / np.linalg.norm(true_covariance)
        if start == "data":
            np.testing.assert_allclose(mean, true_mean, atol=0.3)
    assert off["data"] < 0.6 and off["random"] > 0.9, off


def test_clipped_pixels_keep_a_tenth_and_the_gradient():
    x = jnp.array([-3.0, -1.0, 0.25, 1.0, 2.0])
    np.testing.assert_allclose(clip(x), [-1.2, -1.0, 0.25, 1.0, 1.1], rtol=1e-6)
    weights = jnp.arange(1.0, 6.0)
    np.testing.assert_array_equal(jax.grad(lambda x: weights @ clip(x))(x), weights)
    np.testing.assert_allclose(clip(x, 0.5), [-1.15, -1.0, 0.25, 1.0, 1.05], rtol=1e-6)

    for name in ("dit", "mlp"):
        settings = {"model.name": name, "model.clip_output": True, "model.clip_margin": 0.25}
        settings |= {"model.refine_channels": 6, "model.antialias": 0.25}
        clipped = parts_of(settings).model
        params = init_params(clipped, jax.random.key(0))
        params = jax.tree.map(lambda p: 3 * np.asarray(p) + np.float32(0.1), params)
        samples = next(generate(clipped, params, LABELS, 1.0, 0))
        plain = clipped.clone(clip_output=False)
        if name == "dit":  # its convolutions see what is clipped
            plain = plain.clone(refine_channels=0, antialias=0.0)
            refinement = params.pop("refinement")
        expected = next(generate(plain, params, LABELS, 1.0, 0))
        assert np.abs(expected).max() > 1.5
        if name == "dit":
            expected = clip(expected, 0.25)
            refine = jax.jit(Refinement(6, jnp.float32).apply)
            expected = refine({"params": refinement}, expected)
        points = [(0, 0)]
        if name == "dit":  # its samples are clipped at four points around each pixel
            points = itertools.product((-0.25, 0.25), repeat=2)
        expected = [clip(moved(expected, *point), 0.25) for point in points]
        np.testing.assert_allclose(samples, np.mean(expected, 0), atol=1e-5)


def moved(samples, down, right):
    """Returns the values at places between pixels, as SciPy has them."""
    return ndimage.shift(samples, (0, down, right, 0), order=1, mode="nearest")


def test_an_older_run_was_not_clipped(tmp_path):
    """Its settings lack the flag, and the recipe has it now."""
    job = drift.DriftJob(parts_of(), tmp_path)
    before = config_lib.flatten(job.config.to_dict())
    job.config.load_dir = str(tmp_path)
    assert before.pop("model.clip_output")
    with pytest.raises(UserError, match="clip_output = false, .* give another --load_dir, or"):
        job.check_metadata({"config": before}, tmp_path)


def test_mistakes():
    with pytest.raises(UserError, match="leave --model.zero_init_output out"):
        parts_of(START | {"model.zero_init_output": True})
    with pytest.raises(UserError, match="give --model.output_init=random, or a flow with"):
        parts_of(START | {"model.from_flow": True})
    flow = presets.OBJECTIVES["flow"] | {"objective": "flow"}
    for flag, value in (("model.output_init", "data"), ("model.clip_output", True)):
        with pytest.raises(UserError, match=f"{flag}=.* leave it out with --objective flow"):
            parts_of(flow | {flag: value})
    model = parts_of(DIT).model
    parts = parts_of(DIT | {"model.refine_channels": 4})
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    with pytest.raises(UserError, match="absent there .* give --model.refine_channels=0, or"):
        fitted(parts, model, shapes)
    latents = dataclasses.replace(data.load("digits"), dtype="float32")
    given = config_lib.resolve({"recipe": "none", "model.clip_output": True})
    with pytest.raises(UserError, match="--model.clip_output 1: only the pixels of images"):
        check_output(given, model, latents)
    large = model.clone(input_size=128, patch_size=128)
    given = config_lib.resolve({"recipe": "none", "model.output_init": "data"})
    with pytest.raises(UserError, match="a patch has 16,384 numbers, .* at most 4,096"):
        check_output(given, large, latents)
