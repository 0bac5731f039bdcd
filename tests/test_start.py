"""What a start of a run imports and keeps, and what stands in for a slow import."""

import os
import subprocess
import sys

import jax
import numpy as np
from conftest import ROOT
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import data
from data import pipeline
from data.arrays import stratified_split
from evaluation.flags import RESIZE
from metrics.resize import MODES
from utils.compiler import keep_programs

SLOW = "sklearn scipy.stats pandas matplotlib tqdm wandb datasets torch tensorflow"
LOOK = f"""
import sys
import jax
from training import drift
from utils.compiler import keep_programs
keep_programs()
print(sorted(set("{SLOW}".split()) & set(sys.modules)))
print(jax.config.jax_compilation_cache_dir)
"""


def test_a_start_imports_what_it_needs_and_keeps_programs(tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": ""}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    imported, cache = done.stdout.splitlines()
    assert imported == "[]"
    assert [cache] == [str(folder) for folder in (tmp_path / "jax-drift").glob("programs-*")]

    of_the_tests = jax.config.jax_compilation_cache_dir  # named by the environment
    keep_programs()
    assert jax.config.jax_compilation_cache_dir == of_the_tests


PROGRAMS = (
    "train_drift pretrain_mae sample eval_fid "
    "scripts/doctor scripts/report scripts/export scripts/play scripts/compare"
)
PARSE = f"""
import runpy
import sys
from absl import flags
from utils import config
config.run_main = lambda main: None
for name in "{PROGRAMS}".split():
    before = set(flags.FLAGS)
    runpy.run_path(f"{{name}}.py", run_name="__main__")
    assert len(set(flags.FLAGS) - before) >= 2 and "jax" not in sys.modules, name
    for flag in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, flag)
"""


def test_a_mistyped_flag_does_not_wait_for_jax():
    subprocess.run([sys.executable, "-c", PARSE], cwd=ROOT, check=True)


def test_help_lists_the_ways_of_resizing():
    assert all(mode in RESIZE.help for mode in MODES)


def test_the_split_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    even, skewed = np.arange(60) % 3, np.sort(random.geometric(0.4, 300))
    cases = [(even, 0.3), (even, 7), (skewed % 5, 0.25), (random.permutation(skewed % 5) + 5, 41)]
    cases.append((load_digits().target, 0.3))
    for labels, held_out in cases:
        positions = np.arange(len(labels))
        expected = train_test_split(positions, test_size=held_out, random_state=0, stratify=labels)
        for ours, theirs in zip(stratified_split(labels, held_out), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_digits_are_those_of_scikit_learn():
    digits = load_digits()
    train, _ = train_test_split(
        np.arange(1797), test_size=0.3, random_state=0, stratify=digits.target
    )
    images, labels = pipeline.everything(data.load("digits"))
    np.testing.assert_array_equal(labels, digits.target[train])
    grey = np.round(digits.images[train] * (255 / 16))
    np.testing.assert_array_equal(images[..., 0], grey)
