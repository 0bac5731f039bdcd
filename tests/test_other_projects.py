"""Flags of other projects: the answer of each program is one that it can be given."""

import functools
import runpy
import sys
from unittest import mock

import pytest
from absl import flags
from conftest import ROOT

import data
from utils import config as config_lib
from utils.config import other_projects
from utils.config.other_projects import ADVICE, MODES, NO_MODES, SAME_MEANING, flags_named
from utils.errors import UserError

DOORS = ("train_drift.py", "pretrain_mae.py", "sample.py", "eval_fid.py")
SCRIPTS = [
    str(path.relative_to(ROOT))
    for path in sorted((ROOT / "scripts").glob("*.py"))
    if "config_lib.run_main(" in path.read_text()
]
# Of a run, so they have no flag for its data or settings.
OF_A_RUN = ("sample.py", "scripts/play.py", "scripts/export.py", "scripts/doctor.py")


@functools.cache
def flags_of(program):
    """Returns the flags of ours that a program takes, as it defines them when it is started."""
    found = set()

    def note(main, flag_values=flags.FLAGS):
        found.update(config_lib.command_line._rows(flag_values))

    before = set(flags.FLAGS)
    with (
        mock.patch.object(config_lib, "run_main", note),
        mock.patch.object(sys, "argv", [program]),
        mock.patch.object(sys, "path", [*sys.path, str((ROOT / program).parent)]),
    ):
        try:
            runpy.run_path(str(ROOT / program), run_name="__main__")
        except UserError:
            pass
        finally:
            for name in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, name)
    assert found, program
    return frozenset(found)


def answer(program, *words):
    """Returns what a program answers to an unknown flag and its value, or to a word."""
    if not words[0].startswith("--"):
        return other_projects.answer_to_word(words[0], flags_of(program))
    value = words[1] if len(words) > 1 else ""
    return other_projects.answer(words[0].removeprefix("--"), value, flags_of(program))


EVERY_FLAG = sorted({*SAME_MEANING, *ADVICE, "config", "model.depth"})


@pytest.mark.parametrize("program", [*DOORS, *SCRIPTS])
def test_no_answer_names_a_flag_that_the_program_lacks(program):
    questions = [(flag, value) for flag in EVERY_FLAG for value in ("", "imagenet.yaml")]
    questions += [("mode", mode) for mode in (*MODES, "other", "")]
    for flag, value in questions:
        if flag in flags_of(program):
            continue
        text = other_projects.answer(flag, value, flags_of(program))
        for owner, named in flags_named(text).items():
            assert named <= flags_of(owner or program), (flag, text)


def test_every_answer_is_given_by_a_program():
    """None is left that names a flag which nobody has, or stands behind one that always fits."""
    programs = [flags_of(program) for program in (*DOORS, *SCRIPTS)]
    for ours in SAME_MEANING.values():
        assert all(any(flag in known for known in programs) for flag in ours)
    for flag, leads in (ADVICE | MODES | {"mode": NO_MODES}).items():
        given = set()
        for known in programs:
            shown = [lead for lead in leads if other_projects._first([lead], "", known)]
            given |= set(shown[:1])
        assert given == set(leads), flag


@pytest.mark.parametrize(
    ("program", "words", "expected"),
    [
        ("train_drift.py", ["--dataset", "cifar10"], "give --dataset_name cifar10"),
        ("train_drift.py", ["--dataset", "tiny-imagenet"], "give --dataset_name tiny_imagenet"),
        ("train_drift.py", ["--dataset", "Maysee/tiny-imagenet"], "hf:Maysee/tiny-imagenet"),
        ("train_drift.py", ["--dataset", "/my/x"], "give --dataset_name folder:/my/x"),
        ("train_drift.py", ["--checkpoint", "runs/x"], "give --load_dir runs/x"),
        ("train_drift.py", ["--data_root", "/d"], "give --dataset_name folder:/d for a folder"),
        ("train_drift.py", ["--config", "cifar10_mae.yaml"], "give --recipe cifar10_mae"),
        ("train_drift.py", ["--config", "configs/mnist.yaml"], "give --dataset_name mnist"),
        ("train_drift.py", ["--config", "latent_imagenet.yaml"], "--recipe imagenet256_latent"),
        ("train_drift.py", ["--config", "some.yaml"], "there is no recipe some; --recipe takes"),
        ("pretrain_mae.py", ["--config", "mnist.yaml"], "there is no recipe mnist"),
        ("pretrain_mae.py", ["--model.depth", "3"], "an MAE has settings of its own"),
        ("train_drift.py", ["--out-dir", "x"], "give --save_dir x"),
        ("train_drift.py", ["--use_stable_vae"], "give --model.use_stable_vae 1"),
        ("train_drift.py", ["--mode", "latent"], "give --model.use_stable_vae 1, and --vae"),
        ("train_drift.py", ["--vae_id", "x"], "give --vae x"),
        ("train_drift.py", ["--alpha", "2"], "give --drift.alpha_max 2"),
        ("train_drift.py", ["--resume"], "the same command goes on"),
        ("train_drift.py", ["--epochs", "3"], "give --max_steps, epochs"),
        ("train_drift.py", ["--skip_existing"], "a finished training is not repeated"),
        ("train_drift.py", ["--num_classes", "10"], "counted in the data"),
        ("train_drift.py", ["--cleanup_samples"], "that are scored are not written"),
        ("train_drift.py", ["cifar10"], "did you mean --dataset_name cifar10?"),
        ("train_drift.py", ["CIFAR-10"], "did you mean --dataset_name cifar10?"),
        ("train_drift.py", ["folder:/x"], "did you mean --dataset_name folder:/x?"),
        ("train_drift.py", ["cifar10_mae"], "did you mean --recipe cifar10_mae?"),
        ("sample.py", ["cifar10"], "a run knows its own data: leave it out"),
        ("eval_fid.py", ["--use_stable_vae"], "a run knows whether it has latents: leave it out"),
        ("eval_fid.py", ["--mode", "latent"], "--vae FOLDER_OR_ID takes another VAE"),
        ("eval_fid.py", ["--config", "a.yaml"], "a run knows its own settings: leave it out"),
        ("eval_fid.py", ["--skip_existing"], "--all leaves out what fid.csv has"),
        ("eval_fid.py", ["--cleanup_samples"], "unless --samples_npz asks for it"),
        ("eval_fid.py", ["--alpha", "2"], "give --cfg_scale 2"),
        ("sample.py", ["--skip_existing"], "give another --out to keep it"),
        ("sample.py", ["--cleanup_samples"], "samples are what it writes"),
        ("sample.py", ["--resume", "runs/x"], "give --load_dir runs/x"),
        ("sample.py", ["--steps", "50"], "a sample is one pass"),
        ("scripts/play.py", ["--alpha", "2"], "guidance is a slider on the page"),
        ("scripts/compare.py", ["--cfg_scale", "2"], "give --alpha 2"),
        ("scripts/cache_latents.py", ["--config", "y"], "settings are given as flags"),
        ("scripts/cache_latents.py", ["--mode", "latent"], "latents are what it makes"),
    ],
)
def test_answers_fit_the_program(program, words, expected):
    assert expected in answer(program, *words)


@pytest.mark.parametrize("program", OF_A_RUN)
def test_a_program_of_a_run_asks_for_no_settings(program):
    for words in (
        ["--config", "a"],
        ["--dataset", "a"],
        ["--dataset_name", "a"],
        ["--recipe", "a"],
    ):
        assert answer(program, *words).endswith(": leave it out")
    assert "settings: leave it out" in answer(program, "--model.depth", "3")
    assert "nothing is trained here" in answer(program, "--epochs", "3")


def test_the_program_says_it_in_one_line():
    flag_values = config_lib.define_flags(flag_values=flags.FlagValues())
    for words, expected in (
        (["--dataset", "digits"], "unknown flag --dataset; give --dataset_name digits (--help"),
        (["digits"], "unexpected word 'digits'; did you mean --dataset_name digits?"),
        (["other"], "unexpected word 'other'; expected only --flag=value"),
    ):
        with pytest.raises(UserError) as caught:
            config_lib.parse(["program", *words], flag_values)
        assert str(caught.value).startswith(expected)


def test_recipes_of_data_sets_are_told_from_others():
    found = {name for name in config_lib.recipes() if other_projects.is_data_set(name)}
    assert found == set(data.SOURCES)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TinyImageNet", "; did you mean tiny_imagenet?"),
        ("CIFAR-100", "; did you mean cifar100?"),
        ("celeba", "; did you mean celebahq256?"),
        ("Fashion", "; did you mean fashion_mnist?"),
        ("cifar", "; did you mean cifar10 or cifar100?"),
    ],
)
def test_other_spellings_of_data_sets_are_answered(name, meant):
    with pytest.raises(UserError) as caught:
        data.load(name)
    assert meant in str(caught.value)
