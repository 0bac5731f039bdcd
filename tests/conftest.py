"""Tests run on the CPU as eight devices, so that meshes can be tried; compiled programs are kept between runs."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    )
if (
    "xla_backend_optimization_level" not in os.environ["XLA_FLAGS"]
):  # the tests' time is that of the compiler
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"

import logging  # noqa: E402  the environment comes first

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def logging_as_before():
    """The programs set up the root logger; the next test finds it as this one did."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, logging.root.manager.disable
    yield
    root.handlers[:], root.level = handlers, level
    logging.disable(disabled)
