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

# What a run writes and when: no part of the step that is compiled.
OF_THE_RUN = (
    "save_dir",
    "load_dir",
    "save_interval",
    "keep_checkpoints",
    "keep_interval",
    "log_interval",
    "sample_interval",
    "eval_interval",
    "on_nonfinite",
    "watchdog",
)
STEPS_KEPT = 4
_steps: dict[str, object] = {}  # of the last settings, the newest last


@pytest.fixture
def shared_steps(monkeypatch):
    """Gives trainings of the same settings one jitted step, so that it is traced once.

    For tests of what happens around the steps: files, signals, refusals, moves between meshes.
    Those of the step itself, of its bits, and those that patch what is traced, trace their own.
    """
    share_steps(monkeypatch)


def share_steps(patch):
    """Does it until `patch` is undone."""
    from training import drift
    from utils.config import flatten

    jit_step = drift.jit_step

    def shared(parts):
        settings = {k: v for k, v in flatten(parts.config.to_dict()).items() if k not in OF_THE_RUN}
        key = repr((settings, parts.mesh, parts.bank_shapes, drift.state_shapes(parts)))
        step = _steps.pop(key, None) or jit_step(parts)
        _steps[key] = step
        while len(_steps) > STEPS_KEPT:
            del _steps[next(iter(_steps))]
        return step

    patch.setattr(drift, "jit_step", shared)
