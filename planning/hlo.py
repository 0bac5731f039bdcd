"""What the text of a compiled program (XLA's HLO) says of a step on one device: its traffic.

Loops count as often as they turn, which the compiler's own count leaves out.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

SIZES = {
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
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
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
SLICES = ("dynamic-slice", "slice", "gather")
CALLS = r"(?:body|calls|to_apply|branch_computations|true_computation|false_computation)=\{?([%\w.\-, ]+)"
SHAPE = r"(\w+)\[([\d,]*)\](\{[^}]*\})?"  # type, sizes, layout
INSTRUCTION = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*?)\)(.*)$")


@dataclasses.dataclass
class Instruction:
    """One line: `name = shape kind(operands)rest`."""

    root: bool
    name: str
    shape: str
    kind: str
    operands: tuple[str, ...]
    rest: str

    @functools.cached_property
    def bytes(self) -> int:
        """Of the result in main memory; what has a memory space, S(n), is in a memory on the core."""
        return sum(
            _bytes(*shape) for *shape, layout in re.findall(SHAPE, self.shape) if "S(" not in layout
        )

    @functools.cached_property
    def whole(self) -> int:
        """Of the result wherever it is, as inside a fusion."""
        return sum(_bytes(*shape) for *shape, _ in re.findall(SHAPE, self.shape))

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        return tuple(re.findall(r"[\w.\-]+", ",".join(re.findall(CALLS, self.rest))))


@dataclasses.dataclass(frozen=True)
class Module:
    """computations: {name: instructions}. runs: {name: how often a step runs it}. inner: those that are part
    of an instruction, such as a fusion."""

    computations: dict[str, list[Instruction]]
    runs: dict[str, float]
    inner: set[str]

    def outer(self) -> Iterator[tuple[float, list[Instruction]]]:
        """(how often it runs, instructions) of every computation that is no part of an instruction."""
        return (
            (n, self.computations[name]) for name, n in self.runs.items() if name not in self.inner
        )


@functools.lru_cache(maxsize=2)
def parse(hlo: str) -> Module:
    """The module of its text."""
    computations, entry, name = {}, "", ""
    for line in hlo.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if head and not line.startswith(" "):
            name = head[2]
            computations[name] = []
            entry = name if head[1] else entry
        elif name and (match := INSTRUCTION.match(re.sub(r"/\*.*?\*/", "", line))):
            root, *words, given, rest = match.groups()
            operands = tuple(re.findall(r"%([\w.\-]+)", given)) or (given,)
            computations[name].append(Instruction(bool(root), *words, operands, rest))
    runs, inner = collections.defaultdict(float), set()

    def visit(name, times, within):
        runs[name] += times
        if within:
            inner.add(name)
        for one in computations[name]:
            loop = _turns(one, computations) if one.kind == "while" else 1
            for callee in one.called:
                if callee in computations:
                    visit(
                        callee,
                        times * loop,
                        within or one.kind not in ("while", "conditional", "call"),
                    )

    if entry:
        visit(entry, 1.0, False)
    return Module(computations, dict(runs), inner)


def _turns(loop: Instruction, computations) -> int:
    """Of a loop: as the compiler noted it, or as its condition compares, a scan's index with their number."""
    noted = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    if noted:
        return int(noted[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    compared = computations.get(condition and condition[1], ())
    numbers = [one.operands[0] for one in compared if one.kind == "constant"]
    bounds = [int(n) for n in numbers if n.isdecimal()]
    return max(bounds, default=1)


def _bytes(kind: str, dims: str) -> int:
    return SIZES.get(kind, 0) * math.prod(int(n) for n in dims.split(",") if n)


# ---------------------------------------------------------------- between devices


def collective_traffic(hlo: str) -> dict[str, tuple[float, float]]:
    """{operation: (how many, bytes)} of a step; bytes: what it yields on a device, or takes, if more."""
    module, found = parse(hlo), collections.defaultdict(lambda: (0.0, 0.0))
    for name, times in module.runs.items():
        scope = {one.name: one for one in module.computations[name]}
        for one in scope.values():
            kind = one.kind.removesuffix("-start")
            if kind in COLLECTIVES:
                taken = sum(scope[x].whole for x in one.operands if x in scope)
                both = (
                    one.kind != kind and kind != "all-reduce"
                )  # such a start yields what it takes as well
                size = max(taken, one.whole - taken * both)
                n, total = found[kind]
                found[kind] = (n + times, total + times * size)
    return dict(found)


def sent_bytes(traffic: dict[str, tuple[float, float]]) -> float:
    """Bytes that one of many devices sends at least: of what is gathered once, of what is reduced twice."""
    return sum(size * (2 if name == "all-reduce" else 1) for name, (_, size) in traffic.items())


# ---------------------------------------------------------------- to memory


def memory_traffic(hlo: str) -> float:
    """Bytes that a step reads from and writes to main memory: operands and results of every instruction, each
    once; of a slice, what is taken or put."""
    module, total = parse(hlo), 0.0
    for times, body in module.outer():
        scope = {one.name: one for one in body}
        total += times * sum(_traffic(one, scope, module) for one in body)
    return total


def _traffic(one: Instruction, scope, module: Module) -> float:
    kind = one.kind
    if kind in NO_WORK or kind.startswith("async-") or kind.endswith("-done"):
        return 0
    if kind.endswith("-start"):  # yields its operands too
        return one.bytes
    size = lambda name: scope[name].bytes if name in scope else 0
    if kind in SLICES:
        return 2 * one.bytes
    if kind == "dynamic-update-slice":
        return 2 * size(one.operands[1])
    if kind == "scatter":
        return 3 * size(one.operands[-1])
    if kind != "fusion":
        return one.bytes + sum(map(size, set(one.operands)))
    body = module.computations[one.called[0]]
    names = {name: i for i, name in enumerate(one.operands) if size(name)}
    read = (min(size(name), _taken(body, i, module)) for name, i in names.items())
    return sum(read) + min(one.bytes, _put(body, one.bytes))


def _taken(body: list[Instruction], index: int, module: Module) -> float:
    """Bytes that a fusion reads of its operand: slices of it, if it takes nothing else."""
    names, total = (
        {one.name for one in body if one.kind == "parameter" and one.operands == (str(index),)},
        0,
    )
    for one in body:
        at = [i for i, name in enumerate(one.operands) if name in names]
        if not at:
            continue
        if one.kind in ("bitcast", "reshape"):
            names.add(one.name)
        elif one.kind in SLICES:
            total += one.whole
        elif one.kind == "fusion":
            total += sum(_taken(module.computations[one.called[0]], i, module) for i in at)
        elif one.kind not in ("dynamic-update-slice", "scatter") or at != [
            0
        ]:  # these leave the rest
            return math.inf
    return total


def _put(body: list[Instruction], whole: int) -> float:
    """Bytes that a fusion writes of its result: slices, where it puts slices in what is there."""
    scope, put = {one.name: one for one in body}, 0.0
    for one in body:
        if one.kind in ("dynamic-update-slice", "scatter"):
            update = scope.get(one.operands[1 if one.kind == "dynamic-update-slice" else -1])
            put += update.whole - one.whole if update else 0
    return max(whole + put, 0)


def estimated_cycles(hlo: str) -> float:
    """The TPU compiler's estimate of the cycles of a step, 0 where it gives none."""
    module, found = parse(hlo), r'"estimated_cycles":"(\d+)"'
    cycles = {
        name: sum(
            map(float, re.findall(found, "".join(one.rest for one in module.computations[name])))
        )
        for name in module.runs
    }
    return sum(times * cycles[name] for name, times in module.runs.items())


# ---------------------------------------------------------------- in memory


def allocations(text: str) -> dict[str, int]:
    """{"temporary" or "other": bytes} of main memory, by the compiler's dump of a buffer assignment; what has
    a color is in a memory on the core."""
    found = collections.defaultdict(int)
    for size, rest in re.findall(r"^allocation \d+: size (\d+), (.*)$", text, re.MULTILINE):
        if "color" not in rest:
            found["temporary" if "preallocated-temp" in rest else "other"] += int(size)
    return dict(found)
