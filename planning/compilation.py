"""Compiles a step for a plan, for devices that may be absent, and says what memory it takes."""

import dataclasses
import pathlib
import re
import tempfile
import threading
import time
from typing import Any

import jax

from planning.traffic import allocations


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled step.

    Attributes:
        text: of the program, for `planning/hlo.py`.
        executable: the program itself, or None where the compiler was stopped before its end.
        needed: bytes that it needs on a device in all.
        temporary: bytes of them for temporaries.
    """

    text: str
    executable: Any
    needed: int
    temporary: int


def compile_here(lowered: Any) -> Compiled:
    """Compiles for the devices of this machine; lowered: of `jax.jit(f).trace(...).lower()`."""
    executable = lowered.compile()
    memory = executable.memory_analysis()
    needed = memory.argument_size_in_bytes + memory.output_size_in_bytes
    needed -= memory.alias_size_in_bytes  # results that take the place of arguments
    needed += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    return Compiled(executable.as_text(), executable, needed, memory.temp_size_in_bytes)


# The compiler's dump of the program, and the one that it writes after all that plans read.
PROGRAM = "after_optimizations"
LAST_DUMPS = {
    "tpu": "after_optimizations_after_buffer_assignment",
    "cuda": "thunk_sequence",
}


# Without a GPU to try them on, XLA may choose a kernel of Triton for a matrix product that has no
# tiles for it. Then it is told to leave all products to the libraries of CUDA.
NO_TILES = "Couldn't find output tile sizes"
WITHOUT_TRITON = {"xla_gpu_enable_triton_gemm": False}


def compile_for_absent(lowered: Any, platform: str, to_the_end: bool) -> Compiled:
    """Compiles for TPUs or GPUs of which there is a description.

    The compiler dumps what it has placed in memory before it generates code, which takes most of
    its time. Unless `to_the_end`, the rest goes on in a thread that ends with this process.

    platform: "tpu" or "cuda".
    """
    try:
        return _compile(lowered, platform, to_the_end, {})
    except jax.errors.JaxRuntimeError as error:
        if NO_TILES not in str(error):
            raise
    return _compile(lowered, platform, to_the_end, WITHOUT_TRITON)


def _compile(lowered: Any, platform: str, to_the_end: bool, options: dict[str, Any]) -> Compiled:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        dumps = pathlib.Path(folder)
        outcome = []  # the program, or the error of the compiler

        def compile_and_dump():
            try:
                outcome.append(lowered.compile(compiler_options=options | {"xla_dump_to": folder}))
            except Exception as error:
                outcome.append(error)

        threading.Thread(target=compile_and_dump, daemon=True).start()
        while not outcome and (to_the_end or not _dump(dumps, LAST_DUMPS[platform])):
            time.sleep(0.1)
        if outcome and isinstance(outcome[0], Exception):
            raise outcome[0]

        sizes = allocations(_read(dumps, f"{PROGRAM}-buffer-assignment"))
        if to_the_end:
            executable, text = outcome[0], outcome[0].as_text()
        else:
            executable, text = None, _read(dumps, PROGRAM)
    return Compiled(text, executable, sum(sizes.values()), sizes.get("temporary", 0))


def _dump(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns the file of one of the compiler's dumps, or None before it is written.

    On GPUs the name follows that of the architecture, as in "sm_90a_gpu_after_optimizations". A
    program of several modules, such as of kernels, has several; the largest is that of the step.
    """
    found = [*folder.glob(f"*.{name}.txt"), *folder.glob(f"*_gpu_{name}.txt")]
    return max(found, key=_size, default=None)


def _size(file: pathlib.Path) -> int:
    return file.stat().st_size


def _read(folder: pathlib.Path, name: str) -> str:
    file = _dump(folder, name)
    if file is None:
        raise FileNotFoundError(f"the compiler has not written its dump {name}")
    return file.read_text()


def needed_by_error(message: str) -> float:
    """Returns the GiB that a program would need on a chip, by the compiler's refusal.

    What the refusal calls temporaries is all that the program holds. 0 where it says nothing.
    """
    found = re.search(
        r"HLO temporaries \(([\d.]+)([KMG])\) exceeds available HBM|Used ([\d.]+)([KMG]) of",
        message,
    )
    if not found:
        return 0.0
    number, unit = found[1] or found[3], found[2] or found[4]
    return float(number) * {"K": 2**-20, "M": 2**-10, "G": 1}[unit]
