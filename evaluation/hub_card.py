"""Model cards for the Hugging Face hub: what a generator is, how good it measured, how it is used.

The first part of a card is YAML that the hub reads; its `model-index` holds the scores. It is
written by the hub's own package, which refuses what does not fit.
"""

from collections.abc import Sequence
from typing import Any

from data.hub_cards import CARDS
from evaluation.fid_csv import scores
from evaluation.report import CITATION, changed
from evaluation.sample_command import Sampler
from metrics.networks import ERROR
from models.generator import count_parameters
from models.post_hoc import width_in
from utils import config as config_lib

TASK = "unconditional-image-generation"  # the hub's name for pictures without a text
PAPER = "https://arxiv.org/abs/2602.04770"
TAGS = ["jax", "one-step-generation", "drifting-models", "arxiv:2602.04770"]
SETTINGS_SHOWN = ("cfg_scale", "num_samples", "seed", "features", "resize", "reference", "step")


def model_card(
    sampler: Sampler, rows: Sequence[dict], repository: str, licence: str, grid: str
) -> str:
    """Returns README.md of a repository.

    Args:
        sampler: the generator; `metadata` are those of its artifact.
        rows: of fid.csv, of any step and average.
        repository: OWNER/NAME.
        licence: of the weights, by its name on the hub.
        grid: the picture of samples, a file of the repository.
    """
    import huggingface_hub

    metadata = sampler.metadata
    found = [row for row in rows if is_of(row, metadata)]
    name = repository.partition("/")[2]
    on_hub = hub_name(metadata["dataset"]["name"])
    facts = huggingface_hub.ModelCardData(
        license=licence,
        library_name="jax-drift",
        pipeline_tag=TASK,
        tags=TAGS,
        datasets=[on_hub] if on_hub else None,
        model_name=name,
        eval_results=[result for row in found for result in results(row, metadata)] or None,
    )
    parts = [
        f"---\n{facts.to_yaml()}\n---\n",
        f"# {name}\n",
        opening(sampler),
        f"![Samples of each class]({grid})\n" if sampler.makes_pictures else "",
        use(repository),
        score_section(found, metadata),
        training(metadata),
        data_section(metadata, on_hub),
        licence_section(licence),
        f"## Citation\n\n```bibtex\n{CITATION}\n```\n",
    ]
    return "\n".join(part for part in parts if part)


def space_card(title: str, repository: str, licence: str) -> str:
    """Returns README.md of a Space that is a page of static files."""
    import huggingface_hub

    facts = huggingface_hub.SpaceCardData(
        title=title,
        sdk="static",
        app_file="index.html",
        license=licence,
        models=[repository],
    )
    return (
        f"---\n{facts.to_yaml()}\n---\n\nPictures of [{repository}]"
        f"(https://huggingface.co/{repository}), which the device of the reader makes, each in "
        "one pass of a network.\n"
    )


# ---------------------------------------------------------------- scores


def is_of(row: dict, metadata: dict) -> bool:
    """Returns whether a row of fid.csv is of this generator: its step and its average."""
    is_own = not row.get("samples")
    return is_own and (row.get("step"), row.get("ema")) == (metadata["step"], metadata["ema"])


def results(row: dict, metadata: dict) -> list[Any]:
    """Returns a `huggingface_hub.EvalResult` for each score of a row of fid.csv."""
    import huggingface_hub

    source = metadata["dataset"]["name"]
    settings = {key: row[key] for key in SETTINGS_SHOWN if key in row}
    found = []
    for name, value in values_of(row).items():
        error = row.get(f"{name}{ERROR}")
        more = {} if error is None else {"standard_error": error}
        found.append(
            huggingface_hub.EvalResult(
                task_type=TASK,
                dataset_type=hub_name(source) or source,
                dataset_name=source,
                metric_type=name,
                metric_name=f"{name}, alpha {row['cfg_scale']:g}, {row['num_samples']} samples",
                metric_value=value,
                metric_args=settings | more,
            )
        )
    return found


def values_of(row: dict) -> dict[str, float]:
    """Returns the scores of a row without their errors."""
    return {name: value for name, value in scores(row).items() if not name.endswith(ERROR)}


def score_section(rows: Sequence[dict], metadata: dict) -> str:
    """Returns the scores as a table."""
    if not rows:
        average = width_in(metadata["ema"]) or metadata["ema"]
        return (
            "## Scores\n\nNone yet at this step and of these parameters: `eval_fid.py --load_dir "
            f"RUN --step {metadata['step']} --ema {average}` measures them, and the next push "
            "shows them.\n"
        )
    lines = ["| score | value | alpha | samples | network | against |", "|---|---|---|---|---|---|"]
    for row in rows:
        where = f"{row['cfg_scale']:g} | {row['num_samples']:,} | {row['features']} | "
        where += str(row.get("reference", ""))
        for name, value in values_of(row).items():
            text = f"{value:.4g}"
            if f"{name}{ERROR}" in row:
                text += f" ± {row[f'{name}{ERROR}']:.2g}"
            lines.append(f"| {name} | {text} | {where} |")
    return "## Scores\n\n" + "\n".join(lines) + "\n"


# ---------------------------------------------------------------- the text


def opening(sampler: Sampler) -> str:
    """Returns what the generator is, in a paragraph."""
    model, dataset = sampler.model, sampler.metadata["dataset"]
    shape = " x ".join(str(side) for side in model.sample_shape)
    what = "latents" if sampler.space else "samples"
    return (
        f"Makes {what} of {shape} like those of {dataset['name']}, in {model.num_classes} "
        f"classes, each in one pass of a network of {count_parameters(sampler.params):,} "
        f"parameters. It was trained by [drifting]({PAPER}) with jax-drift.\n"
    )


def use(repository: str) -> str:
    """Returns the commands that load it."""
    return (
        "## Use\n\nIn a clone of jax-drift:\n\n```bash\n"
        f"python sample.py --load_dir hf://{repository}\n"
        f"python eval_fid.py --load_dir hf://{repository} --dataset_name DATA\n"
        f"python train_drift.py --dataset_name DATA --init_from hf://{repository}\n```\n"
    )


def training(metadata: dict) -> str:
    """Returns the recipe and what differs from it."""
    config = config_lib.from_dict(metadata["config"], "config.json")
    average = metadata["ema"]
    of = f"the average of decay {average}"
    if average == "raw":
        of = "the raw parameters"
    elif width_in(average):
        of = f"the power-function average of width {width_in(average)}"
    text = (
        f"## Training\n\nRecipe `{config.recipe or 'none'}`, step {metadata['step']:,}, {of}. All "
        "settings are in `config.json`"
    )
    differing = changed(config)
    if not differing:
        return f"{text}.\n"
    lines = [f"{text}; those that differ from the recipe:\n"]
    lines += ["| setting | here | recipe |", "|---|---|---|"]
    lines += [f"| {name} | {here} | {there} |" for name, (there, here) in differing.items()]
    return "\n".join(lines) + "\n"


def data_section(metadata: dict, on_hub: str) -> str:
    """Returns what it learned from."""
    dataset = metadata["dataset"]
    count = f"{dataset['samples']:,} samples of " if "samples" in dataset else ""
    text = f"## Data\n\n{count}{dataset['name']}"
    if on_hub:
        text += f" ([{on_hub}](https://huggingface.co/datasets/{on_hub}))"
    names = dataset.get("class_names") or []
    if 1 < len(names) <= 100:
        text += f"; the classes are {', '.join(str(name) for name in names)}"
    return f"{text}. The data have a licence of their own.\n"


def licence_section(licence: str) -> str:
    """Returns the licence in words."""
    if licence == "unknown":
        return "## Licence\n\nIts owner has not stated one for these weights.\n"
    return f"## Licence\n\nThese weights: {licence}.\n"


def hub_name(dataset: str) -> str:
    """Returns OWNER/NAME of a data set of the hub, "" for one from elsewhere."""
    if dataset in CARDS:
        return CARDS[dataset].repo
    return dataset.removeprefix("hf:") if dataset.startswith("hf:") else ""
