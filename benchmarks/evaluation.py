"""What scoring costs on the devices at hand; one line of JSON at the end.

    python benchmarks/evaluation.py --metrics precision_recall --count 50000
        a metric on random features: its time, and the peak memory of the process
    python benchmarks/evaluation.py --load_dir RUN --features inception --fid_stats S \\
        --num_samples 64
        rates and shares of generation, features and metrics

The first runs each metric once, with its compilation. The second evaluates twice and reports the
second time, without compilation.
"""

import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.frame import machine, peak_bytes, print_line
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
        "of fid, inception_score, kid, precision_recall, density_coverage, vendi, moments, "
        "separated by commas: on random features; empty = an evaluation of --load_dir",
    ),
    Key("count", 10_000, "random features in each set", "[100, inf)"),
    Key("dim", 2048, "their dimension", "[1, inf)"),
    Key("num_samples", 64, "samples of the evaluation", "[11, inf)"),
    Key("sample_batch_size", 32, "samples per call", "[1, inf)"),
)
CLASSES_OF_INCEPTION = 1008


def main(flag_values):
    setup_logging()
    flags: Any = config_lib.all_flags(flag_values)
    names = [name for name in flags.metrics.split(",") if name]
    if bool(names) == bool(flags.load_dir):
        raise UserError("give --metrics, or --load_dir with --fid_stats")
    if "class_agreement" in parse_metrics(",".join(name for name in names if name != "moments")):
        raise UserError("--metrics class_agreement: it is of images, not of features; leave it out")
    if names:
        found = time_metrics(names, flags["count"], flags.dim)
        found |= {"count": flags["count"], "dim": flags.dim}
    else:
        found = time_evaluation(flags)
    print_line(machine() | found | {"peak_gib": peak_bytes() / 2**30})


def time_metrics(names: Sequence[str], count: int, dim: int) -> dict[str, Any]:
    """Returns the seconds and the values of each metric.

    They compare two sets of normal features [count, dim], one of them moved and scaled.
    """
    random = np.random.default_rng(0)
    real = random.standard_normal((count, dim), np.float32)
    generated = 1.1 * random.standard_normal((count, dim), np.float32) + 0.1

    found = {}
    moments = [(np.zeros(0), np.zeros((0, 0)))] * 2  # not needed
    if {"moments", "fid"} & set(names):
        start = time.perf_counter()
        moments = [moments_of(features) for features in (generated, real)]
        found["moments_s"] = (time.perf_counter() - start) / 2

    sets: list[Any] = []
    for features, (mean, covariance) in zip((generated, real), moments, strict=True):
        logits = features[:, :CLASSES_OF_INCEPTION]
        sets.append(Evidence(count, mean, covariance, features, logits))
    comparison = Comparison(*sets)
    for name in names:
        if name != "moments":
            metric = METRICS[name]
            start = time.perf_counter()
            values = metric.compute(comparison)
            found[f"{name}_s"] = time.perf_counter() - start
            found |= dict(zip(metric.scores, map(float, values), strict=True))
    return found


def moments_of(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean [D] and covariance [D, D] of features [N, D], taken block by block."""
    moments = Moments(features.shape[1])
    for first in range(0, len(features), BLOCK):
        moments.update(features[first : first + BLOCK])
    return moments.result()


def time_evaluation(flags: Any) -> dict[str, Any]:
    """Returns rates and shares of an evaluation whose programs are compiled."""
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
    timings = {}
    for _ in range(2):  # the first one compiles
        samples = generate(model, params, labels, 1.0, 0, batch_size=batch_size, sharding=sharding)
        clock = Clock(samples)
        score(clock, reference, labels, batch_size, sharding)
        timings = clock.timings(flags.num_samples)
    facts = {"features": reference.network.name, "samples": flags.num_samples}
    return facts | {"batch_size": batch_size} | timings


if __name__ == "__main__":
    config_lib.define_flags(("load_dir", "features", "inception_weights", "fid_stats"), FLAGS)
    config_lib.run_main(main)
