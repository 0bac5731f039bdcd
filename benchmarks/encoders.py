"""What each feature encoder costs at its recipe's size: python benchmarks/encoders.py

Per image: GFLOP of the matrix products and convolutions, forward, and with the gradient to the image (utils/cost.py: XLA's own count takes the loop over the layers of a
transformer for one turn), and kB of the feature sets. In all: parameters.
With --batch_size N it is also compiled and run on the devices at hand: milliseconds and temporary memory of a batch, with its gradient, beside the rate of matrix products in the same run. Weights are random numbers:
the time does not depend on their values. One JSON line each.
"""

import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.frame import matmul_rate
from configs.default import Key
from models.standin import load_random, load_shapes
from planning.cost import matmul_flops
from utils import config as config_lib
from utils.errors import UserError
from utils.logging import setup_logging

SIZES = {  # encoder: (samples of the recipe that takes it, resized where the encoder has a size of its own)
    "dinov2:small": (32, 32, 3),
    "dinov2:base": (32, 32, 3),
    "dinov2:large": (32, 32, 3),
    "resnet18": (32, 32, 3),
    "resnet50": (32, 32, 3),
    "mae:hf://mae_latent_ablation_256": (32, 32, 4),
    "mae:hf://mae_latent_640": (32, 32, 4),
    "mae:hf://mae_pixel_640": (256, 256, 3),
    "convnextv2:base": (256, 256, 3),
    "convnextv2:tiny": (256, 256, 3),
}
FLAGS = (
    Key("encoders", "all", f"some of {', '.join(SIZES)}, separated by commas"),
    Key("batch_size", 0, "images that are encoded at once; 0 = only count", "[0, inf)"),
    Key("rounds", 3, "rounds of timing; the median is reported", "[1, inf)"),
    Key("bf16", False, "compute in bfloat16"),
)


def programs(encode):
    """encode, and its gradient to the images (of the sum of all features)."""
    total = lambda params, images: sum(jnp.sum(f) for f in encode(params, images).values())
    return {"forward": encode, "gradient": jax.grad(total, argnums=1)}


def cost(where, shape, flags) -> dict:
    load = load_random if flags.batch_size else load_shapes
    encode, params, _ = load(where, bf16=flags.bf16)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    sets = jax.eval_shape(encode, params, image)
    out = {
        "encoder": where,
        "sample": "x".join(map(str, shape)),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "bf16": flags.bf16,
        "parameters": sum(int(np.prod(a.shape)) for a in jax.tree.leaves(params)),
        "sets": len(sets),
        "vectors": sum(f.shape[1] for f in sets.values()),
        "feature_kb": round(sum(4 * np.prod(f.shape) for f in sets.values()) / 1e3, 1),
    }
    for name, function in programs(encode).items():
        out[f"gflop_{name}"] = round(
            matmul_flops(jax.jit(function).trace(params, image).jaxpr) / 1e9, 2
        )
        if flags.batch_size:
            images = jnp.zeros((flags.batch_size, *shape))
            compiled = jax.jit(function).lower(params, images).compile()
            times = []
            for _ in range(flags.rounds + 1):
                begin = time.perf_counter()
                jax.block_until_ready(compiled(params, images))
                times.append(time.perf_counter() - begin)
            out[f"ms_{name}"] = round(1e3 * float(np.median(times[1:])), 1)
            out[f"temporary_mb_{name}"] = round(
                compiled.memory_analysis().temp_size_in_bytes / 1e6, 1
            )
    return out | (
        {
            "batch_size": flags.batch_size,
            "matmul_gflop_per_s": round(
                matmul_rate(jnp.bfloat16 if flags.bf16 else jnp.float32) / 1e9
            ),
        }
        if flags.batch_size
        else {}
    )


def main(flag_values):
    setup_logging()
    flags = config_lib.all_flags(flag_values)
    chosen = list(SIZES) if flags.encoders == "all" else flags.encoders.split(",")
    for where in chosen:
        if where not in SIZES:
            raise UserError(f"--encoders {where}: expected all, or some of {', '.join(SIZES)}")
        print(json.dumps(cost(where, SIZES[where], flags)), flush=True)


if __name__ == "__main__":
    config_lib.define_flags(groups=(), extra=FLAGS)
    config_lib.run_main(main)
