"""Tests run on the CPU as eight devices, so that meshes can be tried.

Compiled programs are kept between runs.
"""

import gc
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
XLA_DEFAULTS = {
    "xla_force_host_platform_device_count": 8,
    # Most of the tests' time is the compiler's, and two tests run at once.
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_use_fusion_emitters": "false",  # they compile twice as long
}
# Two tests run at once, on small matrices: threads of one test would wait for each other, busily.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# For steps that a test takes many of. Convolutions that are not optimised at all take several times
# as long, and all passes would compile for longer than they save.
OF_MANY_STEPS = {
    "xla_backend_optimization_level": 1,
    "xla_llvm_disable_expensive_passes": True,
}
# Of programs that tests start: one device.
CHILD_XLA_FLAGS = " ".join(
    f"--{name}={value}" for name, value in XLA_DEFAULTS.items() if "device_count" not in name
)
for name, value in XLA_DEFAULTS.items():
    if name not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + f" --{name}={value}"

# Tracing makes many objects that live long: looking through them takes a sixth of its time.
gc.set_threshold(200_000, 20, 20)

import logging  # noqa: E402  the environment comes first

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def logging_as_before():
    """Restores the root logger, which the programs set up, for the next test."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, logging.root.manager.disable
    yield
    root.handlers[:], root.level = handlers, level
    logging.disable(disabled)


@pytest.fixture(autouse=True)
def no_features_in_the_home(tmp_path_factory, monkeypatch):
    """Keeps features of real images for one test, where the program of scores is imported."""
    module = sys.modules.get("evaluation.feature_cache")
    if module:
        folder = tmp_path_factory.mktemp("features")
        monkeypatch.setattr(module, "usual_folder", lambda: folder)


# ---- shared steps ----

# What a run writes, watches and scores: no part of the step that is compiled. Of the devices the
# mesh is looked at.
OF_THE_RUN = (
    "save_dir",
    "load_dir",
    "save_interval",
    "keep_checkpoints",
    "keep_interval",
    "log_interval",
    "sample_interval",
    "eval_interval",
    "eval_samples",
    "features",
    "fid_stats",
    "inception_weights",
    "on_nonfinite",
    "max_rollbacks",
    "watchdog",
    "stop_on_collapse",
    "mesh.devices",
    "mesh.fsdp",
)
KEPT = 12
_steps: dict[str, object] = {}  # of the last settings, the newest last
_first_states: dict[str, object] = {}


@pytest.fixture
def shared_steps(monkeypatch):
    """Gives trainings of the same settings one jitted step, so that it is traced once.

    For tests of what happens around the steps: files, signals, refusals, moves between meshes.
    Those of the step itself, of its bits, and those that patch what is traced, trace their own.
    """
    share_steps(monkeypatch)


def share_steps(patch):
    """Does it until `patch` is undone."""
    from training import drift, drift_state, mae

    jit_step, make_step = drift.jit_step, mae.make_step
    first_state_of = drift_state._first_state_of

    def shared_step(parts):
        key = (*traced(parts), parts.bank_shapes, drift.state_shapes(parts))
        return kept(_steps, key, jit_step, parts)

    def shared_first_state(parts):
        return kept(_first_states, traced(parts), first_state_of, parts)

    def shared_mae_step(parts):
        return kept(_steps, traced_of_mae(parts), make_step, parts)

    patch.setattr(drift, "jit_step", shared_step)
    patch.setattr(drift_state, "_first_state_of", shared_first_state)
    patch.setattr(mae, "make_step", shared_mae_step)


def traced(parts):
    """Returns what the step of a generator's training may depend on: settings, data, devices."""
    from utils.config import flatten

    settings = {k: v for k, v in flatten(parts.config.to_dict()).items() if k not in OF_THE_RUN}
    if settings["optim.schedule"] == "constant" and not settings["drift.temperature_schedule"]:
        del settings["max_steps"]  # nothing changes until then
    data = parts.dataset
    facts = (data.shape, data.dtype, data.n_classes, data.counts, data.condition_width)
    facts += (data.latents,)
    return settings, facts, parts.model, *compiled_for(parts.mesh)


def traced_of_mae(parts):
    """Returns what the step of an encoder's training may depend on."""
    optim = parts.config.optim.to_dict()
    length = parts.config.max_steps if optim["schedule"] != "constant" else None
    return optim, length, parts.model, parts.step, *compiled_for(parts.mesh)


def compiled_for(mesh):
    """Returns the devices, which a mesh does not print, and what the compiler is told for them."""
    from utils import compiler

    return mesh, [device.id for device in mesh.devices.flat], compiler.options(mesh)


def kept(results, key, make, parts):
    """Returns what `make(parts)` returned for the same key, if it is among the last ones."""
    result = results.pop(repr(key), None) or make(parts)
    results[repr(key)] = result
    while len(results) > KEPT:
        del results[next(iter(results))]
    return result
