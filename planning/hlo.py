"""Reads the text of a compiled program, XLA's HLO, which says what each device does.

The text is a list of computations, one instruction a line:

    %body (t: (s32[], f32[4,64])) -> (s32[], f32[4,64]) {
      %t = (s32[], f32[4,64]{1,0}) parameter(0)
      %x = f32[4,64]{1,0} get-tuple-element(%t), index=1
      ...
    }

An instruction such as a loop or a fusion names the computations that it calls.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# ---------------------------------------------------------------- the text

BYTES_OF_TYPE = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
# Instructions that call computations as steps of the program. Those that others call, such as
# fusions, are part of the instruction.
CONTROL = ("while", "conditional", "call")

HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")  # of a computation
INSTRUCTION = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*?)\)(.*)$")
COMMENT = re.compile(r"/\*.*?\*/")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")  # type, sizes, layout
CALLS = re.compile(
    r"(?:body|calls|to_apply|branch_computations|true_computation|false_computation)"
    r"=\{?([%\w.\-, ]+)"
)


# ---------------------------------------------------------------- what it says


@dataclasses.dataclass
class Instruction:
    """One line: `name = shape kind(operands)rest`.

    Attributes:
        root: whether its result is that of the computation.
        name: without the percent sign.
        shape: of its result, as text; a tuple holds several.
        kind: of operation, such as "dot" or "fusion".
        operands: the names of the instructions whose results it takes; or its text, such as the
            number of a parameter.
        rest: the attributes behind the operands.
    """

    root: bool
    name: str
    shape: str
    kind: str
    operands: tuple[str, ...]
    rest: str

    @functools.cached_property
    def bytes(self) -> int:
        """Bytes of the result in main memory.

        A layout with a memory space, S(n), says that an array is in a memory on the core.
        """
        arrays = ARRAY.findall(self.shape)
        return sum(_bytes(kind, sizes) for kind, sizes, layout in arrays if "S(" not in layout)

    @functools.cached_property
    def whole(self) -> int:
        """Bytes of the result wherever it is, as inside a fusion."""
        return sum(_bytes(kind, sizes) for kind, sizes, _ in ARRAY.findall(self.shape))

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """The names of the computations that it calls."""
        names = ",".join(CALLS.findall(self.rest))
        return tuple(re.findall(r"[\w.\-]+", names))


def _bytes(kind: str, sizes: str) -> int:
    """Returns the bytes of an array by its type and sizes, such as "f32" and "4,64"."""
    elements = math.prod(int(size) for size in sizes.split(",") if size)
    return BYTES_OF_TYPE.get(kind, 0) * elements


@dataclasses.dataclass(frozen=True)
class Module:
    """A whole program.

    Attributes:
        computations: their instructions by name.
        runs: how often a step runs each of them.
        inner: the names of those that are part of an instruction, such as the body of a fusion.
    """

    computations: dict[str, list[Instruction]]
    runs: dict[str, float]
    inner: set[str]

    def outer(self) -> Iterator[tuple[float, list[Instruction]]]:
        """Yields (how often it runs, instructions) of computations that are no part of another."""
        for name, times in self.runs.items():
            if name not in self.inner:
                yield times, self.computations[name]


@functools.lru_cache(maxsize=2)
def parse(text: str) -> Module:
    """Returns the program of its text. Loops count as often as they turn."""
    computations, entry = _read(text)
    runs: dict[str, float] = collections.defaultdict(float)
    inner: set[str] = set()

    def visit(name: str, times: float, within: bool) -> None:
        runs[name] += times
        if within:
            inner.add(name)
        for instruction in computations[name]:
            turns = _turns(instruction, computations) if instruction.kind == "while" else 1
            part = within or instruction.kind not in CONTROL
            for called in instruction.called:
                if called in computations:
                    visit(called, times * turns, part)

    if entry:
        visit(entry, 1.0, False)
    return Module(computations, dict(runs), inner)


def _read(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns the instructions of each computation, and the name of the one that is run first."""
    computations: dict[str, list[Instruction]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        head = HEAD.match(line)
        if head and not line.startswith(" "):
            name = head[2]
            computations[name] = []
            if head[1]:
                entry = name
        elif name:
            instruction = _instruction(line)
            if instruction:
                computations[name].append(instruction)
    return computations, entry


def _instruction(line: str) -> Instruction | None:
    """Returns the instruction of a line, or None where it has none."""
    match = INSTRUCTION.match(COMMENT.sub("", line))
    if not match:
        return None
    root, name, shape, kind, given, rest = match.groups()
    operands = tuple(re.findall(r"%([\w.\-]+)", given)) or (given,)
    return Instruction(bool(root), name, shape, kind, operands, rest)


def _turns(loop: Instruction, computations: dict[str, list[Instruction]]) -> int:
    """Returns how often a loop turns.

    That is what the compiler has noted; or the number with which its condition compares, which in a
    loop that `jax.lax.scan` made is that of its turns.
    """
    noted = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    if noted:
        return int(noted[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    body = computations.get(condition[1], []) if condition else []
    constants = [one.operands[0] for one in body if one.kind == "constant"]
    bounds = [int(constant) for constant in constants if constant.isdecimal()]
    return max(bounds, default=1)
