"""What each drifting field costs in a step of the paper's ablation.

    python benchmarks/field_cost.py --channels 640

One class of 64 generated, 64 positive and 16 unconditional samples; latents of 32x32x4, a B/2
generator, and the architecture of a published MAE with random weights. A step of this size does not
fit a small machine, so the parts are measured apart and added up:

    generator    forward and backward for the 64 samples; measured on --images of them
    encoder      forward for all 144, backward for the 64; likewise
    field        V of every feature set at every location, with its loss and gradient; sets of one
                 shape at a time, on --locations of them. Beside them the training of the learned
                 field, and the moments of all classes together for the Frechet field

A second generated batch is one more forward pass of both networks for 64 samples. One line of JSON:
seconds of each part, each field's share of the step, and FLOPs on paper.
"""

import collections
import math
import pathlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.frame import machine, print_line, time_in_turn
from configs.default import Key
from drifting.fields import make_field
from drifting.fields.frechet import Moments
from drifting.fields.learned import field_loss, init_field
from drifting.layout import ONE_DEVICE
from drifting.loss import drift_loss
from drifting.memory import NOTHING_RECALLED, Recalled, Seen
from models.build import build_generator
from models.features import STATISTICS, feature_sets
from models.generator import init_params
from models.mae import MAE
from utils import config as config_lib
from utils.errors import UserError
from utils.flops import matmul_rate
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
    Key("fields", "", "some of the fields, separated by commas; all if empty"),
)
N, P, U = 64, 64, 16  # generated, positive and unconditional samples
TEMPERATURES = (0.02, 0.05, 0.2)
LATENTS = (32, 32, 4)
CLASSES = 1000
FIELD_WIDTH = 64  # hidden units of the learned field
LANDMARKS = 256  # of mmd

Sets = Mapping[str, tuple[int, int]]  # (locations, features) of each feature set by name


def _nothing(problems: int, width: int) -> Recalled:
    return NOTHING_RECALLED


class Case(NamedTuple):
    """A field as it is used."""

    field: str
    options: dict[str, Any]
    second: bool = False  # whether it has a second generated batch for its negatives
    guidance: str = "negatives"
    # (problems, width) -> what the field is told beside the samples
    recall: Callable[[int, int], Recalled] = _nothing


def main(flag_values):
    flags: Any = config_lib.all_flags(flag_values)
    keep_freed_memory()
    encode, encoder_params = random_encoder(flags.channels)
    image = jnp.zeros((1, *LATENTS))
    features = jax.eval_shape(encode, encoder_params, image)
    sets: Sets = {name: (f.shape[1], f.shape[2]) for name, f in features.items()}

    cases = chosen_cases(sets, flags.fields)
    line = machine() | {"channels": flags.channels, "sets": len(sets)} | flops_on_paper(sets)
    network_s = second_s = None
    if flags.networks:
        parts = network_seconds(encode, encoder_params, flags.images)
        network_s = parts["gen_both"] + N * parts["enc_both"] + (P + U) * parts["enc_forward"]
        second_s = parts["gen_forward"] + N * parts["enc_forward"]
        line |= parts
    line |= fields_in_a_step(sets, cases, flags.locations, network_s, second_s)
    line["matmul_gflop_per_s"] = matmul_rate() / 1e9
    print_line(line)


def seconds(function: Callable, *args: Any) -> float:
    """Returns the least of three times of a jitted call."""
    jitted = jax.jit(function)
    timing = time_in_turn({"call": partial(jitted, *args)}, rounds=3, dtype=None)
    return min(timing.seconds["call"])


# ---------------------------------------------------------------- the networks


def random_encoder(channels: int) -> tuple[Callable, Any]:
    """Returns (params, latents) -> feature sets of an MAE, and its parameters, random numbers."""
    mae = MAE(
        base_channels=channels,
        patch_size=2,
        dropout_prob=0.0,
        layers=(3, 4, 6, 3),
        in_channels=LATENTS[2],
        use_bf16=jax.default_backend() != "cpu",
        input_patch_size=1,
        num_classes=0,
    )

    def init():
        return mae.init(jax.random.key(0), jnp.zeros((1, *LATENTS)), method="maps")["params"]

    def encode(params, latents):
        maps: Any = mae.apply({"params": params}, latents, method="maps")
        return feature_sets(maps, ("*",), STATISTICS, (2, 4))

    leaves, tree = jax.tree.flatten(jax.eval_shape(init))
    random = []
    for i, leaf in enumerate(leaves):
        fan_in = max(math.prod(leaf.shape[:-1]), 1)
        random.append(jax.random.normal(jax.random.key(i), leaf.shape) / math.sqrt(fan_in))
    return encode, jax.tree.unflatten(tree, random)


def network_seconds(encode: Callable, encoder_params: Any, images: int) -> dict[str, float]:
    """Returns the seconds of both networks, forward and with the backward pass.

    Those of the generator are for N samples, those of the encoder for one.
    """
    given = {"recipe": "none", "model.use_bf16": jax.default_backend() != "cpu"}
    model = build_generator(config_lib.resolve(given).model, LATENTS, CLASSES)
    params = init_params(model, jax.random.key(0))
    latents = jnp.ones((images, *LATENTS))
    labels = jnp.zeros(images, jnp.int32)
    style = jnp.zeros((images, 32), jnp.int32)

    def generate(params):
        return model.apply({"params": params}, latents, labels, jnp.ones(images), style)

    def generated_square(params):
        return jnp.sum(generate(params) ** 2)

    def features(latents):
        return encode(encoder_params, latents)

    def feature_square(latents):
        return sum(jnp.sum(f**2) for f in features(latents).values())

    return {
        "gen_forward": N / images * seconds(generate, params),
        "gen_both": N / images * seconds(jax.grad(generated_square), params),
        "enc_forward": seconds(features, latents) / images,
        "enc_both": seconds(jax.grad(feature_square), latents) / images,
    }


# ---------------------------------------------------------------- the fields


def chosen_cases(sets: Sets, fields: str) -> dict[str, Case]:
    """Returns the fields to time by name. Raises UserError for a name in --fields that is none."""
    widths = sorted({width for _, width in sets.values()})
    learned = init_field(jax.random.key(0), widths, FIELD_WIDTH, True)
    no_iteration = Case("sinkhorn", {"iterations": 0.0}, second=True, guidance="field")
    cases = {
        "kernel": Case("kernel", {}),
        "uncoupled": Case("uncoupled", {}),
        "sinkhorn without iterations": no_iteration,
        "sinkhorn": no_iteration._replace(options={}),
        "learned": Case("learned", {"params": learned}),
        "mmd": Case("mmd", {}),
        f"mmd with {LANDMARKS} landmarks": Case("mmd", {}, recall=some_landmarks),
        "frechet": Case("frechet", {}, recall=some_transport),
    }
    if not fields:
        return cases
    names = fields.split(",")
    if not cases.keys() >= set(names):
        raise UserError(f"--fields {fields}: expected some of {', '.join(cases)}")
    return {name: cases[name] for name in names}


def fields_in_a_step(
    sets: Sets,
    cases: Mapping[str, Case],
    locations: int,
    network_s: float | None,
    second_s: float | None,
) -> dict[str, Any]:
    """Returns the seconds of each field, and its share of a step where the networks are timed.

    Args:
        sets: the feature sets.
        cases: the fields by name.
        locations: of a set that are timed.
        network_s: seconds of both networks in a step; None if they are not timed.
        second_s: of a second generated batch.
    """
    field_s, step_s = {}, {}
    found: dict[str, Any] = {}
    for name, case in cases.items():
        field_s[name] = field_seconds(case, sets, locations)
        if name == "learned":
            field_s[name] += training_seconds(case.options["params"], sets)
        if name == "frechet":
            field_s[name] += moments_seconds(sets)
        found[name] = {"field_s": field_s[name]}
        if network_s is not None and second_s is not None:
            step_s[name] = network_s + field_s[name]
            if case.second:
                step_s[name] += second_s
            share = field_s[name] / step_s[name]
            found[name] |= {"step_s": step_s[name], "share": share}
    if network_s is not None and second_s is not None:
        found["second_batch_share"] = second_s / (network_s + second_s)
        if {"sinkhorn", "sinkhorn without iterations"} <= cases.keys():
            iterations = field_s["sinkhorn"] - field_s["sinkhorn without iterations"]
            found["sinkhorn_iterations_share"] = iterations / step_s["sinkhorn without iterations"]
    return found


def field_seconds(case: Case, sets: Sets, locations: int) -> float:
    """Returns the seconds of the loss and its gradient for all feature sets of one class."""

    def loss(gen, real, other, recalled):
        values, _ = drift_loss(
            gen,
            real[:, :P],
            real[:, P:],
            weight_neg=jnp.ones((gen.shape[0], U)),
            temperatures=TEMPERATURES,
            field=make_field(case.field, case.options),
            second=other if case.second else None,
            guidance=case.guidance,
            recalled=recalled,
        )
        return values.sum()

    total, timed = 0.0, {}
    for shape in sets.values():
        if shape not in timed:
            count, width = shape
            some = min(count, locations)
            gen = jax.random.normal(jax.random.key(0), (some, N, width))
            real = jax.random.normal(jax.random.key(1), (some, P + U, width))
            other = jax.random.normal(jax.random.key(2), (some, N, width))
            recalled = case.recall(some, width)
            timed[shape] = seconds(jax.grad(loss), gen, real, other, recalled) * count / some
        total += timed[shape]
    return total


def training_seconds(params: Any, sets: Sets) -> float:
    """Returns the seconds of a learned field's own gradient, at one location of every set."""
    samples = {
        name: jax.random.normal(jax.random.key(i), (P + U, 1, width))
        for i, (name, (_, width)) in enumerate(sets.items())
    }

    def loss(params, samples):
        return field_loss(params, jax.random.key(0), samples, jnp.ones((1, P)), TEMPERATURES)

    return seconds(jax.grad(loss), params, samples)


def some_landmarks(problems: int, width: int) -> Recalled:
    """Returns random landmarks of each problem, alike in weight."""
    z = jax.random.normal(jax.random.key(3), (problems, LANDMARKS, width))
    weight = jnp.full((problems, len(TEMPERATURES), LANDMARKS), 1 / LANDMARKS)
    unit = jnp.full(problems, math.sqrt(2 * width))
    return Recalled(each={"z": z, "unit_z": unit}, each_tau={"weight_z": weight})


def some_transport(problems: int, width: int) -> Recalled:
    """Returns means and a transport map of each problem."""
    mean = jnp.zeros((problems, width))
    transport = jnp.broadcast_to(jnp.eye(width), (problems, width, width))
    return Recalled(each={"mean_gen": mean, "mean_real": mean, "transport": transport})


def moments_seconds(sets: Sets) -> float:
    """Returns the seconds in which Frechet's memory looks at the sets of one class."""
    memory = Moments(moments="all", moment_decay=0.999)
    total = 0.0
    for (count, width), number in collections.Counter(sets.values()).items():
        kind = {"set": jax.ShapeDtypeStruct((1, count, width), jnp.float32)}
        state = memory.init(jax.random.key(0), kind, 1)
        of_reals = {"set": (np.zeros(width), np.eye(width))}
        state = jax.tree.map(jnp.asarray, memory.know(state, [of_reals]))

        def look(state, gen):
            real = {"set": jnp.zeros((P, *gen.shape[1:]))}
            label = jnp.zeros(1, jnp.int32)
            seen = Seen(label, {"set": gen}, real, jnp.ones((1, P)), TEMPERATURES, ONE_DEVICE)
            return memory.look(state, jax.random.key(0), seen)[0]

        gen = jax.random.normal(jax.random.key(0), (N, count, width))
        total += number * seconds(look, state, gen)
    return total


def flops_on_paper(sets: Sets) -> dict[str, Any]:
    """Returns what one class takes; a multiply-add counts as two, an exponential as one."""
    problems = sum(locations for locations, _ in sets.values())
    numbers = sum(locations * width for locations, width in sets.values())  # of a sample
    pairs, taus = N * (N + P + U), len(TEMPERATURES)
    # Distances, and the products of weights and samples at each temperature.
    products = (2 * 2 * pairs + 2 * taus * pairs) * numbers
    # The arithmetic of two softmaxes at each temperature.
    softmaxes = 20 * taus * pairs * problems
    return {
        "problems": problems,
        "kernel_gflop": (products + softmaxes) / 1e9,
        "sinkhorn_gexp_20_iterations": 2 * 20 * taus * pairs * problems / 1e9,
    }


if __name__ == "__main__":
    config_lib.define_flags(groups=(), extra=FLAGS)
    config_lib.run_main(main)
