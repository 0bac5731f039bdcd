"""Benchmarks on a machine that has jax, flax, optax, orbax, einops, absl and ml_collections alone."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from benchmarks import bare

WITHOUT = """
import importlib.abc, runpy, sys
sys.path[:0] = ["benchmarks", "."]
hidden = %r
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in hidden else find(name, *rest)
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
""" % ({name.partition(".")[0] for name in bare.UNUSED} | {"tqdm"})
RUN = (
    WITHOUT
    + """
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
)
LOG = (
    WITHOUT
    + """
import step, logging
step.setup_logging()
logging.getLogger("train").info("a line")
"""
)


def test_it_imports_and_logs():
    done = subprocess.run([sys.executable, "-c", LOG], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "info: a line\n"), done.stderr


@pytest.mark.slow
def test_the_step_with_a_random_encoder():
    """As benchmarks/gpu.sh calls it, at tiny sizes; the build of an encoder writes to the log."""
    flags = (
        "--recipe none --size 16 --channels 4 --classes 4 --samples_per_class 8 --sample_interval 0 --eval_interval 0 --random_mae 8,1,1,1,1 --rounds 1 --steps 1 --model.preset debug "
        "--model.patch_size 4 --batch_size 8 --drift.n_neg 4 --drift.n_pos 4 --drift.n_unc 2 --drift.bank_per_class 8 --drift.bank_global 8 --drift.bank_push 4 --mesh.devices 1 --encoder.cache_budget_gb 0.000001"
    ).split()
    done = subprocess.run(
        [sys.executable, "-c", RUN, "benchmarks/step.py", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "info: " in done.stderr, done.stderr
    row = json.loads(done.stdout.strip().splitlines()[-1])
    assert row["step_ms"] > 0 and row["data_wait_ms"] is None
