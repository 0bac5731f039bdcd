"""Where the bytes of a step go: what it moves in main memory, by the part of the program.

The compiler keeps for its instructions the name of the operation that they come from, which begins
with the scopes that the program opened (drifting/step.py) and the modules of the networks:

    jit(step)/transpose(jvp(generator))/DiT/while/body/.../blocks/attention/core/dot_general

`transpose` tells that it belongs to the backward pass.
"""

import collections
import re
from typing import Any

from planning.hlo import Instruction, Module, parse
from planning.traffic import instruction_traffic

# The parts, and what the name of an operation in them has; the first that fits is taken.
PARTS = {
    "field": r"/field\b",
    "losses": r"\blosses\b",
    "packing of feature sets": r"\bpacking\b",
    "encoder": r"\bencoder\b",
    "optimizer": r"\boptimizer\b",
    "averages": r"\baverages\b",
    "norms for the log": r"\bnorms\b",
    "bank": r"\bbank\b",
    "noise": r"\bnoise\b",
    "memory of the field": r"\bmemory\b",
    "attention: core": r"\battention/core\b",
    "attention: projections": r"\battention/(qkv|out)\b",
    "attention: q/k norm, rotation": r"\battention\b",
    "feed-forward": r"\bmlp\b",
    "generator: stacks of its loop": r"/while(/body(/jit\(\w+\))?/[\w-]+)?$",
    "generator: the rest": r"\bgenerator\b|\bDiT\b",
}
UNNAMED = "without a name"
# How far the name of an instruction is looked for at those that take its result.
NEARBY = 4


def explain(text: str) -> dict[str, dict[str, float]]:
    """Returns {part: {"forward" and "backward": bytes}}, the largest part first.

    Together they are the bytes of `planning.traffic.memory_traffic`.
    """
    module = parse(text)
    users = _users(module)
    parts: dict[str, dict[str, float]] = collections.defaultdict(
        lambda: {"forward": 0.0, "backward": 0.0}
    )
    for size, instruction in instruction_traffic(text):
        name = _name(instruction, module, users)
        way = "backward" if "transpose(" in name else "forward"
        parts[part_of(name)][way] += size
    return dict(sorted(parts.items(), key=_size, reverse=True))


def part_of(name: str) -> str:
    """Returns the part of the program that an operation belongs to, by its name."""
    for part, pattern in PARTS.items():
        if re.search(pattern, name):
            return part
    return UNNAMED


def explanation(parts: dict[str, dict[str, float]]) -> str:
    """Returns the parts as a table in Markdown, and their sum.

    parts: of `explain`, in GiB.
    """
    sums = {way: sum(part[way] for part in parts.values()) for way in ("forward", "backward")}
    whole = sum(sums.values())
    lines = ["| part | GiB moved | share | forward | backward |", "| --- | --- | --- | --- | --- |"]
    for name, part in [*parts.items(), ("together", sums)]:
        size = sum(part.values())
        share = size / whole if whole else 0.0
        ways = f"{part['forward']:.4g} | {part['backward']:.4g}"
        lines.append(f"| {name} | {size:.4g} | {share:.1%} | {ways} |")
    return "\n".join(lines)


def _size(item: tuple[str, dict[str, float]]) -> float:
    return sum(item[1].values())


# ---------------------------------------------------------------- names of instructions


def _users(module: Module) -> dict[str, Instruction]:
    """Returns the first instruction that takes each result.

    Names of instructions are those of one computation, but the compiler makes them unique.
    """
    found: dict[str, Instruction] = {}
    for _, body in module.outer():
        for instruction in body:
            for operand in instruction.operands:
                found.setdefault(operand, instruction)
    return found


def _name(instruction: Instruction, module: Module, users: dict[str, Instruction]) -> str:
    """Returns the name of the operation that an instruction comes from, or "".

    A fusion without one has that of most of what is in it. A copy has that of what takes it.
    """
    here: Any = instruction
    for _ in range(NEARBY):
        if here is None:
            break
        inside = [one for called in here.called for one in module.computations.get(called, [])]
        names = [_own_name(here)]
        names += [name for name, _ in collections.Counter(map(_own_name, inside)).most_common()]
        known = [name for name in names if part_of(name) != UNNAMED]
        if known:
            return known[0]
        here = users.get(here.name)
    return ""


def _own_name(instruction: Instruction) -> str:
    """Returns the name that the compiler has kept; of several that became one, the first."""
    found = re.search(r'op_name="([^"]*)"', instruction.rest)
    return found[1].partition(";")[0] if found else ""
