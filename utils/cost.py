"""What a compiled program costs: FLOPs of its matrix products, traffic between devices, and the rates of the devices that run it."""

import collections
import dataclasses
import math
import re
import time

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval


@dataclasses.dataclass(frozen=True)
class Chip:
    """Per chip: bf16 FLOP/s, bytes of memory and bytes/s to it, bytes/s to all its neighbours together (0: not known)."""

    flops: float
    memory: float
    bandwidth: float
    network: float


GIB = 2**30
CHIPS = {  # by jax's device_kind; memory of v6e: what its compiler calls available; the rest: the makers' data sheets (Google Cloud's pages of each TPU version; NVIDIA's of H100 SXM, H200, A100, dense)
    "TPU v4": Chip(275e12, 32 * GIB, 1228e9, 300e9),
    "TPU v5 lite": Chip(197e12, 16 * GIB, 819e9, 200e9),
    "TPU v5": Chip(459e12, 95 * GIB, 2765e9, 600e9),
    "TPU v6 lite": Chip(918e12, 31.24 * GIB, 1640e9, 448e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 80e9, 2039e9, 300e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 80e9, 3350e9, 450e9),
    "NVIDIA H200": Chip(989e12, 141e9, 4800e9, 450e9),
}


def matmul_rate(dtype) -> float:
    """FLOP/s of a square matrix product that fills the devices' units."""
    n = 8192 if jax.default_backend() != "cpu" else 1536
    a = jnp.ones((n, n), dtype)
    multiply = jax.jit(lambda a: a @ a)
    multiply(a).block_until_ready()
    begin = time.perf_counter()
    for _ in range(5):
        b = multiply(a)
    b.block_until_ready()
    return 5 * 2 * n**3 / (time.perf_counter() - begin)


# ---------------------------------------------------------------- FLOPs, from the traced program

def matmul_flops(jaxpr) -> float:
    """FLOPs (2 per multiply-add) of the matrix products and convolutions of a jaxpr, over all devices.

    A scan counts as often as it turns, which XLA's own count does not do, and recomputation counts as it is traced. Element-wise work is left out: it is bound by memory.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))  # what nobody uses the compiler leaves out
    return _flops(jaxpr)


def _flops(jaxpr) -> float:
    return sum(_flops_of(eqn) for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _flops_of(eqn) -> float:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lhs = eqn.invars[0].aval.shape
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel, spec = eqn.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
        useful = math.prod(params["lhs_dilation"])  # the zeros between inputs, in the gradient of a strided convolution, are no work
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / kernel[spec[0]] / useful
    if name == "cond":
        return max(_flops(branch) for branch in params["branches"])
    inner = sum(_flops(value) for value in params.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr"))
    return inner * params["length"] if name == "scan" else inner


# ---------------------------------------------------------------- traffic, from the compiled program

SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")


def turns(hlo: str) -> dict[str, float]:
    """How often each computation of a compiled module's text runs: once, or as often as the loops around it turn."""
    computations, entry, name = {}, None, None
    for line in hlo.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if head and not line.startswith(" "):
            name = head[2]
            computations[name] = []
            entry = name if head[1] else entry
        elif name:
            computations[name].append(line)
    count = collections.defaultdict(float)

    def visit(name, times):
        count[name] += times
        for line in computations.get(name, ()):
            for kind, called in re.findall(r"(body|calls|to_apply|branch_computations|true_computation|false_computation)=\{?([%\w.\-, ]+)", line):
                loop = re.search(r'"known_trip_count":\{"n":"(\d+)"', line) if kind == "body" else None
                for callee in called.replace("%", "").split(","):
                    if callee.strip() in computations:
                        visit(callee.strip(), times * (int(loop[1]) if loop else 1))

    if entry:
        visit(entry, 1.0)
    return dict(count) | {"": 0.0, "_lines": computations}


def collectives(hlo: str) -> dict[str, tuple[float, float]]:
    """{operation: (how many, bytes)} per device and step of a compiled module's text; loops count as often as they turn.

    bytes: of what the operation yields on a device, or takes where that is more, which is its traffic up to a factor of 2 (an all-reduce sends and receives it).
    """
    runs = turns(hlo)
    lines = runs.pop("_lines")
    found = collections.defaultdict(lambda: (0.0, 0.0))
    for name, body in lines.items():
        times = runs.get(name, 0.0)
        for line in body if times else ():
            line = re.sub(r"/\*.*?\*/", "", line)
            match = re.search(rf" = (.*?) ({'|'.join(COLLECTIVES)})(-start)?\((.*)", line)
            if match:
                results = [_bytes(*shape) for shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1])]
                size = max(results) if match[3] and match[2] != "all-reduce" else sum(results)  # a started one yields its operands too
                n, total = found[match[2]]
                found[match[2]] = (n + times, total + times * size)
    return dict(found)


def _bytes(kind: str, dims: str) -> int:
    return SIZES.get(kind, 0) * math.prod(int(n) for n in dims.split(",") if n)


def estimated_cycles(hlo: str) -> float:
    """The TPU compiler's estimate of the cycles of a step, 0 where it gives none; loops count as often as they turn."""
    runs = turns(hlo)
    lines = runs.pop("_lines")
    return sum(runs.get(name, 0.0) * sum(float(n) for line in body for n in re.findall(r'"estimated_cycles":"(\d+)"', line)) for name, body in lines.items())


def tree_bytes(tree) -> int:
    """Bytes of arrays or shapes on one device, by their shardings."""
    return sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree))
