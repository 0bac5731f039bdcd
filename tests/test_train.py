"""The trainer: exact resume, meshes, donation, and what it says when something is wrong.

The data are real and the model is tiny.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from absl import flags
from conftest import CHILD_XLA_FLAGS, ROOT

import data
from configs.default import OF_TRAINERS
from training import drift
from utils import config as config_lib
from utils import sharding
from utils.checkpoint import Checkpoints
from utils.errors import UserError
from utils.logging import read_metrics

TINY = {
    "dataset_name": "digits",
    "model.name": "mlp",  # the smallest program; what is of the DiT alone takes DIT
    "batch_size": 32,
    "drift.n_neg": 4,
    "model.hidden_size": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.n_cls_tokens": 1,
    "model.noise_coords": 2,
    "model.noise_classes": 4,
    "model.patch_size": 4,
    "optim.warmup_steps": 2,
    "optim.schedule": "constant",
    "optim.ema": (0.99,),  # another would be compiled, saved and compared like it
    "max_steps": 20,
    "log_interval": 1,
    "save_interval": 4,
    "sample_interval": 0,
    "eval_interval": 0,
}
DIT = {"model.name": "dit"}
# Parameters of two blocks are stacked, and wide enough to be sharded.
STACKED = DIT | {"model.hidden_size": 64, "model.depth": 2}
STREAM = {
    "drift.n_pos": 8,
    "drift.bank_per_class": 16,
    "drift.bank_global": 40,
    "drift.bank_push": 8,
    "drift.n_unc": 4,
    "drift.alpha_max": 3.0,
}
TIMING = ("images_per_s", "mfu", "goodput", "seconds", "data_wait")


def parts_of(changes=(), devices=1, fsdp=1):
    config = config_lib.resolve(TINY | {"mesh.devices": devices, "mesh.fsdp": fsdp} | dict(changes))
    return drift.build(config, data.load("digits"), sharding.make_mesh(devices, fsdp))


def train(folder, changes=(), **kw):
    parts = parts_of(dict(changes) | {"save_dir": str(folder)}, **kw)
    drift.train(parts, drift.open_run(parts.config))
    return records(folder)


def records(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def as_at(step, run, copy):
    """Copies a run without the checkpoints after this step, which it has; returns the copy.

    It goes on like one that was killed before the next save: its log has later steps.
    """
    shutil.copytree(run, copy)
    steps = Checkpoints(copy / "checkpoints").steps()
    assert step in steps and steps[-1] > step, "or nothing would be resumed"
    for later in steps[steps.index(step) + 1 :]:
        shutil.rmtree(copy / "checkpoints" / str(later))
    return copy


def everything_saved(folder, changes=(), step=None):
    parts = parts_of(changes)
    # Without shardings, arrays come back in NumPy.
    shapes = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), drift.checkpoint_shapes(parts)
    )
    return Checkpoints(folder / "checkpoints").restore(shapes, step)


def same_bits(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def command(*flags, script="train_drift.py"):
    return [
        sys.executable,
        str(ROOT / script),
        *(f"--{k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in flags),
    ]


def run(given, script="train_drift.py", **kw):
    env = os.environ | {"XLA_FLAGS": CHILD_XLA_FLAGS, "PYTHONWARNINGS": "default"}
    return subprocess.run(
        command(*given, script=script),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=kw.pop("cwd", ROOT),
        env=env | kw.pop("env", {}),
    )


def run_here(given):
    """Runs the program in this process."""
    flag_values = config_lib.define_flags(extra=OF_TRAINERS, flag_values=flags.FlagValues())
    drift.main(config_lib.parse(command(*given)[1:], flag_values))


def refusal(given):
    """Returns the message with which the program refuses flags, in this process."""
    with pytest.raises(UserError) as error:
        run_here(given)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- exactness


@pytest.mark.parametrize(
    "changes, kills",
    [(STREAM, 1), *(pytest.param(c, 3, marks=pytest.mark.slow) for c in ({}, STREAM))],
    ids=["stream", "whole bank, thrice", "stream, thrice"],
)
@pytest.mark.usefixtures("shared_steps")
def test_killed_and_resumed_ends_in_the_same_bits(tmp_path, changes, kills):
    """A run gets SIGKILL at random steps, and ends as one that was not interrupted.

    That is said of parameters, averages, optimiser, bank and metrics. The program is killed; what
    was not interrupted, and the end of the other, run in this process.
    """
    changes = changes | {"max_steps": 40}
    given = (TINY | changes).items()
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train(straight, changes)
    goals = sorted(random.Random(time.time_ns()).sample(range(5, 17), kills))
    for goal in goals:
        process = subprocess.Popen(
            command(*given, ("save_dir", killed)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | {"XLA_FLAGS": CHILD_XLA_FLAGS},
        )
        deadline = time.time() + 120
        while process.poll() is None and time.time() < deadline:
            log = killed / "metrics.jsonl"
            if log.exists() and log.read_text().count("\n") >= goal:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        _, told = process.communicate()
        assert process.returncode == -signal.SIGKILL, told.decode()
        assert log.read_text().count("\n") >= goal, told.decode()
    train(killed, changes)
    tree, metadata, step = everything_saved(straight, changes)
    tree2, metadata2, step2 = everything_saved(killed, changes)
    assert step == step2 == 40, f"killed near {goals}"
    same_bits(tree, tree2)
    assert metadata["position"] == metadata2["position"]
    assert records(straight) == records(killed), f"killed near {goals}"


@pytest.mark.usefixtures("shared_steps")
def test_devices_and_fsdp_do_not_change_the_losses(tmp_path):
    """A run that moves by its checkpoint from 8 devices, fsdp 4, to one has the losses of one."""
    changes = STACKED | {"drift.n_unc": 4, "drift.alpha_max": 3.0}
    alone = train(tmp_path / "alone", changes | {"max_steps": 8}, devices=1)
    for until, (devices, fsdp) in ((4, (8, 4)), (8, (1, 1))):
        moved = train(
            tmp_path / "moving", changes | {"max_steps": until}, devices=devices, fsdp=fsdp
        )
    assert len(moved) == len(alone) == 8
    for key in ("loss", "drift_rms_0.02", "energy_distance", "grad_norm"):
        np.testing.assert_allclose(
            [record[key] for record in moved],
            [record[key] for record in alone],
            rtol=1e-4,
            atol=1e-6,
            err_msg=key,
        )


@pytest.mark.usefixtures("shared_steps")
def test_bank_in_host_memory_gives_the_same_run(tmp_path):
    device = train(tmp_path / "device", STREAM)
    assert all(record["mfu"] > 0 for record in read_metrics(tmp_path / "device" / "metrics.jsonl"))
    host = train(tmp_path / "host", STREAM | {"drift.bank_placement": "host"})
    for a, b in zip(device, host, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
    same_bits(
        everything_saved(tmp_path / "device", STREAM)[0]["bank"],
        everything_saved(tmp_path / "host", STREAM)[0]["bank"],
    )


# ---------------------------------------------------------------- the step


@pytest.mark.parametrize("changes, fsdp", [({}, 1), (STACKED, 4)], ids=["data", "fsdp"])
def test_step_compiles_once_and_donates(changes, fsdp):
    parts = parts_of(changes | {"drift.temperature_schedule": "10:1"}, devices=8, fsdp=fsdp)
    state, step = drift.make_state(parts), drift.make_step(parts)
    inputs = (drift.fill_bank(parts)[0], parts.encoder_params)
    bank, frozen = jax.device_put(inputs, sharding.replicated(parts.mesh))
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            old = [a for a in jax.tree.leaves((state, bank)) if a.size]
            state, bank, metrics = step(state, bank, None, frozen)
            assert all(a.is_deleted() for a in old), "state and bank are donated"
    assert step._cache_size() == 1
    assert int(state.step) == 3 and np.isfinite(float(metrics["loss"]))


COLLECTIVES = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"


def collectives(hlo: str):
    """Returns [(operation, shapes)] of the compiled text."""
    found = []
    for line in re.sub(r"/\*.*?\*/", "", hlo).splitlines():
        match = re.search(rf" = (.*?) ({COLLECTIVES})(?:-start)?\(", line)
        if match:
            shapes = []
            for dims in re.findall(r"\w+\[([\d,]*)\]", match[1]):
                shapes.append(tuple(int(n) for n in dims.split(",") if n))
            found.append((match[2], shapes))
    return found


def parts_of_parameters(params, fsdp):
    """Returns the shapes, sorted and without ones, in which parameters may travel.

    They are whole or divided over `fsdp` along their first or last axis; all layers of the scan
    at once, or one of them.
    """
    found = set()
    for leaf in jax.tree.leaves(params):
        for shape in (leaf.shape, leaf.shape[1:]):
            if not shape:
                continue
            first, last = (shape[0] // fsdp, *shape[1:]), (*shape[:-1], shape[-1] // fsdp)
            found |= {without_ones(piece) for piece in (shape, first, last)}
    return found


def without_ones(shape):
    return tuple(sorted(n for n in shape if n != 1))


@pytest.mark.parametrize("fsdp", [1, 2])
@pytest.mark.parametrize(
    "changes",
    [{"drift.n_unc": 4, "drift.alpha_max": 3.0}, pytest.param(STREAM, marks=pytest.mark.slow)],
    ids=["whole bank", "stream"],
)
def test_only_parameters_and_scalars_travel(changes, fsdp):
    """On 8 devices each class stays on one.

    No collective of the compiled step moves samples or features, and the parameters travel at most
    2.2 times, or 3.2 with fsdp.
    """
    parts = parts_of(changes | STACKED, devices=8, fsdp=fsdp)
    state, everywhere = drift.make_state(parts), sharding.replicated(parts.mesh)
    bank = jax.device_put(drift.fill_bank(parts)[0], everywhere)
    fresh = None
    if not parts.whole_bank:
        fresh = (np.zeros((8, 8, 8, 1), np.uint8), np.zeros(8, np.int32))
        fresh = jax.device_put(fresh, everywhere)
    compiled = drift.make_step(parts).lower(state, bank, fresh, parts.encoder_params).compile()
    of_parameters = parts_of_parameters(state.params, fsdp)
    size = 0
    for operation, shapes in collectives(compiled.as_text()):
        for shape in shapes:
            is_parameter = without_ones(shape) in of_parameters
            assert is_parameter or np.prod(shape) <= 64, f"{operation} of {shape}"
            loops = parts.model.depth if is_parameter and len(shape) < 3 else 1
            size += loops * int(np.prod(shape))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert parameters < size <= (2.2 if fsdp == 1 else 3.2) * parameters


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.usefixtures("shared_steps")
def test_collapse_is_named(tmp_path, caplog):
    """A zero-initialised output layer starts the generator collapsed.

    The trainer says so, and stops if it is asked to.
    """
    zero = {"model.zero_init_output": True, "max_steps": 4, "optim.learning_rate": 1e-5}
    train(tmp_path / "warn", zero)
    assert sum("collapse: " in r.message and r.levelname == "WARNING" for r in caplog.records) == 1
    with pytest.raises(UserError, match="collapse: "):
        train(tmp_path / "stop", zero | {"stop_on_collapse": True})
    caplog.clear()
    train(tmp_path / "fine", {"max_steps": 4, "optim.learning_rate": 1e-5})
    assert not any("collapse" in r.message for r in caplog.records)


def test_not_finite_stops_with_the_step(tmp_path, caplog):
    """The log has said before which attention kernel the steps are of."""
    caplog.set_level("INFO", "train")
    too_fast = {"optim.learning_rate": 1e30, "optim.clip": 1e30}
    with pytest.raises(UserError, match=r"step \d+: .*not finite"):
        train(tmp_path, DIT | too_fast | {"model.attention": "auto"})
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("attention: ")]
    assert line.startswith("attention: xla, which auto takes here (cpu)")


@pytest.mark.usefixtures("shared_steps")
def test_damaged_checkpoint_falls_back(tmp_path, caplog):
    train(tmp_path, {"max_steps": 8})
    newest = max(
        (f for f in (tmp_path / "checkpoints" / "8").rglob("*") if f.is_file()),
        key=lambda f: f.stat().st_size,
    )
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    train(tmp_path, {"max_steps": 12})
    assert sum("damaged" in r.message and "using step 4" in r.message for r in caplog.records) == 1
    assert [r["step"] for r in records(tmp_path)] == list(range(1, 13))


@pytest.mark.usefixtures("shared_steps")
def test_ctrl_c_saves_and_exits(tmp_path, monkeypatch):
    """In this process. The next test sends the other signal to the program."""

    def interrupt(job, step, values):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(drift.DriftJob, "after_log", interrupt)
    with pytest.raises((SystemExit, KeyboardInterrupt)) as end:  # the second would end pytest
        train(tmp_path)
    assert getattr(end.value, "code", None) == 128 + signal.SIGINT
    assert Checkpoints(tmp_path / "checkpoints").steps() == [2]


def test_a_signal_saves_and_exits(tmp_path):
    given = (TINY | {"max_steps": 100000, "save_interval": 100000, "save_dir": tmp_path}).items()
    process = subprocess.Popen(
        command(*given),
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": CHILD_XLA_FLAGS},
    )
    while process.poll() is None and not (
        (tmp_path / "metrics.jsonl").exists() and records(tmp_path)
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    (step,) = Checkpoints(tmp_path / "checkpoints").steps()
    assert (
        process.returncode == 128 + signal.SIGTERM
        and f"SIGTERM: saved at step {step}" in stderr
        and "Traceback" not in stderr
    ), stderr


@pytest.mark.usefixtures("shared_steps")
def test_run_folder_of_another_model(tmp_path):
    train(tmp_path, {"max_steps": 4})
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match="model.depth = 1, but model.depth = 3"):
        train(tmp_path, {"max_steps": 8, "model.depth": 3})
    assert (tmp_path / "config.json").read_text() == before and Checkpoints(
        tmp_path / "checkpoints"
    ).steps() == [4]


@pytest.mark.usefixtures("shared_steps")
def test_two_programs_do_not_share_a_folder(tmp_path):
    program = f"""
import fcntl
file = open({str(tmp_path / ".lock")!r}, "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print(flush=True)
input()
"""
    command = [sys.executable, "-c", program]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    with pytest.raises(UserError, match="another program is training there"):
        train(tmp_path)
    other.kill()
    other.wait()
    train(tmp_path, {"max_steps": 1})


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file" / "run", "/proc/run"):
        with pytest.raises(UserError, match="cannot write"):
            drift.open_run(parts_of({"save_dir": str(where)}).config)


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk takes root"
)
@pytest.mark.usefixtures("shared_steps")
def test_full_disk_keeps_the_earlier_checkpoints(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        train(disk / "run", {"max_steps": 4, "keep_checkpoints": 100})
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 40_000))
        done = run(
            (TINY | {"save_dir": disk / "run", "max_steps": 8, "keep_checkpoints": 100}).items()
        )
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert (
            done.returncode == 2
            and len(errors) == 1
            and "free some space" in errors[0]
            and "Traceback" not in done.stderr
        ), done.stderr
        assert Checkpoints(disk / "run" / "checkpoints").steps() == [4]
        (disk / "filler").unlink()
        assert len(train(disk / "run", {"max_steps": 8, "keep_checkpoints": 100})) == 8
    finally:
        subprocess.run(["umount", disk], check=True)


ONE_LINE = [
    ({"dataset_nam": "digits"}, "dataset_name"),
    ({"dataset_name": "digit"}, "digits"),
    ({"model.preset": "hugee"}, "preset"),
    ({"encoder.name": "dinov9"}, "encoder"),
    ({"drift.field": "kernal"}, "kernel"),
    ({"batch_size": 52}, "classes"),
    (
        {"batch_size": 28, "mesh.devices": 1, "drift.n_pos": 4000, "drift.bank_per_class": 5000},
        "n_pos",
    ),
    ({"mesh.devices": 64}, "devices"),
    (DIT | {"model.patch_size": 3}, "patch"),
    ({"max_steps": -1}, "max_steps"),
    ({"load_dir": "nowhere"}, "nowhere"),
    (
        {"drift.n_unc": 200, "drift.n_pos": 8, "drift.bank_per_class": 16, "drift.alpha_max": 3.0}
        | {"drift.bank_global": 0},
        "160 samples of any class",  # not as many as the data have
    ),
]


@pytest.mark.parametrize("changes, word", ONE_LINE, ids=[list(c)[-1] for c, _ in ONE_LINE])
def test_a_mistake_is_refused(tmp_path, changes, word):
    message = refusal((TINY | {"save_dir": tmp_path / "run"} | changes).items())
    assert word in message
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_mistake_is_one_line(tmp_path):
    """What the program makes of a message: nothing else, and exit code 2."""
    done = run((TINY | {"save_dir": tmp_path / "run", "mesh.devices": 64}).items())
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "devices" in line
