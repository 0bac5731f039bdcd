"""What a run takes, known before it.

FLOPs against closed forms and XLA's own count, traffic in compiled text, encoders by their shapes,
and the program itself.
"""

import json
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from conftest import ROOT
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models import encoders, standin
from planning import explain, gpus, hlo, step_shapes, targets, traffic
from utils import config as config_lib
from utils.chips import CHIPS, memory_of, network_of
from utils.errors import UserError
from utils.flops import matmul_flops

# ---------------------------------------------------------------- FLOPs


def flops_of(function, *args):
    return matmul_flops(jax.make_jaxpr(function)(*args))


def test_flops_of_products():
    a, b = jnp.ones((3, 8, 16)), jnp.ones((3, 16, 5))

    def product(a, b):
        return jnp.einsum("bij,bjk->bik", a, b)

    def total(a, b):
        return product(a, b).sum()

    one = 2 * 3 * 8 * 16 * 5
    assert flops_of(product, a, b) == one
    assert flops_of(jax.grad(total, (0, 1)), a, b) == 2 * one


def test_flops_of_loops_and_of_what_is_computed_again():
    w, x = jnp.ones((16, 16)), jnp.ones((4, 16))
    one = 2 * 4 * 16 * 16

    @jax.jit
    def layers(x):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=7)[0]

    @jax.checkpoint
    def two_layers(x):
        return jnp.sin(x @ w) @ w

    def total(x):
        return two_layers(x).sum()

    assert flops_of(layers, x) == 7 * one
    # Two forward, one of them again, and two back.
    assert flops_of(jax.value_and_grad(total), x) == 5 * one


@pytest.mark.parametrize("stride", [1, 2])
def test_flops_of_convolutions_as_xla_counts_them(stride):
    """Forward and both gradients; XLA leaves out what falls on the padding: the border is thin."""
    x, w = jnp.ones((2, 65, 65, 8)), jnp.ones((3, 3, 8, 16))
    layout = ("NHWC", "HWIO", "NHWC")

    def conv(x, w):
        strides = (stride, stride)
        return jax.lax.conv_general_dilated(x, w, strides, "VALID", dimension_numbers=layout).sum()

    for f in (conv, jax.grad(conv, 0), jax.grad(conv, 1)):
        expected = jax.jit(f).lower(x, w).cost_analysis()["flops"]
        assert flops_of(f, x, w) == pytest.approx(expected, rel=0.1)


# ---------------------------------------------------------------- traffic


def test_traffic_counts_the_turns_of_loops():
    mesh = Mesh(np.array(jax.devices()), ("d",))
    n = len(jax.devices())
    everywhere, spread = NamedSharding(mesh, P()), NamedSharding(mesh, P("d"))

    def f(x):
        def turn(total, k):
            y = jax.lax.with_sharding_constraint(x * (total.sum() + k), spread)
            return jax.lax.with_sharding_constraint(y, everywhere), None

        return jax.lax.scan(turn, x, jnp.arange(5.0))[0]

    program = jax.jit(f, in_shardings=everywhere, out_shardings=everywhere)
    text = program.lower(jnp.ones((n * 32,))).compile().as_text()
    assert traffic.collective_traffic(text)["all-gather"] == (5, 5 * n * 32 * 4)
    assert max(hlo.parse(text).runs.values()) == 5
    assert traffic.sent_bytes({"all-gather": (5, 10.0), "all-reduce": (1, 4.0)}) == 18


SCAN = """HloModule step, is_scheduled=true

%fused (p.0: f32[7,64,64], p.1: s32[], p.2: f32[4,64]) -> f32[4,64] {
  %p.0 = f32[7,64,64]{2,1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %p.2 = f32[4,64]{1,0} parameter(2)
  %slice = f32[1,64,64]{2,1,0} dynamic-slice(%p.0, %p.1), dynamic_slice_sizes={1,64,64}
  %w = f32[64,64]{1,0} bitcast(%slice)
  ROOT %dot = f32[4,64]{1,0} dot(%p.2, %w)
}

%kept (q.0: f32[7,4,64], q.1: s32[], q.2: f32[4,64]) -> f32[7,4,64] {
  %q.0 = f32[7,4,64]{2,1,0} parameter(0)
  %q.1 = s32[] parameter(1)
  %q.2 = f32[4,64]{1,0} parameter(2)
  %row = f32[1,4,64]{2,1,0} bitcast(%q.2)
  ROOT %put = f32[7,4,64]{2,1,0} dynamic-update-slice(%q.0, %row, %q.1)
}

%body (t: CARRY) -> CARRY {
  %t = (s32[], f32[4,64]{1,0}, f32[7,64,64]{2,1,0}, f32[7,4,64]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[4,64]{1,0} get-tuple-element(%t), index=1
  %ws = f32[7,64,64]{2,1,0} get-tuple-element(%t), index=2
  %ys = f32[7,4,64]{2,1,0} get-tuple-element(%t), index=3
  %y = f32[4,64]{1,0:T(8,128)S(1)} fusion(%ws, %i, %x), kind=kOutput, calls=%fused
  %zs = f32[7,4,64]{2,1,0} fusion(%ys, %i, %y), kind=kLoop, calls=%kept
  ROOT %out = RESULT tuple(%i, %y, %ws, %zs)
}

%condition (u: CARRY) -> pred[] {
  %u = (s32[], f32[4,64]{1,0}, f32[7,64,64]{2,1,0}, f32[7,4,64]{2,1,0}) parameter(0)
  %j = s32[] get-tuple-element(%u), index=0
  %seven = s32[]{:T(128)} constant(7)
  ROOT %less = pred[] compare(%j, %seven), direction=LT
}

ENTRY %main (a: CARRY) -> f32[4,64] {
  %a = (s32[], f32[4,64]{1,0}, f32[7,64,64]{2,1,0}, f32[7,4,64]{2,1,0}) parameter(0)
  %loop = RESULT while(%a), condition=%condition, body=%body
  ROOT %x.1 = f32[4,64]{1,0} get-tuple-element(%loop), index=1
}
"""
SCAN = SCAN.replace("CARRY", "(s32[], f32[4,64], f32[7,64,64], f32[7,4,64])").replace(
    "RESULT",
    "(s32[], f32[4,64]{1,0}, f32[7,64,64]{2,1,0}, /*index=3*/f32[7,4,64]{2,1,0})",
)


def test_traffic_to_memory_of_a_scan():
    """As a TPU program says it: the condition tells of seven turns.

    Each turn takes the slice of a layer's weights and puts the slice of its result; what stays in a
    memory on the core is not counted.
    """
    module = hlo.parse(SCAN)
    assert module.runs["body"] == 7
    assert module.inner == {"fused", "kept"}
    row, weights = 4 * 64 * 4, 64 * 64 * 4
    index = 2 * 4  # each fusion reads it
    assert traffic.memory_traffic(SCAN) == 7 * (weights + row + row + index)


def test_traffic_of_collectives_that_were_combined_or_yield_less_than_they_take():
    text = """HloModule step

ENTRY %main (a: f32[8], b: f32[16]) -> f32[1] {
  %a = f32[8]{0} parameter(0)
  %b = f32[16]{0} parameter(1)
  %both = (f32[32]{0}, f32[64]{0}) all-gather(%a, %b), dimensions={0}
  %start = ((f32[8]{0}, f32[16]{0}), (f32[32]{0}, f32[64]{0})) all-gather-start(%a, %b)
  %sum = (f32[8]{0}, f32[16]{0}) all-reduce-start(%a, %b), to_apply=%add
  ROOT %part = f32[1]{0} reduce-scatter(%a), dimensions={0}, to_apply=%add
}
"""
    assert traffic.collective_traffic(text) == {
        "all-gather": (2, 2 * 4 * 96),
        "all-reduce": (1, 4 * 24),
        "reduce-scatter": (1, 4 * 8),
    }


# ---------------------------------------------------------------- traffic, by part


EXPLAINED = """HloModule step

%inside (p: f32[256]) -> f32[256] {
  %p = f32[256]{0} parameter(0)
  ROOT %s = f32[256]{0} sine(%p), metadata={op_name="jit(step)/jvp(losses)/field/sin"}
}

ENTRY %main (a: f32[256]) -> f32[256] {
  %a = f32[256]{0} parameter(0)
  %f = f32[256]{0} fusion(%a), kind=kLoop, calls=%inside
  %copied = f32[256]{0} copy(%f)
  %m = f32[256]{0} negate(%copied), metadata={op_name="jit(step)/transpose(jvp(DiT))/mlp/neg"}
  ROOT %o = f32[256]{0} cosine(%m), metadata={op_name="jit(step)/cos"}
}
"""


def test_bytes_by_part_of_the_program():
    """A fusion is named by what is in it, a copy by what takes it, and nothing is lost."""
    one = 2 * 256 * 4  # each instruction reads and writes an array
    parts = explain.explain(EXPLAINED)
    assert parts == {
        "feed-forward": {"forward": 0, "backward": 2 * one},
        "field": {"forward": one, "backward": 0},
        explain.UNNAMED: {"forward": one, "backward": 0},
    }
    assert traffic.memory_traffic(EXPLAINED) == 4 * one


@pytest.mark.parametrize(
    "name, part",
    [
        ("jit(step)/jvp(generator)/DiT/while/body/blocks/attention/core/dot", "attention: core"),
        ("jit(step)/jvp(generator)/DiT/blocks/attention/qkv/add", "attention: projections"),
        ("jit(step)/jvp(generator)/DiT/while/body/blocks/attention/sub", "attention: q/k norm,"),
        ("jit(step)/jvp(generator)/DiT/while/body/squeeze", "generator: stacks"),
        ("jit(step)/transpose(jvp(encoder))/MAE.maps/attention/core/dot", "encoder"),
        ("jit(step)/optimizer/add", "optimizer"),
    ],
)
def test_parts_by_name(name, part):
    assert explain.part_of(name).startswith(part)


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize(
    "target, says",
    [
        ("gpu:h100", "gpu:h100:8"),
        ("gpu:h100:0", "gpu:h100:8"),
        ("gpu:gt710:1", "none of a100, b200, h100"),
        ("gpu:h100:12", "multiple of 8"),
        ("gpu:rtx4090:16", "at most 8"),
        ("tpu:v6e", "tpu:v6e:8x8"),
    ],
)
def test_targets_that_cannot_be(target, says):
    with pytest.raises(UserError, match=says):
        targets.devices_of(target)


def test_gpus_of_which_there_is_a_description():
    """Where the compiler is installed they are found; else one line says what to install."""
    try:
        devices = targets.devices_of("gpu:h100:64")
    except UserError as error:
        assert "pip install -r requirements-plan-gpu.txt" in str(error)
    else:
        assert [device.process_index for device in devices] == [i // 8 for i in range(64)]
        assert devices[0].device_kind == gpus.GPUS["h100"].kind


def test_every_gpu_has_its_rates():
    for gpu in gpus.GPUS.values():
        chip = CHIPS[gpu.kind]
        assert gpu.bandwidth == pytest.approx(chip.bandwidth, rel=0.05)
        assert chip.memory <= gpu.memory
        assert f'name: "{gpu.kind}"' in gpus.target_config(gpu)


def test_network_between_hosts():
    h100, v6e = CHIPS["NVIDIA H100 80GB HBM3"], CHIPS["TPU v6 lite"]
    assert network_of(h100, 8) == h100.network
    assert network_of(h100, 64) == 8 * h100.between_hosts < h100.network
    assert network_of(v6e, 64) == v6e.network


# ---------------------------------------------------------------- memory


def test_memory_of_devices():
    def device(kind, platform, **stats):
        return types.SimpleNamespace(
            device_kind=kind, platform=platform, memory_stats=lambda: stats or None
        )

    assert memory_of(device("TPU v6 lite", "tpu"), 4) == CHIPS["TPU v6 lite"].memory
    assert memory_of(device("a card of 24 GB", "gpu", bytes_limit=24e9), 4) == 24e9
    assert memory_of(device("another", "gpu"), 4) is None
    (cpu, *_) = jax.devices("cpu")
    assert 2**28 < memory_of(cpu, 2) == memory_of(cpu, 1) / 2


def test_every_chip_says_where_its_figures_are_from():
    assert all(chip.source for chip in CHIPS.values())


def test_memory_by_the_compilers_dump():
    dump = """BufferAssignment:
allocation 0: size 100, page 0, parameter 0, shape |f32[25]| at ShapeIndex {}, maybe-live-out:
 value: <1 a @0> (size=100,offset=0): f32[25]{0}
allocation 1: size 7, color 1, page 0, preallocated-temp:
allocation 2: size 30, page 0, preallocated-temp:
"""
    assert traffic.allocations(dump) == {"other": 100, "temporary": 30}


# ---------------------------------------------------------------- stand-ins


def test_encoders_by_their_shapes():
    """The published MAE's tensors by name and shape."""
    file = ROOT / "tests" / "golden" / "official_specs" / "mae_latent_640.json"
    tensors = json.loads(file.read_text())["tensors"]
    published = {name: tuple(s) for name, s in tensors.items() if name.startswith("encoder/")}
    encode, shapes, _ = standin.load_shapes("mae:hf://mae_latent_640")
    ours = {
        jax.tree_util.keystr(path, simple=True, separator="/"): a.shape
        for path, a in jax.tree_util.tree_leaves_with_path(shapes)
    }
    assert ours == published
    sets = jax.eval_shape(encode, shapes, jax.ShapeDtypeStruct((2, 32, 32, 4), jnp.float32))
    assert sets["layer1"].shape == (2, 1024, 640)
    with pytest.raises(UserError, match="size of this MAE"):
        standin.load_shapes("mae:hf://mae_of_my_own")


def test_only_the_used_parts_of_an_encoder_count():
    mae = {"encoder": 1, "decoder": 2, "fc": 3}
    both = {"mae": mae, "dinov2": {"a": {"b": 4}}, "decode": {"encoder": 5, "decoder": 6}}
    assert encoders.used_params(both) == both | {"mae": {"encoder": 1}}
    assert encoders.used_params(mae) == {"encoder": 1}


def test_random_weights_give_features_that_differ_between_images():
    encode, params, _ = standin.load_random("resnet18")
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    features = jax.jit(encode)(params, images)
    assert all(np.isfinite(f).all() for f in features.values())
    assert not np.allclose(*features["layer4_mean"])


@pytest.mark.parametrize(
    "given, samples, says",
    [
        ("32x32x4", 10, "expected latents"),
        ("0x32x4x10", 10, "expected latents"),
        ("32x32x4x0", 10, "expected latents"),
        ("latents", 10, "at least one"),
    ],
)
def test_senseless_stand_ins(given, samples, says):
    flags = ml_collections.ConfigDict({"stand_in": given, "samples": samples})
    with pytest.raises(UserError, match=says):
        step_shapes.stand_in(flags, config_lib.resolve({"recipe": "imagenet256_B"}))


@pytest.mark.parametrize(
    "given, found",
    [
        ({"recipe": "imagenet256_B"}, 32),
        ({"recipe": "imagenet512_B"}, 64),
        ({"recipe": "imagenet512_B", "data.image_size": 0}, 64),  # latents that are made already
        ({"recipe": "imagenet256_B", "data.image_size": 300}, "give --data.image_size 304"),
        ({"recipe": "imagenet64"}, "--encoder.name dinov2 takes images; give a recipe of latents"),
    ],
)
def test_latents_that_stand_in_are_of_the_recipe(given, found):
    flags = ml_collections.ConfigDict({"stand_in": "latents", "samples": 1000})
    config = config_lib.resolve(given)
    if isinstance(found, int):
        assert step_shapes.stand_in(flags, config).shape == (found, found, 4)
        return
    with pytest.raises(UserError, match=found):
        step_shapes.stand_in(flags, config)


# ---------------------------------------------------------------- the program


def run_plan(*flags):
    small = "--model.preset debug --model.use_bf16 0 --drift.n_neg 4 --batch_size 40"
    words = ["--dataset_name", "digits", "--mesh.devices", "1", *small.split(), *flags]
    program = [sys.executable, str(ROOT / "scripts" / "plan.py")]
    return subprocess.run([*program, *words], capture_output=True, text=True)


def test_plan_for_the_devices_at_hand(tmp_path):
    """Sizes as they are, and exit code 0 for what fits. A dry run is what a plan is anyway."""
    done = run_plan("--dry_run", "--json", str(tmp_path / "plan.json"), "--explain")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| target | chips | fits |")
    (row,) = json.loads((tmp_path / "plan.json").read_text())
    assert row["fits"]
    assert row["optimizer_gib"] == pytest.approx(2 * row["parameters_gib"], rel=1e-3)
    assert 0 < row["tflop"] < 1
    assert row["collective_gib"] == 0

    parts = {name: sum(part.values()) for name, part in row["parts_gib"].items()}
    assert sum(parts.values()) == pytest.approx(row["memory_traffic_gib"], rel=0.05)
    assert parts.get(explain.UNNAMED, 0) < 0.2 * sum(parts.values())
    assert {"attention: core", "feed-forward", "losses", "field", "averages"} <= parts.keys()
    assert "| together |" in done.stdout


def test_mistakes_of_a_plan_end_with_2(tmp_path):
    done = run_plan("--json", str(tmp_path / "no" / "plan.json"))
    assert done.returncode == 2
    assert "there is no folder" in done.stderr and not done.stdout

    done = run_plan("--target", "gpu:many")
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr, done.stderr
