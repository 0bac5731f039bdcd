"""Settings of XLA's compiler, and the cache of what it compiled."""

import functools
import os
import pathlib
import platform
import zlib
from typing import Any

import jax
from jax.sharding import Mesh

from utils.paths import cache_folder

# With these a program for a CPU compiles sooner, and its steps are no slower
# (docs/benchmarks.md, two settings of the step).
CPU_OPTIONS = {
    "xla_backend_optimization_level": 2,
    # Matrix products are then Eigen's.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}


@functools.cache
def _is_known(name: str, value) -> bool:
    """Tells whether the installed version of XLA takes a setting, by compiling next to nothing."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def options(mesh: Mesh) -> dict[str, bool | int | str]:
    """Returns the `compiler_options` of jax.jit for programs that run on the devices of `mesh`.

    What the environment's XLA_FLAGS names stays as it says there.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    set_by_user = os.environ.get("XLA_FLAGS", "")
    return {
        name: value
        for name, value in CPU_OPTIONS.items()
        if name not in set_by_user and _is_known(name, value)
    }


# ---- the cache of compiled programs ----

# Settings of JAX, unless the environment has them: variables are their names in capitals.
CACHE_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.3,  # those of less are compiled each time
    "jax_compilation_cache_max_size": 2 * 2**30,  # bytes; the oldest programs go first
}


def keep_programs() -> None:
    """Lets JAX keep compiled programs in the user's cache folder, so that a second start is fast.

    Where JAX_COMPILATION_CACHE_DIR names another folder, that is used;
    JAX_ENABLE_COMPILATION_CACHE=0 does without. Call this before the first program is compiled.
    """
    settings: Any = jax.config
    if settings.jax_compilation_cache_dir or not settings.jax_enable_compilation_cache:
        return
    folder = cache_folder() / f"programs-{processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a home that cannot be written is no reason not to train
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in CACHE_SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def processor() -> str:
    """Returns a word for the kind of processor: programs for one may not run on another.

    A home folder may be shared by machines that differ.
    """
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kinds = ("model name", "flags", "Features", "CPU part")
    facts = sorted({line for line in lines if line.startswith(kinds)})
    facts += [platform.machine(), platform.processor()]
    return f"{zlib.crc32(' '.join(facts).encode()):08x}"
