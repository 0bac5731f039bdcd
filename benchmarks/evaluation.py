"""What scoring costs on the devices at hand; one JSON line at the end.

    python benchmarks/evaluation.py --metrics precision_recall --count 50000       a metric on random features, its time and the peak memory of the process
    python benchmarks/evaluation.py --load_dir RUN --features inception --fid_stats S --num_samples 64    rates and shares of generation, features and metrics

The first runs each metric once, with its compilation. The second evaluates twice and reports the second time, without compilation.
"""

import json
import pathlib
import resource
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from configs.default import Key
from evaluation.choose_metrics import parse_metrics
from evaluation.clock import Clock
from evaluation.load_reference import load_reference
from evaluation.scoring import score
from metrics.collect import BLOCK
from metrics.evidence import Comparison, Evidence
from metrics.fid import Moments
from metrics.table import METRICS
from models.sampling import generate
from models.weights import load_generator
from utils import config as config_lib
from utils.errors import UserError
from utils.logging import setup_logging
from utils.sharding import local_sharding, round_up

FLAGS = (
    Key(
        "metrics",
        "",
        "of fid, inception_score, kid, precision_recall, density_coverage, moments, separated by commas: on random features; empty = an evaluation of --load_dir",
    ),
    Key("count", 10_000, "random features in each set", "[100, inf)"),
    Key("dim", 2048, "their dimension", "[1, inf)"),
    Key("num_samples", 64, "samples of the evaluation", "[11, inf)"),
    Key("sample_batch_size", 32, "samples per call", "[1, inf)"),
)


def peak_gib() -> float:
    """Greatest memory of this process until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def time_metrics(names, count, dim) -> dict:
    """Seconds of each metric on two sets of normal features [count, dim], one moved and scaled."""
    rng = np.random.default_rng(0)
    real = rng.standard_normal((count, dim), np.float32)
    fake = 1.1 * rng.standard_normal((count, dim), np.float32) + 0.1
    start = time.perf_counter()
    sets = []
    for features in (fake, real) if {"moments", "fid"} & set(names) else ():
        moments = Moments(dim)
        for first in range(0, count, BLOCK):
            moments.update(features[first : first + BLOCK])
        sets.append(Evidence(count, *moments.result()))
    found = {"moments_s": (time.perf_counter() - start) / 2} if sets else {}
    sets = sets or [Evidence(count, None, None)] * 2
    evidence = [e._replace(features=f, logits=f[:, :1008]) for e, f in zip(sets, (fake, real))]
    for name in names:
        if name == "moments":
            continue
        start = time.perf_counter()
        values = METRICS[name].compute(Comparison(*evidence))
        found |= {f"{name}_s": time.perf_counter() - start} | dict(
            zip(METRICS[name].scores, map(float, values))
        )
    return found


def time_evaluation(flags) -> dict:
    """Rates and shares of an evaluation whose programs are compiled."""
    model, params, _ = load_generator(flags.load_dir)
    sharding = local_sharding()
    batch_size = round_up(min(flags.sample_batch_size, flags.num_samples), sharding.mesh.size)
    reference = load_reference(
        "",
        features=flags.features,
        inception_weights=flags.inception_weights,
        fid_stats=flags.fid_stats,
        shape=tuple(model.sample_shape),
        batch_size=batch_size,
        sharding=sharding,
    )
    labels = np.arange(flags.num_samples) % model.num_classes
    for _ in range(2):
        clock = Clock(
            generate(model, params, labels, 1.0, 0, batch_size=batch_size, sharding=sharding),
            lambda images: None,
        )
        score(clock, reference, labels, batch_size, sharding)
        shares = clock.timings(flags.num_samples)
    return {
        "features": reference.network.name,
        "samples": flags.num_samples,
        "batch_size": batch_size,
    } | shares


def main(flag_values):
    setup_logging()
    flags = config_lib.all_flags(flag_values)
    names = tuple(name for name in flags.metrics.split(",") if name)
    if bool(names) == bool(flags.load_dir):
        raise UserError("give --metrics, or --load_dir with --fid_stats")
    if "class_agreement" in parse_metrics(",".join(name for name in names if name != "moments")):
        raise UserError("--metrics class_agreement: it is of images, not of features; leave it out")
    found = (
        time_metrics(names, flags["count"], flags.dim) | {"count": flags["count"], "dim": flags.dim}
        if names
        else time_evaluation(flags)
    )
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}
    print(
        json.dumps(
            {"device": jax.devices()[0].device_kind, "devices": jax.device_count()}
            | rounded
            | {"peak_gib": round(peak_gib(), 2)}
        )
    )


if __name__ == "__main__":
    config_lib.define_flags(("load_dir", "features", "inception_weights", "fid_stats"), FLAGS)
    config_lib.run_main(main)
