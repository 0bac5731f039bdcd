"""Feature encoders against raw pixels: what each teaches in the same time, and in as many steps.

    pip install -r requirements-extra.txt
    python benchmarks/emoji.py --out runs/emoji --held_out 0.3
    rm -r runs/emoji/*/component                        a class of 8 pictures
    python pretrain_mae.py --dataset_name folder:runs/emoji --recipe digits \\
        --mae.base_channels 16 --batch_size 64 --max_steps 500 --mae.finetune_steps 150 \\
        --save_dir runs/mae_emoji
    python benchmarks/teachers.py --dataset_name folder:runs/emoji --classes 9 --mae runs/mae_emoji

The steps of all encoders are timed first, in turn (OUT/times.json). Each run then lasts --seconds
by that time. One judge is EfficientNet-Lite2 on held-out images, from which none of them learns,
though it is of the same family and the same photographs as Lite0; the other is pixels, at the end.
Equal time is the end of a run. Equal steps is where the slowest encoder is through: there each run
is scored once, and goes on. The learning rate is constant after the warm-up.

Each run is a line of OUT/rows.jsonl; the same command goes on where it was stopped. The table is
OUT/teachers.md and .csv: mean and standard deviation over the seeds.
"""

import itertools
import logging
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import runs
from configs.default import Key
from utils import config as config_lib
from utils.errors import UserError
from utils.logging import setup_logging

log = logging.getLogger("benchmark")

FLAGS = (
    Key("dataset_name", "mnist_5k", "what to learn; it has a test split"),
    Key("encoders", "none,mae,efficientnet,efficientnet+none", "values of --encoder.name"),
    Key("mae", "", "run of pretrain_mae.py, for the encoder mae"),
    Key("mae_layers", "layer2*,layer3*,layer4*", "maps of the encoder mae; the first is large"),
    Key("image_size", 64, "side that EfficientNet's images are resized to", "[32, 512]"),
    Key("field", "kernel", "value of --drift.field"),
    Key("temperatures", "0.02,0.05,0.2", "value of --drift.temperatures"),
    Key("patch_size", 8, "of the generator", "[1, inf)"),
    Key("per_class", 16, "generated samples of each class in a step", "[2, inf)"),
    Key("positives", 48, "real samples of each class in a step", "[2, inf)"),
    Key("classes", 10, "of the data set", "[1, inf)"),
    Key("learning_rate", 2e-3, "of the generator", "(0, inf)"),
    Key("seconds", 300.0, "of training, by the time of a step", "(0, inf)"),
    Key("rounds", 3, "rounds in which the steps are timed", "[1, inf)"),
    Key("seeds", 3, "runs of each encoder", "[1, inf)"),
    Key("limit", 0, "runs to do now; 0 = all", "[0, inf)"),
    Key("out", "runs/teachers", "folder of the rows and the table"),
)
JUDGE = "efficientnet:lite2"
JUDGED = ("fd_efficientnet", "precision_efficientnet", "recall_efficientnet")  # by it, in the table
IN_PIXELS = ("fd_pixels", "precision", "recall")


def main(flag_values):
    setup_logging()
    flags: Any = config_lib.all_flags(flag_values)
    rows = runs.Rows(pathlib.Path(flags.out))
    encoders = flags.encoders.split(",")
    if "mae" in flags.encoders and not flags.mae:
        raise UserError("--mae is missing: give a run of pretrain_mae.py, or --encoders without it")

    short = {name: settings(flags, name, steps=100, seed=0) for name in encoders}
    step_ms = runs.step_times_once(rows.folder / "times.json", short, flags.rounds, steps=1)
    steps = {name: max(round(1e3 * flags.seconds / step_ms[name]), 1) for name in encoders}
    # Seeds come first, so that the first seeds make a whole table.
    keys = [
        {"encoder": encoder, "field": flags.field, "steps": steps[encoder], "seed": seed}
        for seed, encoder in itertools.product(range(flags.seeds), encoders)
    ]
    for key in rows.missing(keys, flags.limit):
        log.info("%s", key)
        rows.add({"key": key} | do_run(flags, key, min(steps.values()), rows.folder / "run"))
        print(runs.write_table(rows.folder, "teachers", table(rows.read(), step_ms)))


# ---------------------------------------------------------------- the runs


def settings(flags: Any, encoder: str, steps: int, seed: int) -> dict[str, Any]:
    """Returns the flags of train_drift.py for one run."""
    names = encoder.split("+")
    given = {
        "dataset_name": flags.dataset_name,
        "recipe": "digits",  # its generator
        "model.patch_size": flags.patch_size,
        "seed": seed,
        "batch_size": flags.classes * flags.per_class,
        "max_steps": steps,
        "drift.field": flags.field,
        "drift.temperatures": runs.numbers(flags.temperatures),
        "drift.n_neg": flags.per_class,
        "drift.n_pos": flags.positives,
        "optim.learning_rate": flags.learning_rate,
        "optim.schedule": "constant",
        "optim.warmup_steps": 30,
        "optim.ema": (0.98,),
        "log_interval": max(steps // 16, 1),
        "eval_interval": 0,
        "encoder.name": encoder,
    }
    if names != ["none"]:
        paths, layers = {"mae": flags.mae}, {"mae": flags.mae_layers}
        sizes = {"efficientnet": str(flags.image_size)}
        given["encoder.path"] = ",".join(paths.get(name, "") for name in names)
        given["encoder.layers"] = "+".join(layers.get(name, "") for name in names)
        given["encoder.image_size"] = "+".join(sizes.get(name, "") for name in names)
        given["encoder.cache"] = "on"
        given["encoder.cache_budget_gb"] = 8.0
    return given


def do_run(flags: Any, key: dict, equal: int, folder: pathlib.Path) -> dict[str, Any]:
    """Trains and scores, and returns what the row of a key holds.

    equal: number of steps after which all encoders are compared.
    """
    given = settings(flags, key["encoder"], key["steps"], key["seed"])
    given |= {"features": JUDGE, "eval_interval": key["steps"]}  # where it pauses, and at the end

    def in_pixels(run: pathlib.Path) -> dict[str, Any]:
        return {"in_pixels": runs.scores_of(flags.dataset_name, run, "pixels")}

    return runs.train(given, folder, in_pixels, pause=equal)


# ---------------------------------------------------------------- the table


def table(rows: list[dict], step_ms: dict[str, float]) -> list[dict]:
    """Returns a line of the table for each encoder."""
    lines = []
    for encoder in dict.fromkeys(row["key"]["encoder"] for row in rows):
        group = [row for row in rows if row["key"]["encoder"] == encoder]
        line = {
            "encoder": encoder,
            "ms per step": round(step_ms[encoder]),
            "steps": group[0]["key"]["steps"],
            "seeds": len(group),
        }
        for when, place in (("equal steps", 0), ("equal time", -1)):
            for name in JUDGED:
                found = [row["curve"][place][name] for row in group]
                line[f"{name}, {when}"] = runs.mean_spread(found)
        for name in IN_PIXELS:
            line[name] = runs.mean_spread([row["in_pixels"][name] for row in group])
        lines.append(line)
    return lines


if __name__ == "__main__":
    config_lib.define_flags((), FLAGS)
    config_lib.run_main(main)
