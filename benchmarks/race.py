"""What two settings reach in the same time: our recipe of MNIST, and that of a port to PyTorch.

    pip install -r requirements-extra.txt
    python benchmarks/race.py --seconds 600

The port trains MNIST by the paper's method in raw pixels: 9.0M parameters, patches of 4, a last
layer that starts at zero, 10 classes of 32 generated and 32 positive samples, a learning rate of
2e-4. Both runs are of our program: what is compared is settings. The steps of both are timed first,
in turn, and each run then takes --seconds. The port's own step was recorded on another machine
(`benchmarks/frame.py`); the row "as many steps as the port makes" is of the run of its settings
when the port, at this machine's rate of matrix products, would be through.

OUT/race.md has the table, OUT/race.png the samples of both. A run that is done is not done again.
"""

import logging
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks import runs
from benchmarks.frame import PEERS, PORT
from configs.default import Key
from models.runs import load_run
from models.sampling import generate
from utils import config as config_lib
from utils.figures import save_comparison
from utils.logging import setup_logging

log = logging.getLogger("benchmark")

FLAGS = (
    Key("dataset_name", "mnist_5k", "what to learn: images in 10 classes, with a test split"),
    Key("seconds", 600.0, "of training, by the time of a step", "(0, inf)"),
    Key("rounds", 3, "rounds in which the steps are timed", "[1, inf)"),
    Key("seed", 0, "of both runs", "[0, 4294967295]"),
    Key("out", "runs/race", "folder of the runs, the table and the picture"),
)
# The port's training on MNIST, besides the sizes of its step.
OF_PORT = PORT | {
    "recipe": "none",
    "model.zero_init_output": True,
    "optim.learning_rate": 2e-4,
    "optim.schedule": "constant",
    "optim.warmup_steps": 0,
    "optim.ema": (0.9,),  # of a run of about a hundred steps
}
OURS, THEIRS = "our recipe", "settings of the port"
JUDGE = "efficientnet:lite2"
SCORES = ("fd_pixels", "precision", "recall", "class_agreement", "fd_efficientnet")
PER_CLASS = 8  # samples drawn


def main(flag_values):
    setup_logging()
    flags: Any = config_lib.all_flags(flag_values)
    folder = pathlib.Path(flags.out)
    rows = runs.Rows(folder)

    short = {name: settings(flags, name, steps=1000) for name in (OURS, THEIRS)}
    step_ms = runs.step_times_once(folder / "times.json", short, flags.rounds, steps=1)
    steps = {name: max(round(1e3 * flags.seconds / step_ms[name]), 1) for name in short}
    keys = [{"run": name, "steps": steps[name], "seed": flags.seed} for name in short]
    for key in rows.missing(keys, 0):
        log.info("%s", key)
        rows.add({"key": key} | do_run(flags, key, step_ms, folder))
    print(runs.write_table(folder, "race", table(rows.read(), step_ms)))
    draw(folder)


def settings(flags: Any, name: str, steps: int) -> dict[str, Any]:
    """Returns the flags of train_drift.py for one run."""
    given = {"dataset_name": flags.dataset_name, "seed": flags.seed, "max_steps": steps}
    return given if name == OURS else given | OF_PORT


def steps_of_port(seconds: float, matmul_gflop_per_s: float) -> int:
    """Returns how many steps the port makes, at this machine's rate of matrix products."""
    port = PEERS["pixels"][-1]
    step_s = port.step_s * port.matmul_gflop_per_s / matmul_gflop_per_s
    return max(round(seconds / step_s), 1)


def do_run(flags: Any, key: dict, step_ms: dict[str, float], folder: pathlib.Path) -> dict:
    """Trains and scores, and returns what the row of a key holds."""
    given = settings(flags, key["run"], key["steps"])
    interval = key["steps"]
    if key["run"] == THEIRS:
        interval = min(steps_of_port(flags.seconds, step_ms["GFLOP/s"]), interval)
    given |= {"eval_interval": interval, "log_interval": max(key["steps"] // 16, 1)}

    def measure(run: pathlib.Path) -> dict[str, Any]:
        found = {}
        for features in ("pixels", JUDGE):
            found |= runs.scores_of(flags.dataset_name, run, features)
        np.save(folder / f"{key['run']}.npy", some_samples(run))
        return {"end": found}

    return runs.train(given, folder / "run", measure)


def some_samples(run: pathlib.Path) -> np.ndarray:
    """Returns PER_CLASS samples of each class, class by class."""
    model, params, _ = load_run(run)
    labels = np.repeat(np.arange(model.num_classes), PER_CLASS)
    return np.concatenate(list(generate(model, params, labels, 1.0, seed=0)))


def table(rows: list[dict], step_ms: dict[str, float]) -> list[dict]:
    """Returns a line for the end of each run, and one for the steps of the port."""
    lines = []
    for row in rows:
        name, steps = row["key"]["run"], row["key"]["steps"]
        early = row["curve"][0]
        if name == THEIRS and early["step"] < steps:
            lines.append(_line(f"{name}, as many steps as the port makes", early, early["step"]))
        lines.append(_line(name, row["end"], steps) | {"ms per step": round(step_ms[name])})
    return lines


def _line(name: str, found: dict[str, Any], steps: int) -> dict[str, Any]:
    cells = {score: f"{found[score]:.3f}" if score in found else "-" for score in SCORES}
    return {"": name, "steps": steps, "ms per step": "-"} | cells


def draw(folder: pathlib.Path) -> None:
    """Draws the samples of both runs side by side."""
    ours, theirs = (np.load(folder / f"{name}.npy") for name in (OURS, THEIRS))
    names = [str(label) for label in range(len(ours) // PER_CLASS)]
    save_comparison(folder / "race.png", ours, theirs, PER_CLASS, names, (OURS, THEIRS))


if __name__ == "__main__":
    config_lib.define_flags((), FLAGS)
    config_lib.run_main(main)
