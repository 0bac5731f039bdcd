"""Flags of the projects that people come from, answered with ours.

They are those of image generators in PyTorch and JAX: the flow-matching trainer that this one
mirrors, guided diffusion, EDM, DiT, and the ports of the paper. An answer fits the program that was
started: it names no flag that the program lacks, unless the one that has it stands before it. It
has the value that was given, so that it can be pasted.
"""

import importlib
import itertools
import pathlib
import re
from collections.abc import Iterable, Set
from typing import NamedTuple

from utils.config.schema import KEYS, MAE_TRAINER, TRAINER, recipes
from utils.words import did_you_mean, spelled_alike

# Their name: ours, where the meaning is the same. The first that the program has is the answer.
SAME_MEANING = {
    "dataset": ("dataset_name",),
    "data": ("dataset_name",),
    "data_name": ("dataset_name",),
    "checkpoint": ("load_dir",),
    "checkpoint_path": ("load_dir",),
    "ckpt": ("load_dir",),
    "ckpt_path": ("load_dir",),
    "ckpt_dir": ("load_dir",),
    "model_path": ("load_dir",),
    "network": ("load_dir",),
    "resume_from": ("load_dir",),
    "resume_checkpoint": ("load_dir",),
    "run_dir": ("load_dir",),
    "pretrained": ("init_from", "load_dir"),
    "out_dir": ("save_dir", "out"),
    "outdir": ("save_dir", "out"),
    "output_dir": ("save_dir", "out"),
    "output": ("save_dir", "out"),
    "results_dir": ("save_dir", "out"),
    "sample_dir": ("out",),
    "workdir": ("save_dir", "out"),
    "work_dir": ("save_dir", "out"),
    "logdir": ("save_dir",),
    "log_dir": ("save_dir",),
    "report_to": ("log",),
    "exp_name": ("wandb.name",),
    "vae_id": ("vae",),
    "vae_path": ("vae",),
    "model_size": ("model.preset",),
    "arch": ("model.preset",),
    "steps": ("max_steps",),
    "num_steps": ("max_steps",),
    "train_steps": ("max_steps",),
    "total_steps": ("max_steps",),
    "iterations": ("max_steps",),
    "total_batch_size": ("batch_size", "sample_batch_size"),
    "global_batch_size": ("batch_size", "sample_batch_size"),
    "grad_accum": ("optim.accumulate",),
    "gradient_accumulation_steps": ("optim.accumulate",),
    "global_seed": ("seed",),
    "num_workers": ("data.workers",),
    "image_size": ("data.image_size",),
    "resolution": ("data.image_size",),
    "img_size": ("data.image_size",),
    "ckpt_every": ("save_interval",),
    "log_every": ("log_interval",),
    "sample_every": ("sample_interval",),
    "cfg_scale": ("cfg_scale", "alpha", "drift.alpha_max"),
    "guidance": ("cfg_scale", "alpha", "drift.alpha_max"),
    "guidance_scale": ("cfg_scale", "alpha", "drift.alpha_max"),
    "cfg": ("cfg_scale", "alpha", "drift.alpha_max"),
    "alpha": ("cfg_scale", "drift.alpha_max"),
    "num_fid_samples": ("num_samples", "eval_samples"),
    "n_samples": ("num_samples", "eval_samples"),
    "ref_path": ("fid_stats",),
    "ref_batch": ("fid_stats",),
    "reference": ("fid_stats",),
    "temperature": ("drift.temperatures",),
    "temps": ("drift.temperatures",),
    "num_pos": ("drift.n_pos",),
    "num_neg": ("drift.n_neg",),
    "ema_decay": ("ema",),
}


class Lead(NamedTuple):
    """What to do about a flag, told by programs that have all flags which it names.

    Attributes:
        text: {value} stands for what was given.
        needs: flags that the program must have as well.
        default: stands in the place of a value that was not given.
    """

    text: str
    needs: tuple[str, ...] = ()
    default: str = "PATH"


# Flags by which programs are told apart.
TRAINS = ("profile",)
TAKES_A_RUN = ("load_dir",)  # those that train take one as well, and stand before these below
SCORES = ("samples_npz",)
SAMPLES = ("per_class", "classes")
SERVES = ("port",)
ENCODES = ("encode_batch_size",)
OF_MAE = ("mae.layers",)

KNOWS_SETTINGS = (Lead("a run knows its own settings: leave it out", TAKES_A_RUN),)
NOT_OF_AN_MAE = (
    Lead("an MAE has settings of its own, mae.* in its help: leave it out", OF_MAE),
    *KNOWS_SETTINGS,
)
KNOWS_DATA = (Lead("a run knows its own data: leave it out", TAKES_A_RUN),)
ONE_PASS = (
    Lead(
        "a sample is one pass: leave it out; for a flow give --denoise_timesteps {value}", (), "N"
    ),
    Lead("a sample is one pass: leave it out"),
)
GUIDANCE = (
    Lead("guidance is a slider on the page: leave it out", SERVES),
    Lead("guidance is chosen where samples are drawn, with sample.py --cfg_scale: leave it out"),
)
NOT_TRAINED = Lead("nothing is trained here: leave it out")
EPOCHS = (
    Lead("the length is counted in steps: give --max_steps, epochs x images / --batch_size"),
    Lead("the length is counted in steps: give --max_steps"),
    NOT_TRAINED,
)
PRECISION = (
    Lead("networks compute in bfloat16 by default (--model.use_bf16): leave it out"),
    Lead("networks compute in bfloat16 by default (--mae.use_bf16): leave it out"),
    Lead("a network computes as it was trained: leave it out", TAKES_A_RUN),
)
WANDB = (
    Lead("give --wandb.mode online or offline"),
    Lead("a training is logged, by train_drift.py --wandb.mode online: leave it out"),
)
TENSORBOARD = (
    Lead("give --log tensorboard"),
    Lead("a training is logged, by train_drift.py --log tensorboard: leave it out"),
)
LATENTS = (
    Lead("give --model.use_stable_vae 1, and --vae FOLDER_OR_ID for another VAE"),
    Lead("give --dataset_name latents:FOLDER, which scripts/cache_latents.py makes", OF_MAE),
    Lead("latents are what it makes: leave it out; --vae FOLDER_OR_ID takes another VAE", ENCODES),
    Lead(
        "a run knows whether it has latents: leave it out; --vae FOLDER_OR_ID takes another VAE",
        TAKES_A_RUN,
    ),
    Lead("a run knows whether it has latents: leave it out", TAKES_A_RUN),
)
IMAGES = Lead("images are taken, and no latents: leave it out")

# What has no flag here, or not one of the same meaning. The first lead that fits is the answer.
ADVICE = {
    "dataset": KNOWS_DATA,
    "data": KNOWS_DATA,
    "data_name": KNOWS_DATA,
    "dataset_name": KNOWS_DATA,
    "data_root": (
        Lead(
            "give --dataset_name folder:{value} for a folder of images, or --data.dir {value} for "
            "the copy of a named set"
        ),
        *KNOWS_DATA,
    ),
    "recipe": KNOWS_SETTINGS,
    "model_size": NOT_OF_AN_MAE,
    "arch": NOT_OF_AN_MAE,
    "image_size": KNOWS_SETTINGS,
    "resolution": KNOWS_SETTINGS,
    "img_size": KNOWS_SETTINGS,
    "epochs": EPOCHS,
    "num_epochs": EPOCHS,
    "resume": (
        Lead(
            "the same command goes on with the run in its --save_dir; --load_dir RUN starts from "
            "the checkpoint of another",
            TRAINS,
        ),
        Lead("the same command goes on where it was: leave it out", ENCODES),
        Lead("give --load_dir {value}", (), "RUN"),
        NOT_TRAINED,
    ),
    "auto_resume": (
        Lead("the same command goes on with the run in its --save_dir; leave it out", TRAINS),
        Lead("the same command goes on where it was: leave it out", ENCODES),
        NOT_TRAINED,
    ),
    "skip_existing": (
        Lead("a finished training is not repeated: leave it out", TRAINS),
        Lead("--all leaves out what fid.csv has already: leave it out", SCORES),
        Lead("the same command goes on where it was: leave it out", ENCODES),
        Lead("what is there is written over; give another --out to keep it", SAMPLES),
        Lead("there is nothing to skip: leave it out"),
    ),
    "cleanup_samples": (
        Lead("samples are not written unless --samples_npz asks for it: leave it out", SCORES),
        Lead("samples are what it writes, to --out: leave it out", SAMPLES),
        Lead("samples that are scored are not written: leave it out", (*TRAINS, "eval_samples")),
        Lead("samples are not left behind: leave it out"),
    ),
    "sample_dir": (
        Lead("pictures go to the folder samples of --save_dir: leave it out", ("sample_interval",)),
    ),
    "num_classes": (
        Lead("the classes are counted in the data: leave it out", TRAINS),
        Lead("a run knows its own classes: leave it out", TAKES_A_RUN),
        Lead("the classes are counted in the data: leave it out", ("dataset_name",)),
    ),
    "class_cond": (
        Lead(
            "a set with labels is conditional: leave it out, or give --data.label_column none for "
            "one class",
            TRAINS,
        ),
        *KNOWS_SETTINGS,
    ),
    "num_sampling_steps": ONE_PASS,
    "steps": ONE_PASS,
    "num_steps": ONE_PASS,
    "cfg_scale": GUIDANCE,
    "guidance": GUIDANCE,
    "guidance_scale": GUIDANCE,
    "cfg": GUIDANCE,
    "alpha": GUIDANCE,
    "fp16": PRECISION,
    "use_fp16": PRECISION,
    "device": (
        Lead("all devices are used; JAX_PLATFORMS=cpu or --mesh.devices choose: leave it out"),
        Lead("JAX chooses the device; JAX_PLATFORMS=cpu takes the CPU: leave it out"),
    ),
    "gpus": (
        Lead("all devices are used; --mesh.devices N takes fewer: leave it out"),
        Lead("JAX chooses the devices; CUDA_VISIBLE_DEVICES names fewer: leave it out"),
    ),
    "ema_decay": (Lead("give --optim.ema, one decay or several with commas"),),
    "use_stable_vae": (Lead("give --model.use_stable_vae {value}", (), "1"), *LATENTS[1:], IMAGES),
    "wandb": WANDB,
    "use_wandb": WANDB,
    "tensorboard": TENSORBOARD,
    "use_tensorboard": TENSORBOARD,
}
# What --mode says in those projects.
MODES = {
    "latent": LATENTS,
    "pixel": (
        Lead("pixels are the default: leave it out", TRAINS),
        Lead("a run knows whether it has pixels: leave it out", TAKES_A_RUN),
        Lead("pixels are the default: leave it out"),
    ),
    "train": (Lead("train_drift.py trains: leave it out"),),
    "sample": (Lead("sample.py samples: leave it out"),),
    "eval": (Lead("eval_fid.py scores: leave it out"),),
}
NO_MODES = (Lead("train_drift.py trains, sample.py samples, eval_fid.py scores: leave it out"),)
# Settings of the trainer that are kept with a run.
KEPT = ("model.", "drift.", "encoder.", "optim.", "flow.", "data.")


def answer(name: str, value: str, ours: Iterable[str]) -> str:
    """Returns "; give --load_dir x" for a flag of another project, or "" for one nobody has.

    Args:
        name: of the unknown flag, without dashes.
        value: what it was given, or "".
        ours: the names of this program's flags.
    """
    name = name.replace("-", "_")
    ours = set(ours)
    if name == "config":
        return "; " + _recipe_of(value, ours)
    if name == "mode":
        modes = [leads for mode, leads in MODES.items() if value.lower().startswith(mode)]
        return _first((*itertools.chain(*modes), *NO_MODES), value, ours)
    if name in KEYS and name.startswith(KEPT):
        return _first(NOT_OF_AN_MAE, value, ours)
    for same in SAME_MEANING.get(name, ()):
        if same in ours:
            ours_value = _data_set(value) if same == "dataset_name" else value
            return f"; give --{same} {ours_value}".rstrip()
    return _first(ADVICE.get(name, ()), value, ours)


def _first(leads: Iterable[Lead], value: str, ours: Set[str]) -> str:
    """Returns "; " and the first of the leads that fits the program's flags, or ""."""
    for lead in leads:
        if {*lead.needs, *flags_named(lead.text)[""]} <= ours:
            return "; " + lead.text.format(value=value or lead.default)
    return ""


def flags_named(text: str) -> dict[str, set[str]]:
    """Returns the flags that a text names: {"": those of any program, "sample.py": of that one}."""
    found: dict[str, set[str]] = {"": set()}
    for program, flag in re.findall(r"(?:([\w/]+\.py) )?--(\w+(?:\.\w+)*)", text):
        found.setdefault(program, set()).add(flag)
    return found


def _recipe_of(path: str, ours: Set[str]) -> str:
    """Returns what takes the place of a file of settings."""
    if "recipe" not in ours:
        if set(TAKES_A_RUN) <= ours:
            return KNOWS_SETTINGS[0].text
        return "settings are given as flags"
    names = recipes((MAE_TRAINER if set(OF_MAE) <= ours else TRAINER).recipes)
    name = pathlib.Path(path).stem
    if not name:
        return "give --recipe NAME"
    if name in names:
        if is_data_set(name):
            return f"give --dataset_name {name}, which has a recipe of that name"
        return f"give --recipe {name}"
    found = [recipe for recipe in names if _words(name) and _words(name) <= _words(recipe)][:3]
    if found:
        return f"give --recipe {' or '.join(found)}"
    guess = did_you_mean(name, names)
    return f"there is no recipe {name}{guess}; --recipe takes one of {', '.join(names)}"


def _words(name: str) -> set[str]:
    """Returns {"latent", "imagenet"} for "latent_imagenet256"."""
    return set(re.findall("[a-z]+", name.lower()))


# ---------------------------------------------------------------- words without a flag


def answer_to_word(word: str, ours: Iterable[str]) -> str:
    """Returns "; did you mean --dataset_name cifar10?" for a word that is a data set or a recipe.

    Args:
        word: that belongs to no flag.
        ours: the names of this program's flags.
    """
    ours = set(ours)
    is_source = re.match(r"(folder|hf|tfds|latents|npz):.", word)
    word = next(iter(spelled_alike(word, recipes())), word)
    is_recipe = word in recipes()
    if is_source or (is_recipe and is_data_set(word)):
        if "dataset_name" in ours:
            return f"; did you mean --dataset_name {word}?"
        return _first(KNOWS_DATA, word, ours)
    if is_recipe and "recipe" in ours:
        return f"; did you mean --recipe {word}?"
    return ""


def _data_set(value: str) -> str:
    """Returns tiny_imagenet for tiny-imagenet, folder:/x for /x, hf:a/b for a/b of the hub."""
    named = list(filter(is_data_set, spelled_alike(value, recipes())))
    if named:
        return named[0]
    is_path = value.startswith(("/", "./", "../", "~/")) or pathlib.Path(value or "?").is_dir()
    if is_path and not value.endswith(".npz"):
        return f"folder:{value}"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", value):
        return f"hf:{value}"
    return value


def is_data_set(recipe: str) -> bool:
    """Returns whether a recipe of train_drift.py is that of the data set of its name.

    A recipe for another one names it.
    """
    if recipe not in recipes():
        return False
    overrides = importlib.import_module(f"{TRAINER.recipes}.{recipe}").OVERRIDES
    return overrides.get("dataset_name", recipe) == recipe
