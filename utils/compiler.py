"""Settings of XLA's compiler."""

import functools
import os

import jax

CPU_OPTIONS = {  # half the time of compilation with the defaults, and faster steps (docs/benchmarks.md, two settings of the step)
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": 2,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",  # matrix products by Eigen
}


@functools.cache
def _known(name: str, value) -> bool:
    """Whether this version of XLA takes the setting."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def options(mesh) -> dict:
    """`compiler_options` for programs that run on the devices of `mesh`; what XLA_FLAGS names stays as it says."""
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    return {
        name: value
        for name, value in CPU_OPTIONS.items()
        if name not in os.environ.get("XLA_FLAGS", "") and _known(name, value)
    }
