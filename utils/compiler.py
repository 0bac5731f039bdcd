"""Settings of XLA's compiler."""

import functools
import os

import jax
from jax.sharding import Mesh

# With these a program for a CPU compiles in half the time, and its steps are faster
# (docs/benchmarks.md, two settings of the step).
CPU_OPTIONS = {
    "xla_cpu_use_fusion_emitters": False,
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
