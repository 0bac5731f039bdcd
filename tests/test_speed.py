"""The share of the devices' arithmetic that a run uses, and traces of its steps."""

import gzip
import json
import types

import jax
import jax.numpy as jnp
import pytest

from training.speed import Profile, best_matmul_rate, peak_flops, utilisation
from utils.flops import matmul_rate
from utils.sharding import make_mesh


def test_share_of_what_a_data_sheet_says():
    h100 = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3", platform="gpu")
    devices = types.SimpleNamespace(flat=[h100] * 8)
    mesh = types.SimpleNamespace(devices=devices, size=8)
    assert peak_flops(mesh) == 8 * 989e12
    traced = jax.jit(lambda a: a @ a).trace(jnp.zeros((1000, 1000)))
    assert utilisation(mesh, traced).share(1e3) == pytest.approx(2e12 / (8 * 989e12))


def test_a_cpu_is_measured_and_its_devices_share_its_cores():
    one = peak_flops(make_mesh(1, 1))
    best_matmul_rate.cache_clear()
    eight = peak_flops(make_mesh(8, 1))
    assert 0.2 < one / matmul_rate() < 5 and 0.2 < eight / one < 5


@pytest.mark.parametrize(
    "start, last, count, traced",
    [
        (0, 100, 5, [3, 4, 5, 6, 7]),
        (40, 100, 2, [43, 44]),
        (0, 4, 3, [2, 3, 4]),
        (0, 2, 9, [1, 2]),
        (0, 9, 0, []),
    ],
)
def test_which_steps_are_traced(tmp_path, start, last, count, traced):
    profile = Profile(tmp_path, start, last, count)
    assert list(range(profile.first, profile.last + 1)) == traced


def test_a_trace_is_what_perfetto_opens(tmp_path):
    profile = Profile(tmp_path, 0, 6, 2)

    @jax.jit
    def square(matrix):
        return matrix @ matrix

    profile.before(3)
    profile.stop()  # the run went back: these steps are taken once more
    for step in range(1, 7):
        profile.before(step)
        profile.after(step, square(jnp.ones((64, 64))))
    # Each trace has a folder; the first has no step.
    files = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    file = max(files, key=lambda file: file.stat().st_mtime_ns)
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    assert "PjitFunction(square)" in [event.get("name") for event in events]
