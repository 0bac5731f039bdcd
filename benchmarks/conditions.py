"""How well conditions are obeyed that are vectors, in the place of classes.

    python benchmarks/conditions.py --out runs/conditions

Two sets of MNIST are made out of `mnist_5k` and written as .npz files, with training and held-out
digits:

    one_hot   a condition is the one-hot vector of the class with normal noise of 0.3 on each number
    angle     each digit is turned by an angle in [-90, 90] degrees, whose cosine and sine are the
              condition

For each set and number of positives, which are the reals with the nearest conditions, and for each
weight of --joint, which compares the joint of features and conditions instead, a generator is
trained, and one sample of each held-out condition is drawn. A judge, kernel ridge regression on
pixels of the training digits, reads class or angle off the samples:

    agreement   the share of samples that are read as the class of their condition
    error       the mean distance between the angle read and that of the condition, in degrees

In the table `held out` are the real digits of these conditions, `of others` the same digits in
another order, and `classes` is a run that is told the classes themselves. Each run is done once and
kept in rows.jsonl. `of the positives` is the score of the nearest training digits themselves, by
their true classes and angles, which a generator that learned them would have.
"""

import logging
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image

from benchmarks import runs
from configs.default import Key
from data import mnist_5k
from data.arrays import stratified_split
from evaluation.conditions import nearest
from models.runs import load_run
from models.sampling import generate
from utils import config as config_lib
from utils.figures import save_grid, to_uint8
from utils.logging import setup_logging
from utils.npz import read_npz

log = logging.getLogger("benchmark")

FLAGS = (
    Key("out", "runs/conditions", "folder of the sets, the table and the pictures"),
    Key("positives", (16.0, 32.0, 64.0), "drift.n_pos, a run for each", "[2, inf)"),
    Key("joint", "", "values of --drift.joint, a run for each, separated by commas"),
    Key("groups", 16, "conditions of a step", "[1, inf)"),
    Key("per_group", 16, "samples generated of each", "[2, inf)"),
    Key("max_steps", 700, "steps of a run", "[100, inf)"),
    Key("seeds", 1, "runs of each kind", "[1, inf)"),
    Key("limit", 0, "runs to do in this call; 0 = all", "[0, inf)"),
)
NOISE = 0.3  # of one-hot conditions
MOST_DEGREES = 90
HELD_OUT = 1000
SCORES = {"one_hot": "agreement", "angle": "error"}


def main(flag_values):
    setup_logging()
    flags: Any = config_lib.all_flags(flag_values)
    rows = runs.Rows(pathlib.Path(flags.out))
    for name in SCORES:
        if not (rows.folder / name).exists():
            write_set(rows.folder / name, name)
    judges = {name: Judge(rows.folder / name, name) for name in SCORES}
    keys = []
    for seed in range(flags.seeds):
        keys.append({"set": "one_hot", "positives": "classes", "seed": seed})
        for name in SCORES:
            for positives in flags.positives:
                keys.append({"set": name, "positives": int(positives), "seed": seed})
            for weight in runs.numbers(flags.joint) if flags.joint else ():
                keys.append({"set": name, "positives": f"joint {weight:g}", "seed": seed})
    for key in rows.missing(keys, flags.limit):
        log.info("%s", key)
        judge = judges[key["set"]]
        picture = rows.folder / f"{key['set']}_{key['positives']}.png"

        def measure(folder, judge=judge, picture=picture):
            return {"score": score_of_run(folder, judge, picture)}

        row = runs.train(settings(flags, key), rows.folder / "run", measure)
        rows.add({"key": key} | row)
    print(runs.write_table(rows.folder, "conditions", table(rows.read(), judges)))


# ---------------------------------------------------------------- the sets


def write_set(folder: pathlib.Path, name: str) -> None:
    """Writes train.npz and test.npz: images, conditions, and the truth that the judge reads."""
    random = np.random.default_rng(0)
    images, labels = mnist_5k.read_all()
    one_hot = np.eye(10, dtype=np.float32)[labels]
    if name == "one_hot":
        truth = one_hot
        conditions = one_hot + NOISE * random.standard_normal(one_hot.shape, np.float32)
    else:
        degrees = random.uniform(-MOST_DEGREES, MOST_DEGREES, len(images))
        images = np.stack(
            [turned(image, angle) for image, angle in zip(images, degrees, strict=True)]
        )
        radians = np.deg2rad(degrees)
        truth = conditions = np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)
    train, test = stratified_split(labels, HELD_OUT)
    folder.mkdir(parents=True)
    for split, chosen in (("train", train), ("test", test)):
        np.savez(
            folder / f"{split}.npz",
            images=images[chosen],
            conditions=conditions[chosen],
            truth=truth[chosen],
            label=labels[chosen],
        )


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    """Returns an image [H, W, 1], turned counter-clockwise."""
    picture = Image.fromarray(image[..., 0])
    return np.asarray(picture.rotate(degrees, Image.Resampling.BICUBIC))[..., None]


# ---------------------------------------------------------------- the judge


class Judge:
    """Reads the truth off images, by kernel ridge regression on pixels of the training digits.

    Args:
        folder: of the set.
        name: of the set.
    """

    width = 10.0  # of the Gaussian kernel, for pixels in [-1, 1]
    ridge = 0.1

    def __init__(self, folder: pathlib.Path, name: str):
        self.name = name
        self.train = arrays = read_npz(folder / "train.npz")
        self.test = read_npz(folder / "test.npz")
        self.reals = as_vectors(arrays["images"])
        kernel = self.kernel(self.reals)
        kernel[np.diag_indices(len(kernel))] += self.ridge
        self.weights = np.linalg.solve(kernel, arrays["truth"].astype(np.float64))

    def kernel(self, vectors: np.ndarray) -> np.ndarray:
        """Returns the kernel [N, S] between vectors and the training digits."""
        of_vectors, of_reals = (vectors**2).sum(1), (self.reals**2).sum(1)
        squared = of_vectors[:, None] + of_reals - 2 * vectors @ self.reals.T
        return np.exp(-squared / (2 * self.width**2))

    def score(self, images: np.ndarray) -> float:
        """Returns the score of images uint8 [N, H, W, 1] of the held-out conditions, in order."""
        return self.compare(self.kernel(as_vectors(images)) @ self.weights)

    def score_of_nearest(self, n: int) -> float:
        """Returns the score of the n training digits nearest to each held-out condition.

        It is by their own truth, without reading it off them, the mean over the n.
        """
        order = [nearest(self.train["conditions"], wanted, n) for wanted in self.test["conditions"]]
        truth = self.train["truth"][np.array(order)]  # [held out, n, numbers]
        return float(np.mean([self.compare(truth[:, i]) for i in range(n)]))

    def compare(self, read: np.ndarray) -> float:
        """Returns the score of what was read of samples of the held-out conditions, in order."""
        truth = self.test["truth"]
        if self.name == "one_hot":
            return float(np.mean(read.argmax(1) == truth.argmax(1)))
        angles = [np.arctan2(vectors[:, 1], vectors[:, 0]) for vectors in (read, truth)]
        apart = np.abs(np.angle(np.exp(1j * (angles[0] - angles[1]))))
        return float(np.rad2deg(apart).mean())


def as_vectors(images: np.ndarray) -> np.ndarray:
    """Returns images uint8 [N, H, W, 1] as float64 [N, D] in [-1, 1]."""
    return images.reshape(len(images), -1) / 127.5 - 1


# ---------------------------------------------------------------- the runs


def settings(flags: Any, key: dict) -> dict[str, Any]:
    """Returns the flags of train_drift.py for one run."""
    given = {
        "recipe": "mnist_5k",
        "encoder.name": "none+whiten",
        "drift.n_unc": 0,  # no guidance
        "drift.alpha_max": 1.0,
        "dataset_name": f"npz:{flags.out}/{key['set']}",
        "data.image_column": "images",
        "seed": key["seed"],
        "batch_size": flags.groups * flags.per_group,
        "drift.n_neg": flags.per_group,
        "max_steps": flags.max_steps,
        "log_interval": max(flags.max_steps // 16, 1),
        "eval_interval": 0,
    }
    if key["positives"] == "classes":
        # Ten classes, and as many samples in all as goes.
        per_class = given["batch_size"] // 10
        of_classes = {"batch_size": 10 * per_class, "drift.n_neg": per_class}
        return given | of_classes
    given["data.condition_column"] = "conditions"
    if weight := weight_of_joint(key["positives"]):
        # Two samples of each condition, and as many samples in all.
        return given | {"drift.n_neg": 2, "drift.joint": weight}
    return given | {"drift.n_pos": key["positives"]}


def weight_of_joint(positives: int | str) -> float:
    """Returns W of runs whose positives are "joint W", or 0."""
    word, _, weight = str(positives).partition(" ")
    return float(weight) if word == "joint" else 0.0


def score_of_run(folder: pathlib.Path, judge: Judge, picture: pathlib.Path) -> float:
    """Returns the score of a sample of each held-out condition; draws the first of them."""
    model, params, _ = load_run(folder)
    given = judge.test["conditions" if model.condition_width else "label"]
    samples = to_uint8(np.concatenate(list(generate(model, params, given, 1.0, seed=0))))
    shown = np.stack([judge.test["images"][:48], samples[:48]], 1)  # each beside a real one
    save_grid(picture, shown.reshape(-1, *samples.shape[1:]), columns=16)
    return judge.score(samples)


def table(rows: list[dict], judges: dict[str, Judge]) -> list[dict]:
    """Returns the rows of the table, by set and number of positives."""
    found = []
    for name, score in SCORES.items():
        of_set = [row for row in rows if row["key"]["set"] == name]
        images = judges[name].test["images"]
        for of_whom, digits in (("held out", images), ("of others", np.roll(images, 1, 0))):
            value = f"{judges[name].score(digits):.3f}"
            found.append({"set": name, "positives": of_whom, "score": score, "value": value})
        for positives in dict.fromkeys(row["key"]["positives"] for row in of_set):
            same = [row for row in of_set if row["key"]["positives"] == positives]
            values = " ".join(row["failed"] or f"{row['score']:.3f}" for row in same)
            step = f"{np.median([row['step_ms'] for row in same]):.0f}"
            facts = {"set": name, "positives": positives, "score": score, "value": values}
            if isinstance(positives, int):
                facts["of the positives"] = f"{judges[name].score_of_nearest(positives):.3f}"
            found.append(facts | {"step_ms": step})
    return found


if __name__ == "__main__":
    config_lib.define_flags(groups=(), extra=FLAGS)
    config_lib.run_main(main)
