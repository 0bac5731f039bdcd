"""The laboratory of scripts/toy2d.py: what is trained in the plane, and how it is measured."""

import time
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data import toy2d as toys
from drifting.accumulate import in_groups
from drifting.bank import Batch
from drifting.config import DriftConfig, temperature_factor
from drifting.fields import make_field
from drifting.layout import ONE_DEVICE
from drifting.loss import problem_losses
from drifting.memory import NOTHING_RECALLED, Seen
from drifting.problems import one_set_of_problems
from drifting.state import TrainState, init_state, named_key
from drifting.step import drift_step
from metrics.sliced_wasserstein import sliced_wasserstein
from models.build import build_generator
from models.generator import init_params
from training.optimizer import build_optimizer
from training.resolve_field import OPTIONS, resolve_field
from utils import config as config_lib
from utils.errors import UserError

INITS = ("between", "far", "collapsed")
SETTINGS = {
    "recipe": "none",
    "max_steps": 1000,
    "drift.n_neg": 256,
    "drift.n_unc": 0,
    "drift.alpha_max": 1.0,
    "model.name": "mlp",
    "model.hidden_size": 128,
    "model.depth": 3,
    "model.noise_classes": 0,
    "model.noise_coords": 1,
    "model.use_bf16": False,
    "drift.temperatures": (0.2, 0.5, 2.0),
    "optim.learning_rate": 5e-4,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 20,
    "optim.ema": (0.99,),
}
# The settings of the group `drift` that have a meaning here.
DRIFT_SETTINGS = {
    "drift.field",
    "drift.temperatures",
    "drift.temperature_schedule",
    "drift.neighbours",
    "drift.n_neg",
    "drift.negatives",
    *(f"drift.{name}" for name in OPTIONS),
}
MEASURED = 4096  # samples of a measurement


# ---- the settings ----


def resolve(given: dict[str, Any]) -> Any:
    """Returns the trainer's configuration, with SETTINGS in the place of a recipe.

    Raises UserError for settings of the drift that have no meaning here.
    """
    unused = [
        f"--{name}" for name in given if name.startswith("drift.") and name not in DRIFT_SETTINGS
    ]
    if unused:
        raise UserError(
            f"{', '.join(unused)}: the laboratory has one class, no guidance and fresh samples "
            "in each step; leave out"
        )
    merged = SETTINGS | given
    return config_lib.resolve(merged | {"batch_size": merged["drift.n_neg"]})


# ---- one training ----


class Lab:
    """A distribution, a generator of points, and the drifting step on fresh samples.

    It is compiled once for all starting points and seeds. To the step, points are images [1, 1, 2].
    """

    def __init__(self, toy: str, config: Any):
        """toy: a name in data/toy2d.py. config: what `resolve` returned."""
        self.toy = toy
        self.config = config
        self.model = build_generator(config.model, (1, 1, 2), 1)
        self.drift = DriftConfig(
            n_classes=1,
            n_c=1,
            n_neg=config.drift.n_neg,
            n_pos=config.drift.n_neg,
            n_unc=0,
            alpha_min=1.0,
            alpha_max=1.0,
            alpha_power=3.0,
            no_cfg_frac=0.0,
            max_steps=config.max_steps,
            style_shape=(1, 0),
            **resolve_field(config.drift),
        )
        _, self.optimizer = build_optimizer(config.optim, config.max_steps)
        self.step = jax.jit(self._step, donate_argnums=0)
        self.field = jax.jit(self._field)
        self.samples = jax.jit(self._samples)

    def start(self, init: str, seed: int) -> TrainState:
        """Returns a state whose samples are about a point.

        The output layer is made small, and its bias is the point.
        """
        point, spread = starting_point(self.toy, init)
        params = init_params(self.model, named_key(seed, "init"))
        params["output"]["linear"] = {
            "kernel": params["output"]["linear"]["kernel"] * spread,
            "bias": jnp.float32(point),
        }
        memory = self.drift.memory
        sets = {"global": jax.ShapeDtypeStruct((1, 1, 2), jnp.float32)}
        field = memory.init(named_key(seed, "field"), sets, 1)
        if memory.knows_reals:
            field = memory.fill(field, self._all_reals)
        return init_state(params, self.optimizer, self.config.optim.ema, seed, field)

    def _all_reals(self):
        """Yields many samples of the distribution, in the place of all, with their labels."""
        points = toys.draw(self.toy, jax.random.key(0), MEASURED)
        yield {"global": np.asarray(points).reshape(-1, 1, 2)}, np.zeros(MEASURED, np.int32)

    def _generate(self, params, noise, *_):
        """Returns points [N, 1, 1, 2] of noise [N, 1, 1, 2]; labels and styles play no part."""
        n = len(noise)
        labels, alpha = jnp.zeros(n, jnp.int32), jnp.ones(n)
        style = jnp.zeros((n, 1), jnp.int32)
        return self.model.apply({"params": params}, noise, labels, alpha, style)

    def _samples(self, params, seed):
        """Returns as many points [N, 2] as a measurement takes."""
        noise = jax.random.normal(jax.random.key(seed), (MEASURED, 1, 1, 2))
        return self._generate(params, noise).reshape(-1, 2)

    def _step(self, state: TrainState):
        """Takes a drifting step on fresh samples: (state, metrics)."""
        n = self.drift.n_pos
        real = toys.draw(self.toy, named_key(state.seed, "real", state.step), n)
        real = real.reshape(1, n, 1, 1, 2)  # [classes, samples, H, W, channels]
        batch = Batch(
            labels=jnp.zeros(1, jnp.int32),
            alpha=jnp.ones(1),
            pos=real,
            weight_pos=jnp.ones((1, n)),
            unc=real[:, :0],
        )
        return drift_step(
            state,
            in_groups(batch, 1),
            generate=self._generate,
            encode=as_features,
            optimizer=self.optimizer,
            config=self.drift,
        )

    def _field(self, state: TrainState):
        """Returns samples x [N, 2] and their drift V [N, 2].

        V has the direction of the loss's gradient, which is -2 V~ / (2 N S), and the size that it
        has before its normalisation.
        """
        config, n, key = self.drift, self.drift.n_neg, named_key(state.seed, "shown")
        noise_key, second_key = jax.random.split(key)

        def points(noise_key):
            noise = jax.random.normal(noise_key, (n, 1, 1, 2))
            return self._generate(state.params, noise).reshape(1, n, 2)

        x, second = points(noise_key), points(second_key)
        real = toys.draw(self.toy, key, n)[None]
        field = config.memory.adapt(make_field(config.field, config.field_options))
        factor = temperature_factor(config, state.step)
        temperatures = jnp.asarray(config.temperatures) * (1 if factor is None else factor)
        seen = Seen(
            labels=jnp.zeros(1, jnp.int32),
            gen=as_features(x),
            real=as_features(real),
            weight_pos=jnp.ones((1, n)),
            temperatures=temperatures,
            layout=ONE_DEVICE,
        )
        _, recalled = config.memory.look(state.field, key, seen)

        def loss(x):
            problems = one_set_of_problems(x, real, second=second if config.second_batch else None)
            problems = problems._replace(recalled=recalled.get("2", NOTHING_RECALLED))
            value, stats = problem_losses(problems, temperatures, field)
            size = jnp.sqrt(jnp.mean(stats.drift_sq_norm))
            return value.sum(), (stats.distance[0] / jnp.sqrt(2), size)

        (_, (scale, size)), gradient = jax.value_and_grad(loss, has_aux=True)(x)
        return x[0], -gradient[0] * n * scale**2 * size


def as_features(x: jax.Array) -> dict[str, jax.Array]:
    """Returns points [N, 1, 1, 2] as the one feature set [N, 1, 2] in which they are compared."""
    return {"global": x.reshape(-1, 1, 2)}


def starting_point(toy: str, init: str) -> tuple[np.ndarray, float]:
    """Returns the centre of the samples before the first step, and the factor of their spread."""
    if init == "between":
        return np.zeros(2), 0.1
    if init == "far":
        return np.array([3.5, 3.5]), 0.1
    return toys.centre(toy, 0), 0.02


def train(lab: Lab, init: str, seed: int, seen: Collection[int] = ()) -> dict[str, Any]:
    """Trains from one starting point.

    Returns:
        "metrics": a dict for each step; "frames": (step, x, V) at the steps `seen`; "state": at the
        end; "seconds" of training, without compilation.
    """
    jax.block_until_ready(lab.step(lab.start(init, seed)))  # compiles before the clock starts
    state, metrics, frames, seconds = lab.start(init, seed), [], [], 0.0
    last = lab.config.max_steps
    for step in range(last + 1):
        if step in seen:
            jax.block_until_ready(state)
            frames.append((step, *jax.device_get(lab.field(state))))
        if step == last:
            break
        before = time.perf_counter()
        state, values = lab.step(state)
        metrics.append(values)
        if step % 100 == 0 or step + 1 in seen:
            jax.block_until_ready(state)  # so that what is queued counts as training
        seconds += time.perf_counter() - before

    lines = []
    for i, values in enumerate(jax.device_get(metrics)):
        lines.append({"step": i + 1} | {name: float(value) for name, value in values.items()})
    if not np.isfinite(lines[-1]["loss"]):
        raise UserError(
            f"{lab.toy} from {init}: not finite at the end; lower --optim.learning_rate"
        )
    return {"metrics": lines, "frames": frames, "state": state, "seconds": seconds}


# ---- measures ----


def measure(toy: str, x: np.ndarray, seed: int) -> dict[str, Any]:
    """Compares MEASURED generated points [N, 2] with the distribution.

    Returns:
        sliced_wasserstein: the distance to fresh samples.
        modes: how many modes have at least a quarter of their due.
        worst_mode: the least share of a mode, over its due.
        outside: the share of the samples that are on no mode.
        shares: those on each mode.
    """
    n_modes = toys.TOYS[toy]
    x, real = np.asarray(x), np.asarray(toys.draw(toy, jax.random.key(seed + 1), MEASURED))
    mode = toys.mode_of(toy, x)
    shares = np.bincount(mode[mode >= 0], minlength=n_modes) / MEASURED
    return {
        "sliced_wasserstein": sliced_wasserstein(x, real),
        "modes": int((shares * n_modes > 0.25).sum()),
        "worst_mode": float(shares.min() * n_modes),
        "outside": float((mode < 0).mean()),
        "shares": [round(float(share), 4) for share in shares],
    }


def measure_reals(toy: str, seed: int) -> dict[str, Any]:
    """Returns `measure` of real samples; the distance is a mean over eight pairs of sets."""
    found = []
    for k in range(8):
        reals = toys.draw(toy, jax.random.key(seed + 100 + k), MEASURED)
        found.append(measure(toy, np.asarray(reals), seed))
    distances = [values["sliced_wasserstein"] for values in found]
    return found[0] | {"sliced_wasserstein": float(np.mean(distances))}


def first_average(state: TrainState) -> Any:
    """Returns the average of the parameters that is measured."""
    return next(iter(state.ema.values()))


# ---- for benchmarks ----


def benchmark_row(key: dict[str, Any]) -> dict[str, Any]:
    """Runs a training for benchmarks/fields.py: between the modes, at a constant learning rate.

    Returns `step_ms`, the measures along the way as `curve`, and why it `failed`, or "".
    """
    toy, steps = key["task"].partition(":")[2], key["max_steps"]
    given = {
        "drift.field": key["field"],
        "drift.temperatures": key["temperatures"],
        "drift.n_neg": key["size"],
        "max_steps": steps,
        "optim.schedule": "constant",
    }
    lab = Lab(toy, resolve(given))
    state, curve, times = lab.start("between", key["seed"]), [], []
    for step in range(1, steps + 1):
        before = time.perf_counter()
        state, metrics = lab.step(state)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - before)
        if step % max(steps // 8, 1) == 0:
            samples = lab.samples(first_average(state), key["seed"] + 10)
            found = measure(toy, samples, key["seed"])
            curve.append({"step": step, "diversity": float(metrics["diversity"])} | found)
    failed = "" if np.isfinite(curve[-1]["sliced_wasserstein"]) else "not finite"
    return {"step_ms": 1e3 * float(np.median(times)), "curve": curve, "failed": failed}
