"""The report of one run: `report.html`, one file that says what was run and what came out.

It is made of the run folder, and draws samples of the newest checkpoint anew. `scripts/report.py`
writes it, and so does a training at its end.
"""

import dataclasses
import html
import json
import logging
import pathlib
import re
import shlex
import time
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from jax.sharding import NamedSharding

from evaluation.compare_runs import (
    ERROR,
    NEIGHBOURS_NOTE,
    Run,
    curves_of_run,
    labels_shown,
    neighbour_picture,
    newest_rows,
    open_runs,
    open_sampler,
    picture,
    score_cell,
)
from evaluation.fid_csv import describe_parameters, describe_scores, distance_name, scores
from evaluation.floor import floor_of
from evaluation.sample_command import Sampler
from utils import config as config_lib
from utils import page
from utils.config.values import as_text
from utils.errors import UserError
from utils.figures import to_uint8
from utils.files import replacing
from utils.logging import read_metrics

log = logging.getLogger("report")

FILE = "report.html"
PER_CLASS = 10  # samples of a class in a grid
WIDEST = 700  # points of the screen, of that grid
ALPHAS = (1.0, 1.5, 2.0, 3.0, 4.0)  # columns of the sweep, as far as a run was trained
MOST_POINTS = 150  # of a curve
MOST_SLIDES = 30  # pictures of the slider
REST = {  # kinds of goodput.json, but for steps
    "starting": "starting and compiling",
    "waiting": "waiting for data",
    "evaluating": "for scores and pictures",
    "saving": "saving",
    "lost": "lost (from a save to the next start, or steps that were taken back)",
}
NOT_SETTINGS = ("save_dir", "load_dir", "dry_run", "recipe", "wandb.name")
CITATION = """@article{deng2026drifting,
  title   = {Generative Modeling via Drifting},
  author  = {Deng, Mingyang and Li, He and Li, Tianhong and Du, Yilun and He, Kaiming},
  journal = {arXiv preprint arXiv:2602.04770},
  year    = {2026}
}"""


def write_report(folder: pathlib.Path, seed: int, sharding: NamedSharding) -> pathlib.Path:
    """Writes report.html into a run folder and returns its path.

    Args:
        folder: of a run of train_drift.py.
        seed: of the noise of the samples.
        sharding: over the devices that draw them.
    Raises:
        UserError: the folder holds no run of a generator, or none with a checkpoint.
    """
    text = report_page(folder, seed, sharding)
    path = folder / FILE
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def report_page(folder: pathlib.Path, seed: int, sharding: NamedSharding) -> str:
    """Returns the report as HTML; see `write_report`."""
    (run,) = open_runs([str(folder)])
    sampler = open_sampler(run, seed, PER_CLASS, sharding)
    config = config_lib.from_json(run.folder / "config.json")
    records = read_metrics(run.folder / "metrics.jsonl")
    events = read_events(run.folder)
    result = newest_rows(run)
    parts = [
        page.lead(result_line(result, config)),
        page.lead(where_line(sampler.metadata, config)),
        *sample_sections(run, sampler, config),
        page.section("Curves", page.beside(*curves(run, records))),
        page.section("Health", page.table(["what", "how it was"], health(records, config))),
        page.section("Scores", score_rows(result)),
        page.section("Time", page.table(["what", "how much"], times(run.folder, records, events))),
        page.section("What was run", *what_was_run(config, events)),
        page.section("Go on", *how_to_go_on(run, config, events)),
    ]
    return page.page(f"Run {run.name}", parts)


# ---------------------------------------------------------------- the result


def result_line(rows: Sequence[dict], config: Any) -> str:
    """Returns the result in one line, with its error where it is known, and the floor."""
    if not rows:
        return "No scores yet: eval_fid.py --load_dir adds them."
    row = shown_row(rows)
    name = distance_name(row)
    if not name:
        return in_words(row)
    text = f"{name} {row[name]:.4g}"
    if f"{name}{ERROR}" in row:
        text += f" ± {row[name + ERROR]:.2g}"
    text += f" at step {row['step']:,}, of {row['num_samples']:,} samples"
    text += f"; {floor_of(config, row).text}"
    others = in_words({key: value for key, value in row.items() if key != name})
    return f"{text}; {others}." if others else f"{text}."


def in_words(row: dict) -> str:
    """Returns the scores of a row with their errors: recall 0.752 ± 0.016."""
    return describe_scores(row).replace("+-", "±")


def shown_row(rows: Sequence[dict]) -> dict:
    """Returns the row that is the result: the first without guidance, or else the first."""
    return next((row for row in rows if row.get("cfg_scale", 1) == 1), rows[0])


def where_line(metadata: dict, config: Any) -> str:
    """Returns which generator of which data it is, in one line."""
    dataset = metadata["dataset"]
    step = metadata["step"]
    shape = "x".join(map(str, dataset["shape"]))
    classes = len(dataset["class_names"])
    done = "" if step >= config.max_steps else f" of {config.max_steps:,}, still to be trained"
    return (
        f"{dataset['name']}: {classes} classes, samples of {shape}; step {step:,}{done}, "
        f"{describe_parameters(metadata)}."
    )


def score_rows(rows: Sequence[dict]) -> str:
    """Returns the table of all scores of the newest checkpoint that was scored."""
    if not rows:
        return page.note("none yet")
    names = dict.fromkeys(name for row in rows for name in scores(row))
    body = []
    for row in rows:
        alpha = page.Cell(f"{row.get('cfg_scale', 1):g}")
        facts = [row["features"], alpha, page.Cell(f"{row['num_samples']:,}")]
        body.append([*facts, *(score_cell(row, name, None) for name in names)])
    return page.table(["network", "alpha", "samples", *names], body)


# ---------------------------------------------------------------- samples


def sample_sections(run: Run, sampler: Sampler, config: Any) -> list[str]:
    """Returns the sections with pictures: classes by alpha, over training, nearest reals."""
    if not sampler.makes_pictures:
        return [page.note("The samples are no pictures.")]
    parts = []
    labels = labels_shown(sampler, PER_CLASS)
    images = to_uint8(sampler.draw(labels, 1.0))
    names = [sampler.class_name(label) for label in labels[::PER_CLASS]]
    told = f"Rows: {', '.join(names)}. Noise of seed {sampler.seed}."
    text = f"{PER_CLASS} samples of each of the classes {', '.join(names)}"
    caption = "alpha 1, ten samples of each class"
    grids = [picture(images, PER_CLASS, text, caption, WIDEST)]
    alphas = [alpha for alpha in ALPHAS if alpha <= config.drift.alpha_max]
    if config.objective == "drift":
        if len(alphas) > 1:
            grids.append(alpha_grid(sampler, len(names), alphas))
        else:
            told += f" No classes by alpha: guidance was learned up to {config.drift.alpha_max:g}"
            told += " (--drift.alpha_max)."
    parts.append(page.section("Samples", page.note(told), page.beside(*grids)))
    slides = slides_of(run.folder)
    if len(slides) > 1:
        title = "the same noise while the run learned"
        parts.append(page.section("Over training", page.slides(title, slides)))
    neighbours = neighbour_picture(run, images, sampler.metadata)
    parts.append(page.section("Nearest training images", page.note(NEIGHBOURS_NOTE), neighbours))
    return parts


def alpha_grid(sampler: Sampler, classes: int, alphas: Sequence[float]) -> str:
    """Returns a picture of the same noise for each class (rows) and alpha (columns)."""
    sampler = dataclasses.replace(sampler, batch_size=classes)
    labels = np.arange(classes, dtype=np.int32)
    columns = [to_uint8(sampler.draw(labels, alpha)) for alpha in alphas]
    images = np.stack(columns, 1)  # [classes, alphas, H, W, C]
    shown = ", ".join(f"{alpha:g}" for alpha in alphas)
    caption = f"the same noise at alpha {shown}, from left to right"
    text = f"one sample of each class at guidance scales {shown}"
    return picture(images.reshape(-1, *images.shape[2:]), len(alphas), text, caption)


def slides_of(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns the pictures that the trainer drew, {"step 500": PNG}, at most MOST_SLIDES."""
    found = {}
    for path in (folder / "samples").glob("step_*.png"):
        match = re.fullmatch(r"step_(\d+)", path.stem)
        if match:
            found[int(match[1])] = path
    steps = thinned(sorted(found), MOST_SLIDES)
    return {f"step {step:,}": found[step].read_bytes() for step in steps}


def thinned(values: Sequence[Any], most: int) -> list[Any]:
    """Returns at most so many of the values, evenly spread, with the first and the last."""
    if len(values) <= most:
        return list(values)
    return [values[i] for i in np.linspace(0, len(values) - 1, most).round().astype(int)]


# ---------------------------------------------------------------- curves and health


def curves(run: Run, records: Sequence[dict]) -> list[str]:
    """Returns figures: the loss, the drifts, energy distance and diversity, speed, and scores."""
    known = list(dict.fromkeys(key for record in records for key in record))
    drifts = [key for key in known if is_drift(key)]
    panels = {
        "loss": ["loss"],
        "drift before its normalisation": drifts,
        "loss of each encoder": [key for key in known if key.startswith("loss/")],
        "drift of each encoder": [key for key in known if key.startswith("drift/")],
        "distance from the reals": ["energy_distance"],
        "diversity within a class, against reals": ["diversity"],
        "gradient norm": ["grad_norm"],
        "images per second": ["images_per_s"],
        "share of the devices' matrix arithmetic (MFU)": ["mfu"],
    }
    figures = []
    for title, keys in panels.items():
        series = {key: points(records, key) for key in keys}
        series = {key: values for key, values in series.items() if values}
        if series:
            figures.append(page.curves(title, series, "step", title))
    for name in dict.fromkeys(name for row in run.rows for name in scores(row)):
        series = curves_of_run(run, name, "step")
        if series:
            figures.append(page.curves(name, series, "step", name))
    return figures or [page.note("no lines in metrics.jsonl")]


def is_drift(key: str) -> bool:
    """Returns whether a metric is the size of the drift at a temperature."""
    return key.startswith("drift_rms_")


def points(records: Sequence[dict], key: str) -> list[tuple[float, float]]:
    """Returns (step, value) of a metric, where it is a number; at most MOST_POINTS."""
    return thinned(all_points(records, key), MOST_POINTS)


def all_points(records: Sequence[dict], key: str) -> list[tuple[float, float]]:
    """Returns (step, value) of a metric, where it is a number."""
    return [(r["step"], r[key]) for r in records if isinstance(r.get(key), int | float)]


def health(records: Sequence[dict], config: Any) -> list[list[str]]:
    """Returns rows of the watch: collapse, distance, numbers that were none, waiting for data."""
    rows = []
    diversity = [value for _, value in all_points(records, "diversity")]
    if diversity:
        ratio = config.collapse_ratio
        verdict = "collapsed" if diversity[-1] < ratio else "no collapse"
        rows.append(
            [
                "collapse watch",
                f"{verdict}: diversity {diversity[-1]:.3g} of the reals' at the end, "
                f"{min(diversity):.3g} at its least; {ratio:g} would be a collapse",
            ]
        )
    energy = [value for _, value in all_points(records, "energy_distance")]
    if energy:
        before, last = energy[len(energy) * 3 // 4], energy[-1]
        is_falling = before - last > max(0.1 * abs(before), 0.01 * abs(energy[0]))
        trend = "still falling" if is_falling else "settled"
        rows.append(["energy distance", f"{energy[0]:.3g} at first, {last:.3g} now, {trend}"])
    broken = [str(record["step"]) for record in records if record.get("not_finite")]
    rows.append(["not finite", f"at steps {', '.join(broken)}" if broken else "never"])
    waits = [value for _, value in all_points(records, "data_wait")]
    if waits:
        rows.append(["waiting for data", f"{np.mean(waits):.1%} of the time"])
    return rows


# ---------------------------------------------------------------- time


def read_events(folder: pathlib.Path) -> list[dict]:
    """Returns the lines of environment.jsonl; runs older than that file have none."""
    path = folder / "environment.jsonl"
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue  # a kill has cut it short
    return events


def times(folder: pathlib.Path, records: Sequence[dict], events: Sequence[dict]) -> list[list[str]]:
    """Returns rows: steps, speed, seconds of steps and in all, and where the others went."""
    stepping = sum(record.get("seconds", 0) for record in records)
    speeds = [record["images_per_s"] for record in records if "images_per_s" in record]
    rows = [["steps", f"{records[-1]['step'] if records else 0:,}"]]
    if speeds:
        rows.append(["speed, median", f"{np.median(speeds):,.0f} images per second"])
    rows.append(["time of steps", duration(stepping)])
    passed = time_of_sessions(events)
    if passed:
        rows.append(["time from start to end", duration(passed)])
    rows += [["goodput", text] for text in goodput_in_words(folder)]
    starts = sum(event["event"] == "start" for event in events)
    if starts > 1:
        rows.append(["starts", f"{starts}: it was resumed"])
    return rows


def goodput_in_words(folder: pathlib.Path) -> list[str]:
    """Returns how much of the time steps took that count, and what took the rest, in one text.

    None where the run has no goodput.json, which older ones have not.
    """
    path = folder / "goodput.json"
    try:
        spent = json.loads(path.read_text(encoding="utf-8"))["seconds"]
        parts = [(words, spent[kind]) for kind, words in REST.items()]
        whole = max(sum(spent.values()), 1e-9)
        share = spent["steps"] / whole
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    parts.sort(key=itemgetter(1), reverse=True)
    rest = [f"{duration(seconds)} {words}" for words, seconds in parts if seconds >= 0.5]
    if not spent["lost"]:
        rest.append("nothing was lost")
    text = f"{share:.0%} of {duration(whole)} in steps that count; {', '.join(rest)}"
    return [text]


def time_of_sessions(events: Sequence[dict]) -> float:
    """Returns the seconds between starts and ends; a session without an end does not count."""
    seconds, start = 0.0, None
    for event in events:
        if event["event"] == "start":
            start = event["time"]
        elif event["event"] == "end" and start is not None:
            seconds += event["time"] - start
            start = None
    return seconds


def duration(seconds: float) -> str:
    """Returns "2 h 5 min", "3 min 20 s" or "12 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# ---------------------------------------------------------------- what was run, and what next


def what_was_run(config: Any, events: Sequence[dict]) -> list[str]:
    """Returns the command, machine, recipe, and the settings that differ from it."""
    parts = []
    start = next((event for event in reversed(events) if event["event"] == "start"), None)
    if start:
        parts.append(page.code(shlex.join(start["command"])))
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(start["time"]))
        versions = ", ".join(f"{name} {number}" for name, number in start["versions"].items())
        parts.append(
            page.table(
                ["what", "which"],
                [
                    ["device", f"{start['devices']} x {start['device']}"],
                    ["system", start["system"]],
                    ["versions", versions],
                    ["code", code_of(start)[1] or "no commit noted"],
                    ["started", when],
                ],
            )
        )
    recipe = config.recipe or "none"
    differing = changed(config)
    title = f"Recipe {recipe}; what differs from it"
    if recipe == "none":
        title = "No recipe; what differs from the defaults"
    rows = [[name, new, old] for name, (old, new) in differing.items()]
    body = page.table(["setting", "this run", "there"], rows) if rows else page.note("nothing")
    parts.append(f"<h3>{html.escape(title)}</h3>{body}")
    return parts


def changed(config: Any) -> dict[str, tuple[str, str]]:
    """Returns {setting: (value of the recipe, value of the run)} where they differ."""
    try:
        base = config_lib.resolve({"recipe": config.recipe or "none"})
    except UserError:  # a recipe that is no more
        base = config_lib.resolve({"recipe": "none"})
    there, here = (config_lib.flatten(c.to_dict()) for c in (base, config))
    return {
        name: (as_text(there.get(name)), as_text(value))
        for name, value in here.items()
        if as_text(value) != as_text(there.get(name)) and name not in NOT_SETTINGS
    }


def code_of(start: dict) -> tuple[str, str]:
    """Returns the commit of a start, and the same in words; ("", "") where none is noted."""
    commit, is_changed, _ = start.get("commit", "").partition("-dirty")
    if not commit:
        return "", ""
    return commit, f"commit {commit}" + (", with changes since" if is_changed else "")


def how_to_go_on(run: Run, config: Any, events: Sequence[dict]) -> list[str]:
    """Returns the commands to repeat, continue, sample, score and share a run, and the citation."""
    folder = shlex.quote(str(run.folder))
    start = next((event for event in events if event["event"] == "start"), {})
    again = shlex.join(start["command"]) if start else "the command of the run"
    commit, commit_in_words = code_of(start)
    commands = [
        f"{again}   # the same folder goes on; with another --save_dir it is repeated",
        f"python train_drift.py --save_dir {folder} --max_steps MORE",
        f"python sample.py --load_dir {folder}",
        f"python eval_fid.py --load_dir {folder}",
        f"python scripts/play.py --load_dir {folder}",
        f"python scripts/export.py --load_dir {folder} --format web   # a page that generates",
        f"python scripts/export.py --load_dir {folder} --push OWNER/NAME",
    ]
    if commit:
        commands.insert(0, f"git checkout {commit}   # to reproduce it: {commit_in_words}")
    if config.objective == "drift":
        commands.append(f"python scripts/doctor.py --load_dir {folder}   # looks into its field")
    return [page.code("\n".join(commands)), "<h3>Cite</h3>", page.code(CITATION)]
