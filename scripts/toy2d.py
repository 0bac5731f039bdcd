"""A laboratory in the plane: an MLP learns a 2-D distribution by drifting, and all can be seen.

    python scripts/toy2d.py --toy bimodal
    python scripts/toy2d.py --toy checkerboard --drift.field sinkhorn --drift.temperatures 0.05
    python scripts/toy2d.py --toy ring --init collapsed --drift.repulsion 0 --out runs/no_repulsion

It starts from three places: between the modes, far away, and collapsed on one mode. Written to
--out (runs/toy2d/TOY/FIELD) are

    evolution.png, evolution.gif    samples and field over time
    curves.png                      loss, drift before its normalisation, energy distance, diversity
    result.json                     for each start the sliced Wasserstein distance to fresh samples,
                                    beside that between two sets of fresh samples, and the share of
                                    the samples on each mode

The flags of the field (docs/fields.md) and all --optim and --model flags of the trainer apply;
--drift.n_neg is the number of samples generated in a step, and of real ones. Without guidance.
"""

import json
import logging
import pathlib
import sys
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from configs.default import PATH, Key
from data import toy2d as toys
from scripts.toy2d_figures import draw_curves, draw_gif, draw_strip, steps_shown
from scripts.toy2d_lab import INITS, Lab, first_average, measure, measure_reals, resolve, train
from utils import config as config_lib
from utils.config.values import as_text
from utils.logging import setup_logging

log = logging.getLogger("toy2d")

FLAGS = (
    Key("toy", "bimodal", "the distribution", tuple(toys.TOYS)),
    Key("init", "all", "where the samples start", ("all", *INITS)),
    Key("out", "", "folder of the figures; empty = runs/toy2d/TOY/FIELD", PATH),
)
REALS_DRAWN = 1500  # samples of a picture


def main(flag_values: Any) -> None:
    """Trains from the starting points that the flags name, and writes what was found."""
    setup_logging()
    flags, given = config_lib.all_flags(flag_values), config_lib.given_flags(flag_values)
    config = resolve({name: given[name] for name in given if name in config_lib.KEYS})
    toy, drift, seed = flags.toy, config.drift, config.seed
    out = pathlib.Path(flags.out or f"runs/toy2d/{toy}/{drift.field}")
    out.mkdir(parents=True, exist_ok=True)

    # ---- train and measure ----
    lab, seen = Lab(toy, config), steps_shown(config.max_steps)
    runs, result = {}, {"floor": measure_reals(toy, seed)}
    for init in INITS if flags.init == "all" else (flags.init,):
        runs[init] = train(lab, init, seed, seen)
        samples = lab.samples(first_average(runs[init]["state"]), seed + 10)
        result[init] = measure(toy, samples, seed)
        floor = result["floor"]["sliced_wasserstein"]
        log_result(toy, init, result[init], floor, runs[init]["seconds"])

    # ---- write ----
    temperatures = as_text(drift.temperatures).replace(",", ", ")
    title = f"{toy}, {drift.field} field"
    legend = "real (grey), generated (orange), V (blue)"
    real = np.asarray(toys.draw(toy, jax.random.key(seed + 2), REALS_DRAWN))
    draw_strip(out / "evolution.png", real, runs, f"{title}, tau {temperatures}: {legend}")
    draw_gif(out / "evolution.gif", real, runs)
    draw_curves(out / "curves.png", runs, lab.drift.temperatures, title)
    facts = {"toy": toy} | result | {"drift": drift.to_dict()}
    (out / "result.json").write_text(json.dumps(facts, indent=2) + "\n")
    log.info("%s: evolution.png, evolution.gif, curves.png, result.json", out)


def log_result(toy: str, init: str, found: dict[str, Any], floor: float, seconds: float) -> None:
    """Logs the measures of one training. floor: the distance between sets of real samples."""
    log.info(
        "%s from %s: sliced Wasserstein %.4f (real against real %.4f), %d of %d modes, "
        "the worst with %.2f of its due, %.1f%% on none; %.1f s",
        toy,
        init,
        found["sliced_wasserstein"],
        floor,
        found["modes"],
        toys.TOYS[toy],
        found["worst_mode"],
        100 * found["outside"],
        seconds,
    )


if __name__ == "__main__":
    config_lib.define_flags(("seed", "max_steps", "drift", "optim", "model"), FLAGS)
    config_lib.run_main(main)
