"""Freed memory of the host is kept for the next step."""

import os
import platform
import subprocess
import sys

import pytest
from conftest import ROOT

ONE_DEVICE = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
STEPS = """
import resource, sys
from utils.memory import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
import jax, jax.numpy as jnp

@jax.jit
def step(x):  # 96 MB in between
    between = jax.lax.map(lambda i: x + i, jnp.arange(4.0))
    return jax.lax.scan(lambda s, r: (s + r.sum(), None), 0.0, between)[0]

x, faults = jnp.ones((6, 2**20)), []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(faults)[len(faults) // 2])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_steps_fault_no_memory_in():
    """The median of the steps: a step may begin before the memory of the last one is freed.

    It then takes memory of its own, once, which is kept as well.
    """

    def faults(*words):
        child = subprocess.run(
            [sys.executable, "-c", STEPS, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env=ONE_DEVICE,
        )
        return int(child.stdout)

    assert 10 * faults("keep") < faults()
