"""What each drifting field costs in a step of the paper's ablation: python benchmarks/field_cost.py --channels 640

One class of 64 generated, 64 positive and 16 unconditional samples, latents of 32x32x4, a B/2 generator and a published MAE's architecture with random weights. The parts are
measured apart, as a whole step of this size does not fit a small machine, and added up:

    generator    forward and backward for the 64 samples            measured on --images of them
    encoder      forward for 144, backward for 64                   likewise
    field        V of every feature set at every location, with its loss and gradient; sets of one shape at a time, in chunks of the locations; the learned one's training

A second generated batch is one more forward pass of both networks for 64 samples. One JSON line: seconds of each part, each field's share of the step, and FLOPs on paper.
"""

import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from configs.default import Key
from drifting.fields import make_field
from drifting.fields.learned import field_loss, init_field
from drifting.loss import drift_loss
from models.build import build_generator
from models.features import STATISTICS, feature_sets
from models.generator import init_params
from models.mae import MAE
from utils import config as config_lib
from utils.memory import keep_freed_memory

FLAGS = (
    Key("channels", 640, "base channels of the MAE: 256 or 640 in the paper", "[16, inf)"),
    Key("images", 2, "images on which the networks are timed", "[1, inf)"),
    Key(
        "locations",
        64,
        "locations of a feature set that the fields are timed on; sets with more are scaled up",
        "[1, inf)",
    ),
    Key("networks", True, "time the generator and the encoder"),
)
N, P, U, TAUS = 64, 64, 16, (0.02, 0.05, 0.2)


def seconds(f, *args) -> float:
    """Least of three, after the compilation."""
    f = jax.jit(f)
    jax.block_until_ready(f(*args))
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        jax.block_until_ready(f(*args))
        times.append(time.perf_counter() - begin)
    return min(times)


def encoder(channels):
    """(encode, parameters) of an MAE with random weights."""
    mae = MAE(
        base_channels=channels,
        patch_size=2,
        dropout_prob=0.0,
        layers=(3, 4, 6, 3),
        in_channels=4,
        use_bf16=jax.default_backend() != "cpu",
        input_patch_size=1,
        num_classes=0,
    )
    shapes = jax.eval_shape(
        lambda: mae.init(jax.random.key(0), jnp.zeros((1, 32, 32, 4)), method="maps")
    )["params"]
    leaves, tree = jax.tree.flatten(shapes)
    params = jax.tree.unflatten(
        tree,
        [
            jax.random.normal(jax.random.key(i), a.shape) / np.sqrt(max(np.prod(a.shape[:-1]), 1))
            for i, a in enumerate(leaves)
        ],
    )
    return lambda params, x: feature_sets(
        mae.apply({"params": params}, x, method="maps"), ("*",), STATISTICS, (2, 4)
    ), params


def field_seconds(field, options, sets, locations, second=False, guidance="negatives"):
    """Seconds of the loss and its gradient for all sets of one class. sets: {name: (T, D)}."""

    def loss(gen, real, other):
        value, _ = drift_loss(
            gen,
            real[:, :P],
            real[:, P:],
            weight_neg=jnp.full((gen.shape[0], U), 1.0),
            temperatures=TAUS,
            field=make_field(field, options),
            second=other if second else None,
            guidance=guidance,
        )
        return value.sum()

    total, timed = 0.0, {}
    for t, d in sets.values():
        if (t, d) not in timed:
            draw = lambda key, n: jax.random.normal(jax.random.key(key), (min(t, locations), n, d))
            timed[t, d] = (
                seconds(jax.grad(loss), draw(0, N), draw(1, P + U), draw(2, N))
                * t
                / min(t, locations)
            )
        total += timed[t, d]
    return total


def training_seconds(params, sets):
    """Seconds in which a learned field takes its own gradient, at one location of every set of one class."""
    phi = {
        name: jax.random.normal(jax.random.key(i), (P + U, 1, d))
        for i, (name, (_, d)) in enumerate(sets.items())
    }
    return seconds(
        jax.grad(
            lambda params, phi: field_loss(params, jax.random.key(0), phi, jnp.ones((1, P)), TAUS)
        ),
        params,
        phi,
    )


def flops_on_paper(sets):
    """Of one class, multiply and add counted as two; an exponential as one."""
    problems, vectors = sum(t for t, _ in sets.values()), sum(t * d for t, d in sets.values())
    pairs = N * (N + P + U)
    return {
        "problems": problems,
        "kernel_gflop": (2 * 2 * pairs + 2 * len(TAUS) * pairs) * vectors / 1e9
        + 20 * len(TAUS) * pairs * problems / 1e9,
        "sinkhorn_gexp_20_iterations": 2 * 20 * len(TAUS) * N * (P + N + U) * problems / 1e9,
    }


def main(flag_values):
    flags = config_lib.all_flags(flag_values)
    keep_freed_memory()
    encode, enc_params = encoder(flags.channels)
    n = flags.images
    sets = {
        k: f.shape[1:]
        for k, f in jax.eval_shape(encode, enc_params, jnp.zeros((1, 32, 32, 4))).items()
    }
    out = {
        "channels": flags.channels,
        "sets": len(sets),
        "device": jax.devices()[0].device_kind,
    } | flops_on_paper(sets)

    if flags.networks:
        model = build_generator(
            config_lib.resolve(
                {"recipe": "none", "model.use_bf16": jax.default_backend() != "cpu"}
            ).model,
            (32, 32, 4),
            1000,
        )
        params = init_params(model, jax.random.key(0))
        x, labels, style = (
            jnp.ones((n, 32, 32, 4)),
            jnp.zeros(n, jnp.int32),
            jnp.zeros((n, 32), jnp.int32),
        )
        generate = lambda p: model.apply({"params": p}, x, labels, jnp.ones(n), style)
        out |= {
            "gen_forward": N / n * seconds(generate, params),
            "gen_both": N / n * seconds(jax.grad(lambda p: jnp.sum(generate(p) ** 2)), params),
        }
        total = lambda x, params: sum(jnp.sum(f**2) for f in encode(params, x).values())
        out |= {
            "enc_forward": 1 / n * seconds(lambda x, p: encode(p, x), x, enc_params),
            "enc_both": 1 / n * seconds(jax.grad(total), x, enc_params),
        }
        networks = out["gen_both"] + N * out["enc_both"] + (P + U) * out["enc_forward"]
        second = out["gen_forward"] + N * out["enc_forward"]

    dims = sorted({d for _, d in sets.values()})
    learned = {"params": init_field(jax.random.key(0), dims, 64, True)}
    cases = {
        "kernel": ("kernel", {}),
        "uncoupled": ("uncoupled", {}),
        "sinkhorn, no iteration": ("sinkhorn", {"iterations": 0.0}, True, "field"),
        "sinkhorn": ("sinkhorn", {}, True, "field"),
        "learned": ("learned", learned),
    }
    for name, case in cases.items():
        field = field_seconds(*case[:2], sets, flags.locations, *case[2:]) + (
            training_seconds(learned["params"], sets) if name == "learned" else 0
        )
        out[name] = {"field_s": round(field, 2)}
        if flags.networks:
            step = networks + field + (second if len(case) > 2 else 0)
            out[name] |= {"step_s": round(step, 1), "share": round(field / step, 4)}
    if flags.networks:
        out["second_batch_share"] = round(second / (networks + second), 3)
        out["sinkhorn_iterations_share"] = round(
            (out["sinkhorn"]["field_s"] - out["sinkhorn, no iteration"]["field_s"])
            / out["sinkhorn, no iteration"]["step_s"],
            4,
        )
    print(json.dumps(out))


if __name__ == "__main__":
    config_lib.define_flags(groups=(), extra=FLAGS)
    config_lib.run_main(main)
