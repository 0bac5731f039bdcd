"""Checkpoints: exact, never lost, never half-read. Damage, kills and full disks are real here."""

import functools
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import CHILD_XLA_FLAGS, ROOT

from utils.checkpoint import Checkpoints
from utils.errors import UserError
from utils.signals import StopSignal


def small(value: float = 1.0) -> dict:
    w = jnp.full((300,), value, jnp.float32)
    return {"params": {"w": w}, "ema_0.999": {"w": -w}}


def abstract(tree):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)),
        tree,
    )


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype and x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def python(code: str, *arguments, devices: int = 1, **options) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"{CHILD_XLA_FLAGS} --xla_force_host_platform_device_count={devices}",
    }
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        text=True,
        capture_output=True,
        **options,
    )


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    checkpoints = Checkpoints(folder)
    for step in (10, 20):
        checkpoints.save(step, small(step), {"step": step})
    checkpoints.close()
    return folder


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


# ---- round trip ----


def test_round_trip_is_exact_for_every_dtype_and_structure(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**32, (7, 5), np.uint32)
    params = {
        "float32": jnp.asarray(bits.view(np.float32)),
        "layers": [jnp.ones(3), jnp.zeros((2, 2))],  # NaNs inside
        "bfloat16": jnp.asarray((bits >> 16).astype(np.uint16).view(jnp.bfloat16)),
    }
    tree = {
        "params": params,
        "opt_state": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init(
            {"w": jnp.ones(3)}
        ),
        "bank": {
            "uint8": jnp.asarray(bits.astype(np.uint8)),
            "int32": jnp.asarray(bits.view(np.int32)),
            "uint32": bits,
            "bool": jnp.array([True, False]),
            "empty": jnp.zeros((0, 3)),
            "count": jnp.int32(7),
        },
        "key": jax.random.split(jax.random.key(5), 2),
        "nothing": {},
    }
    metadata = {"step": 3, "config": {"name": "ä", "values": [1, 2.5, None]}}
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(3, tree, metadata)
    restored, found, step = checkpoints.restore(abstract(tree))
    assert (found, step) == (metadata, 3)
    assert_same_bits(restored, tree)
    assert isinstance(restored["bank"]["uint32"], np.ndarray) and isinstance(
        restored["bank"]["int32"], jax.Array
    )
    assert checkpoints.items(3) == ["bank", "key", "opt_state", "params"]


def test_buffers_may_be_donated_or_overwritten_right_after_save(tmp_path):
    @functools.partial(jax.jit, donate_argnums=0)
    def advance(tree):
        return jax.tree.map(lambda x: x + 1, tree)

    tree = advance({f"a{i}": jnp.zeros(1 << 18) for i in range(8)})
    host = np.full((1 << 20,), 1.0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"params": tree, "host": {"x": host}}, {})
    host[:] = -1
    for _ in range(10):
        tree = jax.block_until_ready(advance(tree))
    restored, _, _ = checkpoints.restore({"params": abstract(tree), "host": {"x": host}})
    for leaf in jax.tree.leaves(restored):
        np.testing.assert_array_equal(leaf, 1.0)


def test_no_save_is_skipped_while_another_is_running(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=20)
    for step in range(1, 9):
        checkpoints.save(step, small(step), {"step": step})
    checkpoints.save(
        8, small(8), {"step": 8}
    )  # the last interval and the end of the run may be the same step
    checkpoints.close()
    assert checkpoints.steps() == list(range(1, 9)) and checkpoints.latest() == 8
    for step in (1, 8):
        tree, metadata, found = checkpoints.restore(abstract(small()), step)
        assert found == step == metadata["step"]
        assert_same_bits(tree, small(step))


def test_leaving_the_block_finishes_the_running_save(tmp_path):
    with pytest.raises(KeyError), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"p": {"x": jnp.zeros((1000, 1000))}}, {})
        raise KeyError("the loop failed")
    assert Checkpoints(tmp_path).steps() == [1]


def test_newest_and_every_interval_are_kept(tmp_path):
    for steps in (range(1, 6), range(6, 12)):  # the second object is the resumed run
        checkpoints = Checkpoints(tmp_path, keep=2, keep_interval=4)
        for step in steps:
            checkpoints.save(step, {"p": {"x": jnp.ones(2)}}, {})
        checkpoints.close()
    assert checkpoints.steps() == [4, 8, 10, 11]


def test_only_the_named_items_are_read(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, small(2.0), {}, wait=True)
    shutil.rmtree(tmp_path / "1" / "params")
    tree, _, _ = checkpoints.restore({"ema_0.999": abstract(small())["ema_0.999"]})
    np.testing.assert_array_equal(tree["ema_0.999"]["w"], -2.0)


@pytest.mark.parametrize("damage", [truncate, os.remove])
def test_first_look_at_the_metadata_finds_a_whole_checkpoint(two_checkpoints, tmp_path, damage):
    shutil.copytree(two_checkpoints, tmp_path, dirs_exist_ok=True)
    assert Checkpoints(tmp_path).restore({}) == ({}, {"step": 20}, 20)
    damage(tmp_path / "20" / "params" / "manifest.ocdbt")
    assert Checkpoints(tmp_path).restore({}) == ({}, {"step": 10}, 10)


# ---- damage ----


@pytest.mark.parametrize("damage", [flip, truncate, os.remove])
def test_damage_of_any_file_is_found_or_harmless(two_checkpoints, tmp_path, caplog, damage):
    files = [
        file.relative_to(two_checkpoints)
        for file in (two_checkpoints / "20").rglob("*")
        if file.is_file()
    ]
    fell_back = set()
    for file in files:
        shutil.rmtree(tmp_path)
        shutil.copytree(two_checkpoints, tmp_path)
        damage(tmp_path / file)
        caplog.clear()
        tree, metadata, step = Checkpoints(tmp_path).restore(abstract(small()))
        assert metadata == {"step": step}
        assert_same_bits(tree, small(step))
        if step == 10:
            fell_back.add(file.name)
            (line,) = caplog.messages
            assert str(tmp_path) in line and "using step 10" in line and "\n" not in line
        # the next save must work in this folder, and be the newest for the next reader
        if file.parts[1] in ("params", "crc32.json", "_CHECKPOINT_METADATA"):
            resumed = Checkpoints(tmp_path)
            assert resumed.restore(abstract(small()))[2] == step
            resumed.save(15 if step == 10 else 25, small(7), {"step": 7})
            resumed.close()
            assert_same_bits(Checkpoints(tmp_path).restore(abstract(small()))[0], small(7))
    assert {"manifest.ocdbt", "_METADATA", "metadata", "crc32.json"} <= fell_back


def test_nothing_readable_is_one_clear_line(two_checkpoints, tmp_path):
    shutil.copytree(two_checkpoints, tmp_path, dirs_exist_ok=True)
    for step in (10, 20):
        truncate(tmp_path / str(step) / "metadata" / "metadata")
    with pytest.raises(
        UserError, match="no readable checkpoint.*step 20.*truncated.*step 10"
    ) as error:
        Checkpoints(tmp_path).restore(abstract(small()))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no checkpoint of step 15.*10, 20"):
        Checkpoints(tmp_path).restore(abstract(small()), 15)
    with pytest.raises(UserError, match="no checkpoint in"):
        Checkpoints(tmp_path / "absent").restore(abstract(small()))
    assert not (tmp_path / "absent").exists()


def test_going_back_puts_newer_steps_aside(two_checkpoints, tmp_path, caplog):
    shutil.copytree(two_checkpoints, tmp_path, dirs_exist_ok=True)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.restore(abstract(small()), step=10)
    checkpoints.save(10, small(10), {})  # nothing happened since
    assert checkpoints.steps() == [10, 20]
    checkpoints.save(12, small(12), {"step": 12}, wait=True)
    assert checkpoints.steps() == [10, 12] and (tmp_path / "20.replaced" / "params").is_dir()


CHILD_THAT_SAVES = """
import sys, jax.numpy as jnp
from utils.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep=3)
step = checkpoints.latest() or 0
while True:
    step += 1
    tree = {"a": {"x": jnp.full((5000,), step)}, "b": {"x": jnp.full((50,), -step)}}
    checkpoints.save(step, tree, {"step": step})
    print(step, flush=True)
"""


def test_killed_at_any_moment_the_folder_restores(tmp_path, caplog):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    like = {"a": {"x": np.zeros(5000, np.int32)}, "b": {"x": np.zeros(50, np.int32)}}
    pick, last = random.Random(0), 0
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD_THAT_SAVES, tmp_path],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
        )
        for _ in range(pick.randint(2, 5)):
            started = int(child.stdout.readline())
        time.sleep(pick.uniform(0, 0.1))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        tree, metadata, step = Checkpoints(tmp_path).restore(like)
        assert last < started - 1 <= step and metadata["step"] == step  # all but the running one
        assert (tree["a"]["x"] == step).all() and (tree["b"]["x"] == -step).all()
        last = step
    assert not caplog.messages  # complete or absent, never damaged


# ---- another model, another folder ----


def test_another_model_is_an_error_not_damage(two_checkpoints):
    def restore(like):
        with pytest.raises(UserError) as error:
            Checkpoints(two_checkpoints).restore(like)
        assert "\n" not in str(error.value) and str(two_checkpoints) in str(error.value)
        return str(error.value)

    one = jax.ShapeDtypeStruct
    assert "params/w is float32[300] in the checkpoint and float32[4, 5] now" in restore(
        {"params": {"w": one((4, 5), jnp.float32)}}
    )
    assert "params/w is float32[300] in the checkpoint and bfloat16[300] now" in restore(
        {"params": {"w": one((300,), jnp.bfloat16)}}
    )
    assert "params/v is missing in the checkpoint and float32[2] now" in restore(
        {"params": {"w": one((300,), jnp.float32), "v": one((2,), jnp.float32)}}
    )
    assert "params/w is float32[300] in the checkpoint and missing now" in restore({"params": {}})
    assert "has no 'ema_0.5': it has ema_0.999, params" in restore(
        {"ema_0.5": {"w": one((300,), jnp.float32)}}
    )


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "run").write_text("")
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoints"):
        with pytest.raises(UserError, match="could not write checkpoint 1 in"):
            Checkpoints(folder).save(1, small(), {}, wait=True)
        with pytest.raises(UserError, match="no checkpoint in"):
            Checkpoints(folder).restore(abstract(small()))


FAILING_CHILD = """
import os, resource, sys
import numpy as np
from utils.checkpoint import Checkpoints
from utils.errors import UserError
folder, how = sys.argv[1:]
Checkpoints(folder + "-imports").save(1, {}, {}, wait=True)
if how == "read-only" and os.getuid() == 0:
    os.seteuid(65534)  # root may write anywhere
if how == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
checkpoints = Checkpoints(folder)
try:
    checkpoints.save(30, {"params": {"w": np.random.default_rng(0).normal(size=1 << 20)}}, {})
    print("running", flush=True)
    checkpoints.wait()
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("how", ["read-only", "full"])
def test_a_folder_that_cannot_be_written(two_checkpoints, how):
    with tempfile.TemporaryDirectory() as parent:  # pytest's own folders are closed to other users
        folder = pathlib.Path(parent) / "run"
        os.chmod(parent, 0o755)
        shutil.copytree(two_checkpoints, folder)
        if how == "read-only":
            os.chmod(folder, 0o555)
        child = python(FAILING_CHILD, folder, how, cwd="/")
        os.chmod(folder, 0o755)
        assert child.returncode == 0, child.stderr
        *before, line = child.stdout.splitlines()
        assert (
            line.startswith(f"could not write checkpoint 30 in {folder}: ")
            and "Traceback" not in child.stderr
        )
        assert before == (["running"] if how == "full" else [])
        assert sorted(entry.name for entry in folder.iterdir()) == ["10", "20"]
        assert_same_bits(Checkpoints(folder).restore(abstract(small()))[0], small(20))


# ---- devices ----

MOVING_CHILD = """
import sys, jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from utils.checkpoint import Checkpoints

def shardings_of(n_devices, divided):
    mesh = Mesh(np.array(jax.devices()[:n_devices]), ("data",))
    return {k: NamedSharding(mesh, P("data") if k in divided else P()) for k in values}

values = {"w": np.arange(64, dtype=np.float32).reshape(16, 4),
          "bank": np.arange(48, dtype=np.uint8).reshape(8, 6),
          "large": np.arange(2**20, dtype=np.float32)}  # devices share the writing of it
moves = [  # devices and divided arrays, when saved and when restored
    (8, "bank", 1, ""),
    (1, "", 8, "bank w"),
    (8, "w bank", 2, "bank"),
    (2, "w", 8, ""),
    (8, "", 8, "w"),
]
for number, (saved_devices, saved_divided, devices, divided) in enumerate(moves):
    checkpoints = Checkpoints(f"{sys.argv[1]}/{number}")
    shardings = shardings_of(saved_devices, saved_divided)
    state = {k: jax.device_put(v, shardings[k]) for k, v in values.items()}
    checkpoints.save(1, {"state": state}, {})
    shardings = shardings_of(devices, divided)
    like = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=shardings[k])
            for k, v in values.items()}
    tree, _, _ = checkpoints.restore({"state": like})
    for k, v in values.items():
        assert tree["state"][k].sharding == shardings[k]
        np.testing.assert_array_equal(np.asarray(tree["state"][k]), v)
"""


def test_checkpoints_move_between_device_counts(tmp_path):
    child = python(MOVING_CHILD, tmp_path, devices=8)
    assert child.returncode == 0, child.stderr
    like = {
        "w": jnp.zeros((16, 4)),
        "bank": jnp.zeros((8, 6), jnp.uint8),
        "large": jnp.zeros(2**20),
    }
    tree, _, _ = Checkpoints(tmp_path / "2").restore(
        {"state": abstract(like)}
    )  # saved by a process with 8 devices
    np.testing.assert_array_equal(tree["state"]["w"], np.arange(64).reshape(16, 4))
    np.testing.assert_array_equal(tree["state"]["bank"], np.arange(48).reshape(8, 6))
    np.testing.assert_array_equal(tree["state"]["large"], np.arange(2**20))


# ---- import and stop ----


def test_orbax_is_imported_only_when_used():
    child = python("import sys, utils.checkpoint; sys.exit('orbax.checkpoint' in sys.modules)")
    assert child.returncode == 0, child.stderr


def test_stop_signal_sets_a_flag_and_gives_the_handlers_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    for which in (signal.SIGTERM, signal.SIGINT):
        with StopSignal() as stop:
            assert not stop.requested and stop.name is None
            os.kill(os.getpid(), which)
            assert stop.requested and stop.name == which.name
            os.kill(os.getpid(), signal.SIGTERM)  # only a second Ctrl-C is impatient
            assert stop.name == which.name
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


INTERRUPTED_CHILD = """
import os, signal
from utils.signals import StopSignal
with StopSignal():
    os.kill(os.getpid(), signal.SIGINT)
    print("flag", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("still here", flush=True)
"""


def test_second_interrupt_ends_the_process_at_once():
    child = python(INTERRUPTED_CHILD)
    assert child.stdout == "flag\n" and child.returncode == -signal.SIGINT
