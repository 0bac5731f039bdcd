"""What a compiled step moves, by its text: between devices, and to main memory.

Loops count as often as they turn, which the compiler's own count leaves out.
"""

import collections
import math
import re
from collections.abc import Iterator

from planning.hlo import Instruction, Module, parse

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
# Instructions that read and write nothing themselves.
NO_WORK = (
    "parameter",
    "constant",
    "iota",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
)
TAKE_SLICES = ("dynamic-slice", "slice", "gather")
PUT_SLICES = ("dynamic-update-slice", "scatter")

# ---------------------------------------------------------------- between devices


def collective_traffic(text: str) -> dict[str, tuple[float, float]]:
    """Returns {operation: (how many, bytes)} of a step on one device.

    The bytes are those that the operation yields on a device, or that it takes if these are more.
    """
    module = parse(text)
    found: dict[str, tuple[float, float]] = {}
    for name, times in module.runs.items():
        scope = {instruction.name: instruction for instruction in module.computations[name]}
        for instruction in scope.values():
            kind = instruction.kind.removesuffix("-start")
            if kind in COLLECTIVES:
                count, total = found.get(kind, (0.0, 0.0))
                size = _collective_bytes(instruction, scope)
                found[kind] = (count + times, total + times * size)
    return found


def _collective_bytes(instruction: Instruction, scope: dict[str, Instruction]) -> int:
    taken = sum(scope[name].whole for name in instruction.operands if name in scope)
    yielded = instruction.whole
    # The start of an operation that goes on beside others yields what it takes as well, but for an
    # all-reduce.
    if instruction.kind.endswith("-start") and instruction.kind != "all-reduce-start":
        yielded -= taken
    return max(taken, yielded)


def sent_bytes(traffic: dict[str, tuple[float, float]]) -> float:
    """Returns the bytes that one of many devices sends at least.

    What is gathered is sent once. What is reduced is sent twice: to be added up, and as the sum.

    traffic: of `collective_traffic`.
    """
    total = 0.0
    for name, (_, size) in traffic.items():
        times = 2 if name == "all-reduce" else 1
        total += times * size
    return total


# ---------------------------------------------------------------- to main memory


def memory_traffic(text: str) -> float:
    """Returns the bytes that a step reads from main memory and writes to it.

    Each instruction reads its operands and writes its result once. Of an array of which it takes or
    puts slices only these count.
    """
    return sum(size for size, _ in instruction_traffic(text))


def instruction_traffic(text: str) -> Iterator[tuple[float, Instruction]]:
    """Yields (bytes of a step, instruction) for the instructions of `memory_traffic`."""
    module = parse(text)
    for times, body in module.outer():
        scope = {instruction.name: instruction for instruction in body}
        for instruction in body:
            yield times * _traffic(instruction, scope, module), instruction


def _traffic(instruction: Instruction, scope: dict[str, Instruction], module: Module) -> float:
    """Returns the bytes that one instruction reads and writes."""

    def size(name: str) -> int:
        return scope[name].bytes if name in scope else 0

    kind, operands = instruction.kind, instruction.operands
    if kind in NO_WORK or kind.startswith("async-") or kind.endswith("-done"):
        return 0
    if kind.endswith("-start"):  # its result holds its operands too
        return instruction.bytes
    if kind in TAKE_SLICES:
        return 2 * instruction.bytes
    if kind == "dynamic-update-slice":
        return 2 * size(operands[1])
    if kind == "scatter":
        return 3 * size(operands[-1])
    if kind == "fusion":
        return _fusion_traffic(instruction, size, module)
    return instruction.bytes + sum(size(name) for name in set(operands))


def _fusion_traffic(fusion: Instruction, size, module: Module) -> float:
    """Returns the bytes that a fusion reads and writes; size: bytes of an operand by its name."""
    body = module.computations[fusion.called[0]]
    # An operand that is given twice is read once.
    index_of = {name: i for i, name in enumerate(fusion.operands) if size(name)}
    read = sum(min(size(name), _read_of(body, i, module)) for name, i in index_of.items())
    written = min(fusion.bytes, _written(body, fusion.bytes))
    return read + written


def _read_of(body: list[Instruction], index: int, module: Module) -> float:
    """Returns the bytes that a fusion reads of one operand; infinity where it reads all of it.

    Args:
        body: the instructions of the fusion.
        index: of the operand.
        module: the program, for fusions within the fusion.
    """
    # The names of the operand inside; a bitcast or a reshape gives it another.
    names = set()
    for instruction in body:
        if instruction.kind == "parameter" and instruction.operands == (str(index),):
            names.add(instruction.name)

    total = 0.0
    for instruction in body:
        positions = [i for i, name in enumerate(instruction.operands) if name in names]
        if not positions:
            continue
        if instruction.kind in ("bitcast", "reshape"):
            names.add(instruction.name)
        elif instruction.kind in TAKE_SLICES:
            total += instruction.whole
        elif instruction.kind == "fusion":
            inner = module.computations[instruction.called[0]]
            total += sum(_read_of(inner, i, module) for i in positions)
        elif instruction.kind not in PUT_SLICES or positions != [0]:
            return math.inf
        # Slices that are put into it leave the rest as it is: nothing is read.
    return total


def _written(body: list[Instruction], whole: int) -> float:
    """Returns the bytes that a fusion writes of its result, which has `whole` bytes.

    Where it puts slices into an array that is there already, only the slices are written.
    """
    scope = {instruction.name: instruction for instruction in body}
    written = float(whole)
    for instruction in body:
        if instruction.kind in PUT_SLICES:
            position = 1 if instruction.kind == "dynamic-update-slice" else -1
            update = scope.get(instruction.operands[position])
            if update:
                written += update.whole - instruction.whole
    return max(written, 0)


# ---------------------------------------------------------------- in memory, and in time


def allocations(dump: str) -> dict[str, int]:
    """Returns {"temporary" or "other": bytes} of main memory, by the dump of a buffer assignment.

    What has a color there is in a memory on the core, and is left out.
    """
    found: dict[str, int] = collections.defaultdict(int)
    lines = re.findall(r"^allocation \d+: size (\d+), (.*)$", dump, re.MULTILINE)
    for size, rest in lines:
        if "color" not in rest:
            kind = "temporary" if "preallocated-temp" in rest else "other"
            found[kind] += int(size)
    return dict(found)


def estimated_cycles(text: str) -> float:
    """Returns the TPU compiler's estimate of the cycles of a step; 0 where it gives none."""
    module = parse(text)
    total = 0.0
    for name, times in module.runs.items():
        notes = "".join(instruction.rest for instruction in module.computations[name])
        cycles = re.findall(r'"estimated_cycles":"(\d+)"', notes)
        total += times * sum(map(float, cycles))
    return total
