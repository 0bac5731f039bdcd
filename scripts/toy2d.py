"""A laboratory in the plane: an MLP learns a 2-D distribution by drifting, from three starting points, and everything can be seen.

    python scripts/toy2d.py --toy bimodal                                       kernel field; figures in runs/toy2d/bimodal/kernel
    python scripts/toy2d.py --toy checkerboard --drift.field sinkhorn --drift.temperatures 0.05
    python scripts/toy2d.py --toy ring --init collapsed --drift.repulsion 0 --out runs/toy2d/no_repulsion

Starting points: between the modes, far away, collapsed on one mode. Written to --out: evolution.png (samples and field over time), evolution.gif, curves.png (loss, drift before its normalisation,
energy distance), result.json: per starting point the sliced Wasserstein distance to fresh samples beside that between two sets of fresh samples, and the share of the samples on each mode.
The flags of the field (docs/fields.md) and all --optim and --model flags of the trainer apply; --drift.n_neg is the number of samples generated in a step, and of real ones. Without guidance.
"""

import json
import logging
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from configs.default import Key
from data import toy2d as toys
from drifting.accumulate import in_groups
from drifting.bank import Batch
from drifting.config import DriftConfig
from drifting.fields import make_field
from drifting.fields.learned import init_field_state
from drifting.loss import drift_loss
from drifting.state import init_state, named_key
from drifting.step import drift_step
from metrics.sliced_wasserstein import sliced_wasserstein
from models.build import build_generator
from models.dit import init_params
from training.optimizer import build_optimizer
from training.resolve_field import resolve_field
from utils import config as config_lib
from utils.errors import UserError
from utils.figures import save_panels
from utils.files import replacing
from utils.logging import setup_logging

log = logging.getLogger("toy2d")

INITS = ("between", "far", "collapsed")
FLAGS = (
    Key("toy", "bimodal", "the distribution", tuple(toys.TOYS)),
    Key("init", "all", "where the samples start", ("all", *INITS)),
    Key("out", "", "folder of the figures; empty = runs/toy2d/TOY/FIELD"),
)
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
DRIFT = {
    f"drift.{k}"
    for k in (
        "field",
        "temperatures",
        "n_neg",
        "negatives",
        "kernel",
        "normalize",
        "iterations",
        "attraction",
        "repulsion",
        "field_width",
        "field_projection",
        "field_lr",
        "field_ema",
    )
}
MEASURED = 4096  # samples
SEEN = (0, 1 / 50, 1 / 15, 1 / 5, 1 / 2, 1)  # shares of the training in the strip
FRAMES = 40  # of the GIF


# ---------------------------------------------------------------- one training


class Lab:
    """A distribution, a generator of points [1, 1, 2] and the drifting step on fresh samples; compiled once for all starting points and seeds."""

    def __init__(self, toy: str, config):
        self.toy, self.config, d = toy, config, config.drift
        self.model = build_generator(config.model, (1, 1, 2), 1)
        self.drift = DriftConfig(
            n_classes=1,
            n_c=1,
            n_neg=d.n_neg,
            n_pos=d.n_neg,
            n_unc=0,
            alpha_min=1.0,
            alpha_max=1.0,
            alpha_power=3.0,
            no_cfg_frac=0.0,
            temperatures=tuple(d.temperatures),
            style_shape=(1, 0),
            **resolve_field(d),
        )
        _, self.optimizer = build_optimizer(config.optim, config.max_steps)
        self.step = jax.jit(self._step, donate_argnums=0)
        self.field = jax.jit(self._field)
        self.samples = jax.jit(
            lambda params, seed: self._generate(
                params, jax.random.normal(jax.random.key(seed), (MEASURED, 1, 1, 2))
            ).reshape(-1, 2)
        )

    def start(self, init: str, seed: int):
        """The state whose samples are about a point: the output layer is made small, and its bias the point."""
        c, (point, spread) = self.config, starting_point(self.toy, init)
        params = init_params(self.model, named_key(seed, "init"))
        params["output"]["linear"] = {
            "kernel": params["output"]["linear"]["kernel"] * spread,
            "bias": jnp.float32(point),
        }
        d = c.drift
        field = (
            init_field_state(
                named_key(seed, "field"), [2], d.field_width, d.field_projection, d.field_ema
            )
            if d.field == "learned"
            else None
        )
        return init_state(params, self.optimizer, c.optim.ema, seed, field)

    def _generate(self, params, noise, *_):
        n = len(noise)
        return self.model.apply(
            {"params": params},
            noise,
            jnp.zeros(n, jnp.int32),
            jnp.ones(n),
            jnp.zeros((n, 1), jnp.int32),
        )

    def _real(self, seed, step, n):
        return toys.draw(self.toy, named_key(seed, "real", step), n)

    def _step(self, state):
        n = self.drift.n_pos
        real = self._real(state.seed, state.step, n).reshape(1, n, 1, 1, 2)
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
            encode=lambda x: {"global": x.reshape(-1, 1, 2)},
            optimizer=self.optimizer,
            config=self.drift,
        )

    def _field(self, state):
        """(x [N, 2], V [N, 2]): samples, and their drift in the direction of the loss's gradient -2 V~ / (2 N S), of the size that it has before its normalisation."""
        c, n, key = self.drift, self.drift.n_neg, named_key(state.seed, "shown")
        x, second = (
            self._generate(state.params, jax.random.normal(k, (n, 1, 1, 2))).reshape(1, n, 2)
            for k in jax.random.split(key)
        )
        real = toys.draw(self.toy, key, n)[None]
        field = make_field(c.field, c.field_options, state.field)

        def loss(x):
            value, info = drift_loss(
                x,
                real,
                temperatures=c.temperatures,
                field=field,
                second=second if c.second_batch else None,
            )
            return value.sum(), (
                info["scale"] / jnp.sqrt(2),
                jnp.sqrt(
                    sum(info[f"drift_sq_norm_{t}"] for t in c.temperatures) / len(c.temperatures)
                ),
            )

        (_, (scale, size)), grad = jax.value_and_grad(loss, has_aux=True)(x)
        return x[0], -grad[0] * n * scale**2 * size


def starting_point(toy: str, init: str) -> tuple[np.ndarray, float]:
    """(centre, factor of the spread) of the samples before the first step."""
    if init == "between":
        return np.zeros(2), 0.1
    if init == "far":
        return np.array([3.5, 3.5]), 0.1
    return toys.centre(toy, 0), 0.02


def train(lab: Lab, init: str, seed: int, seen=()) -> dict:
    """Trains from one starting point. Returns the metrics by step, "frames" at the steps `seen`: (step, x, V), the end "state" and the "seconds" of training."""
    state, metrics, frames = lab.start(init, seed), [], []
    jax.block_until_ready(lab.step(lab.start(init, seed)))  # compiled before the clock starts
    seconds = 0.0
    for step in range(lab.config.max_steps + 1):
        if step in seen:
            jax.block_until_ready(state)
            frames.append((step, *jax.device_get(lab.field(state))))
        if step < lab.config.max_steps:
            before = time.perf_counter()
            state, values = lab.step(state)
            metrics.append(values)
            if step % 100 == 0 or step + 1 in seen:
                jax.block_until_ready(state)
            seconds += time.perf_counter() - before
    lines = [
        {"step": i + 1} | {k: float(v) for k, v in m.items()}
        for i, m in enumerate(jax.device_get(metrics))
    ]
    if not np.isfinite(lines[-1]["loss"]):
        raise UserError(
            f"{lab.toy} from {init}: not finite at the end; lower --optim.learning_rate"
        )
    return {"metrics": lines, "frames": frames, "state": state, "seconds": seconds}


# ---------------------------------------------------------------- measures


def measure(toy: str, x: np.ndarray, seed: int) -> dict:
    """Of MEASURED samples. sliced_wasserstein to fresh ones; shares: of each mode; modes: those with at least a quarter of their due; worst_mode: the least share / its due; outside: on none."""
    x, real, n = (
        np.asarray(x),
        np.asarray(toys.draw(toy, jax.random.key(seed + 1), MEASURED)),
        toys.TOYS[toy],
    )
    mode = toys.mode_of(toy, x)
    shares = np.bincount(mode[mode >= 0], minlength=n) / MEASURED
    return {
        "sliced_wasserstein": sliced_wasserstein(x, real),
        "modes": int((shares * n > 0.25).sum()),
        "worst_mode": float(shares.min() * n),
        "outside": float((mode < 0).mean()),
        "shares": [round(float(s), 4) for s in shares],
    }


def floor(toy: str, seed: int) -> dict:
    """The same of real samples, the distance being a mean over eight pairs of sets."""
    sets = [np.asarray(toys.draw(toy, jax.random.key(seed + 100 + k), MEASURED)) for k in range(8)]
    found = [measure(toy, x, seed) for x in sets]
    return found[0] | {
        "sliced_wasserstein": float(np.mean([m["sliced_wasserstein"] for m in found]))
    }


# ---------------------------------------------------------------- figures

POINTS, REAL, ARROWS = "#d9730d", "#b9c3cc", "#1f6fb4"
ARROW_COUNT = 40
VIEW = (-2.9, 4.3)


def draw_frame(axes, real, frame, largest: float):
    """Samples over real ones, and V at some of them: the length of an arrow grows with the root of |V|, `largest` being the longest."""
    (_, x, v), arrows = frame, ARROW_COUNT
    axes.scatter(*real.T, s=2, color=REAL, linewidths=0, rasterized=True)
    axes.scatter(*x.T, s=5, color=POINTS, alpha=0.75, linewidths=0)
    length = np.linalg.norm(v[:arrows], axis=1, keepdims=True)
    shown = v[:arrows] / np.maximum(length, 1e-9) * np.sqrt(length / largest)
    axes.quiver(
        *x[:arrows].T,
        *shown.T,
        angles="xy",
        scale_units="xy",
        scale=1,
        color=ARROWS,
        width=0.006,
        headwidth=4,
        alpha=0.8,
        zorder=3,
    )
    axes.set(xlim=VIEW, ylim=VIEW, xticks=[], yticks=[], aspect="equal")
    for spine in axes.spines.values():
        spine.set_color("#dddddd")


def largest_drift(run: dict) -> float:
    """The greatest |V| of a run's frames."""
    return max(float(np.linalg.norm(v, axis=1).max()) for _, _, v in run["frames"]) or 1.0


def draw_strip(path, real, found: dict, title: str):
    """Rows: starting points; columns: time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    last = next(iter(found.values()))["frames"][-1][0]
    steps = [round(share * last) for share in SEEN]
    figure = Figure(figsize=(2.1 * len(steps) + 0.5, 2.1 * len(found) + 0.75), dpi=110)
    figure.subplots_adjust(
        left=0.4 / figure.get_figwidth(),
        right=0.995,
        bottom=0.01,
        top=1 - 0.7 / figure.get_figheight(),
        wspace=0.03,
        hspace=0.03,
    )
    for row, (init, run) in enumerate(found.items()):
        frames = {frame[0]: frame for frame in run["frames"]}
        for column, step in enumerate(steps):
            axes = figure.add_subplot(len(found), len(steps), row * len(steps) + column + 1)
            draw_frame(axes, real, frames[step], largest_drift(run))
            if row == 0:
                axes.set_title(f"step {step}", fontsize=10)
            if column == 0:
                axes.set_ylabel(init, fontsize=11)
    figure.suptitle(title, fontsize=12, y=1 - 0.2 / figure.get_figheight())
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    with replacing(path) as temporary:  # 64 colours: a third of the size
        Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(64).save(
            temporary, format="PNG", optimize=True
        )


def draw_gif(path, real, found: dict):
    """The starting points side by side, over time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    pictures = []
    for frames in zip(*(run["frames"] for run in found.values())):
        figure = Figure(figsize=(3 * len(found), 3.3), dpi=80)
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.9, wspace=0.03)
        canvas = FigureCanvasAgg(figure)
        for i, (init, frame) in enumerate(zip(found, frames)):
            axes = figure.add_subplot(1, len(found), i + 1)
            draw_frame(axes, real, frame, largest_drift(found[init]))
            axes.set_title(f"{init}, step {frame[0]}", fontsize=10)
        canvas.draw()
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(64))
    with replacing(path) as temporary:
        pictures[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=[120] * (len(pictures) - 1) + [1500],
            loop=0,
        )


def draw_curves(path, found: dict, temperatures, title: str):
    curve = lambda key: {
        init: ([m["step"] for m in run["metrics"]], [m[key] for m in run["metrics"]])
        for init, run in found.items()
    }
    panels = [("loss (nearly constant by construction)", curve("loss"), "step", "", False)]
    panels += [
        (f"drift before normalisation, tau {t:g}", curve(f"drift_rms_{t}"), "step", "", True)
        for t in temperatures
    ]
    save_panels(
        path,
        [
            *panels,
            ("energy distance, 0 when equal", curve("energy_distance"), "step", "", True),
            ("diversity, generated / real", curve("diversity"), "step", "", False),
        ],
        title,
    )


# ---------------------------------------------------------------- the program


def resolve(given: dict):
    """The configuration: the trainer's, with this program's settings in the place of a recipe."""
    if unused := [f"--{k}" for k in given if k.startswith("drift.") and k not in DRIFT]:
        raise UserError(
            f"{', '.join(unused)}: the laboratory has one class, no guidance and fresh samples in each step; leave out"
        )
    merged = SETTINGS | given
    return config_lib.resolve(merged | {"batch_size": merged["drift.n_neg"]})


def benchmark_row(key: dict) -> dict:
    """A run for benchmarks/fields.py, from between the modes at a constant learning rate: `step_ms`, and the measures along the way as `curve`."""
    given = {
        "drift.field": key["field"],
        "drift.temperatures": tuple(key["temperatures"]),
        "drift.n_neg": key["size"],
        "max_steps": key["max_steps"],
        "optim.schedule": "constant",
    }
    toy, steps = key["task"].partition(":")[2], key["max_steps"]
    lab = Lab(toy, resolve(given))
    state, curve, times = lab.start("between", key["seed"]), [], []
    for step in range(1, steps + 1):
        before = time.perf_counter()
        state, metrics = lab.step(state)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - before)
        if step % max(steps // 8, 1) == 0:
            found = measure(
                toy, lab.samples(next(iter(state.ema.values())), key["seed"] + 10), key["seed"]
            )
            curve.append({"step": step, "diversity": float(metrics["diversity"])} | found)
    failed = "" if np.isfinite(curve[-1]["sliced_wasserstein"]) else "not finite"
    return {"step_ms": 1e3 * float(np.median(times)), "curve": curve, "failed": failed}


def main(flag_values):
    setup_logging()
    flags, given = config_lib.all_flags(flag_values), config_lib.given_flags(flag_values)
    config = resolve({k: v for k, v in given.items() if k in config_lib.KEYS})
    out = pathlib.Path(flags.out or f"runs/toy2d/{flags.toy}/{config.drift.field}")
    out.mkdir(parents=True, exist_ok=True)
    lab, inits, last = (
        Lab(flags.toy, config),
        INITS if flags.init == "all" else (flags.init,),
        config.max_steps,
    )
    seen = {round(share * last) for share in SEEN} | {
        round(last * (i / FRAMES) ** 2) for i in range(FRAMES + 1)
    }  # denser at the start
    found, result = {}, {"floor": floor(flags.toy, config.seed)}
    for init in inits:
        found[init] = run = train(lab, init, config.seed, seen)
        result[init] = measure(
            flags.toy,
            lab.samples(next(iter(run["state"].ema.values())), config.seed + 10),
            config.seed,
        )
        m = result[init]
        log.info(
            "%s from %s: sliced Wasserstein %.4f (real against real %.4f), %d of %d modes, the worst with %.2f of its due, %.1f%% on none; %.1f s",
            flags.toy,
            init,
            m["sliced_wasserstein"],
            result["floor"]["sliced_wasserstein"],
            m["modes"],
            toys.TOYS[flags.toy],
            m["worst_mode"],
            100 * m["outside"],
            run["seconds"],
        )
    title = f"{flags.toy}, {config.drift.field} field, tau {', '.join(f'{t:g}' for t in config.drift.temperatures)}: real (grey), generated (orange), V (blue)"
    real = np.asarray(toys.draw(flags.toy, jax.random.key(config.seed + 2), 1500))
    draw_strip(out / "evolution.png", real, found, title)
    draw_gif(out / "evolution.gif", real, found)
    draw_curves(
        out / "curves.png",
        found,
        config.drift.temperatures,
        f"{flags.toy}, {config.drift.field} field",
    )
    (out / "result.json").write_text(
        json.dumps({"toy": flags.toy} | result | {"drift": config.drift.to_dict()}, indent=2) + "\n"
    )
    log.info("%s: evolution.png, evolution.gif, curves.png, result.json", out)


if __name__ == "__main__":
    config_lib.define_flags(("seed", "max_steps", "drift", "optim", "model"), FLAGS)
    config_lib.run_main(main)
