"""A generator whose first samples are like the data: the same mean, about the same covariance.

The last layer of a generator is linear and starts at random: its first samples are noise, in which
each pixel goes its own way. In data, neighbouring pixels go together, and most of what differs lies
in a few directions. A generator has to learn these first. Here it begins with them:

    x  <-  (x - m) / s C^(1/2) + mean

with the mean and the covariance C of the data's patches, of the size in which the generator makes
its samples, and the mean m and the deviation s of what it makes at random. The last layer takes
all of it up. It is a start alone: the layer is trained like any other.
"""

import math
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float

import data
from models.dit import DiT
from models.generator import GeneratorModel
from models.sampling import generate
from training.resolve_encoder import check_fit, some_samples
from utils.errors import UserError

MADE = 1024  # samples of the random generator
MOST_NUMBERS = 4096  # of a patch; the covariance has their square, 128 MB


def begin_like(
    dataset: data.Dataset, model: GeneratorModel, params: dict[str, Any]
) -> dict[str, Any]:
    """Returns first parameters of a generator whose samples are like those of the data.

    Args:
        dataset: the training data, as the generator sees them.
        model: the generator.
        params: its random parameters.
    """
    labels = np.arange(MADE) % dataset.n_classes
    if dataset.conditions is not None:
        labels = dataset.conditions[np.arange(MADE) % len(dataset.conditions)]
    module: Any = model
    unclipped = module.clone(clip_output=False)
    made = np.concatenate(list(generate(unclipped, params, labels, 1.0, seed=0)))
    made = patches(made, model)
    deviation = np.maximum(made.std(0), 1e-6)
    mean, root = mean_and_root(patches(some_samples(dataset), model))
    layer = params["output"]["linear"]
    linear = {
        "kernel": layer["kernel"] / deviation @ root,
        "bias": (layer["bias"] - made.mean(0)) / deviation @ root + mean,
    }
    return params | {"output": params["output"] | {"linear": linear}}


def check_output(config: Any, model: GeneratorModel, dataset: data.Dataset) -> None:
    """Raises UserError where the generator's samples cannot be what the flags say of them.

    Args:
        config: the configuration of the run.
        model: the generator.
        dataset: the data as the generator sees it.
    """
    if config.model.clip_output and dataset.dtype != "uint8":
        raise UserError(
            "--model.clip_output 1: only the pixels of images are in [-1, 1], and this generator "
            "learns latents or vectors; give --model.clip_output 0"
        )
    if config.model.output_init == "random":
        return
    if not config.init_from:  # whose weights are the start
        check_fit(config, "--model.output_init data")
    numbers = math.prod(model.sample_shape)
    if isinstance(model, DiT):
        numbers = model.patch_size**2 * model.out_channels
    if numbers > MOST_NUMBERS:
        raise UserError(
            f"--model.output_init data: a patch has {numbers:,} numbers, and it takes at most "
            f"{MOST_NUMBERS:,}; give --model.output_init random, or smaller patches"
        )


def patches(
    samples: Float[np.ndarray, " S *shape"], model: GeneratorModel
) -> Float[np.ndarray, "M D"]:
    """Returns the patches of samples as a DiT makes them; an MLP makes whole samples."""
    if not isinstance(model, DiT):
        return samples.reshape(len(samples), -1)
    side = model.patch_size
    return rearrange(samples, "s (h p) (w q) c -> (s h w) (p q c)", p=side, q=side)


def mean_and_root(
    x: Float[np.ndarray, "M D"],
) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, "D D"]]:
    """Returns the mean and the symmetric root of the covariance, float32, computed in float64."""
    x = x.astype(np.float64)
    covariance = np.atleast_2d(np.cov(x, rowvar=False))
    variances, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(variances, 0)) @ vectors.T
    return x.mean(0).astype(np.float32), root.astype(np.float32)
