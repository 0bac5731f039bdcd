"""What each feature encoder costs at the size of the recipe that takes it.

    python benchmarks/encoders.py                           counts FLOPs and features
    python benchmarks/encoders.py --batch_size 8            also runs them on the devices at hand

A line of JSON for each encoder. Per image: GFLOP of the matrix products and convolutions, forward
and with the gradient to the image, counted by utils/flops.py (XLA's own count takes the loop over
the layers of a transformer for one turn); and kB of the feature sets. In all: parameters.

With --batch_size also milliseconds and temporary memory of a batch, forward and with its gradient
in turn, beside the rate of matrix products. Weights are random: the time does not depend on them.
"""

import pathlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.frame import machine, print_line, time_in_turn
from configs.default import Key
from models.standin import load_random, load_shapes
from utils import config as config_lib
from utils.errors import UserError
from utils.flops import matmul_flops
from utils.logging import setup_logging

# The samples of the recipe that takes the encoder; it resizes them where it has a size of its own.
SAMPLES = {
    "dinov2:small": (32, 32, 3),
    "dinov2:base": (32, 32, 3),
    "dinov2:large": (32, 32, 3),
    "efficientnet:lite0": (32, 32, 3),
    "efficientnet:lite2": (32, 32, 3),
    "vit:mae": (32, 32, 3),
    "vit:clip": (32, 32, 3),
    "vit:siglip2": (32, 32, 3),
    "resnet18": (32, 32, 3),
    "resnet50": (32, 32, 3),
    "mae:hf://mae_latent_256": (32, 32, 4),
    "mae:hf://mae_latent_640": (32, 32, 4),
    "mae:hf://mae_pixel_640": (256, 256, 3),
    "convnextv2:base": (256, 256, 3),
    "convnextv2:tiny": (256, 256, 3),
}
FLAGS = (
    Key("encoders", "all", f"some of {', '.join(SAMPLES)}, separated by commas"),
    Key("batch_size", 0, "images that are encoded at once; 0 = only count", "[0, inf)"),
    Key("rounds", 3, "rounds of timing; the median is reported", "[1, inf)"),
    Key("bf16", False, "compute in bfloat16"),
)


def main(flag_values):
    setup_logging()
    flags: Any = config_lib.all_flags(flag_values)
    chosen = list(SAMPLES) if flags.encoders == "all" else flags.encoders.split(",")
    for source in chosen:
        if source not in SAMPLES:
            raise UserError(f"--encoders {source}: expected all, or some of {', '.join(SAMPLES)}")
        print_line(measure(source, flags))


def measure(source: str, flags: Any) -> dict[str, Any]:
    """Returns the figures of one encoder."""
    shape = SAMPLES[source]
    load = load_random if flags.batch_size else load_shapes
    encode, params, _ = load(source, bf16=flags.bf16)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    sets = jax.eval_shape(encode, params, image).values()
    numbers = sum(features.size for features in sets)
    row = machine() | {
        "encoder": source,
        "sample": "x".join(map(str, shape)),
        "bf16": flags.bf16,
        "parameters": sum(int(np.prod(a.shape)) for a in jax.tree.leaves(params)),
        "sets": len(sets),
        "vectors": sum(features.shape[1] for features in sets),
        "feature_kb": 4 * numbers / 1e3,
    }
    for name, function in programs(encode).items():
        traced = jax.jit(function).trace(params, image)
        row[f"gflop_{name}"] = matmul_flops(traced.jaxpr) / 1e9
    if flags.batch_size:
        row |= run_on_a_batch(encode, params, shape, flags)
    return row


def programs(encode: Callable) -> dict[str, Callable]:
    """Returns the encoder, and the gradient of the sum of its features to the images."""

    def total(params, images):
        return sum(jnp.sum(features) for features in encode(params, images).values())

    return {"forward": encode, "gradient": jax.grad(total, argnums=1)}


def run_on_a_batch(encode: Callable, params: Any, shape: tuple, flags: Any) -> dict[str, Any]:
    """Returns milliseconds and temporary memory of a batch."""
    images = jnp.zeros((flags.batch_size, *shape))
    compiled: dict[str, Any] = {
        name: jax.jit(function).lower(params, images).compile()
        for name, function in programs(encode).items()
    }
    calls = {name: partial(program, params, images) for name, program in compiled.items()}
    dtype = jnp.bfloat16 if flags.bf16 else jnp.float32
    timing = time_in_turn(calls, flags.rounds, dtype=dtype)
    row = {}
    for name, program in compiled.items():
        row[f"ms_{name}"] = timing.milliseconds(name)
        row[f"temporary_mb_{name}"] = program.memory_analysis().temp_size_in_bytes / 1e6
    row["batch_size"] = flags.batch_size
    row["matmul_gflop_per_s"] = timing.matmul_rate / 1e9
    return row


if __name__ == "__main__":
    config_lib.define_flags(groups=(), extra=FLAGS)
    config_lib.run_main(main)
