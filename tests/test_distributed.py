"""Several real processes as one job (gloo on loopback).

They have the results of one process, say who is missing, and stop together. The long tests:
./scripts/test.sh -m slow tests/test_distributed.py
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from conftest import CHILD_XLA_FLAGS, ROOT
from test_train import STACKED, STREAM, TINY, records, train

from evaluation.fid_csv import read_rows
from utils.checkpoint import Checkpoints
from utils.cluster import find_member
from utils.config.values import as_text
from utils.errors import UserError
from utils.roll_call import roll_call

KEYS = ("loss", "drift_rms_0.02", "energy_distance", "grad_norm", "diversity")
WIDE = TINY | STACKED | {"drift.n_unc": 4, "drift.alpha_max": 3.0}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


class Job:
    """One process of each rank, with `devices` devices; `log(rank)` is what it has said."""

    def __init__(self, folder, flags, ranks=2, devices=4, start=None, own=None):
        port, self.processes, self.paths = free_port(), {}, {}
        count = f"--xla_force_host_platform_device_count={devices}"
        env = os.environ | {"XLA_FLAGS": f"{CHILD_XLA_FLAGS} {count}"}
        for rank in range(ranks) if start is None else start:
            self.paths[rank] = folder / f"log_{time.time_ns()}_{rank}"
            member = {}
            if ranks > 1:
                member = {
                    "distributed.coordinator": f"localhost:{port}",
                    "distributed.processes": ranks,
                    "distributed.process": rank,
                }
            given = flags | member | (own or {}).get(rank, {})
            words = [f"--{name}={as_text(value)}" for name, value in given.items()]
            with open(self.paths[rank], "w") as file:
                self.processes[rank] = subprocess.Popen(
                    [sys.executable, str(ROOT / "train_drift.py"), *words],
                    stdout=file,
                    stderr=file,
                    env=env,
                    cwd=ROOT,
                )

    def log(self, rank):
        return self.paths[rank].read_text()

    def wait(self, timeout=400):
        deadline = time.time() + timeout
        try:
            return {
                rank: p.wait(max(deadline - time.time(), 1)) for rank, p in self.processes.items()
            }
        finally:
            for p in self.processes.values():
                p.kill()

    def until(self, folder, step, timeout=300):
        """Returns when the run has logged this step."""
        deadline = time.time() + timeout
        while not has_logged(folder, step):
            all_run = all(process.poll() is None for process in self.processes.values())
            assert time.time() < deadline and all_run, {r: self.log(r) for r in self.paths}
            time.sleep(0.05)


def has_logged(folder, step):
    exists = (folder / "metrics.jsonl").exists()
    return exists and any(record["step"] >= step for record in records(folder))


def finish(folder, flags, **kw):
    job = Job(folder, flags, **kw)
    codes = job.wait()
    assert set(codes.values()) == {0}, "\n".join(job.log(rank) for rank in codes)
    return job


def same_losses(a, b):
    assert [r["step"] for r in a] == [r["step"] for r in b]
    for key in KEYS:
        np.testing.assert_allclose([r[key] for r in a], [r[key] for r in b], rtol=1e-4, err_msg=key)


# ---------------------------------------------------------------- who takes part


def options(**changes):
    return types.SimpleNamespace(
        **{"coordinator": "", "processes": 0, "process": -1, "timeout": 2} | changes
    )


def test_who_takes_part():
    given = options(coordinator="a:1", processes=4, process=2)
    assert find_member(given, {}) == ("a:1", 4, 2, None)
    env = {
        "JAX_COORDINATOR_ADDRESS": "b:2",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "1",
        "JAX_LOCAL_DEVICE_IDS": "0,1",
    }
    assert find_member(options(), env) == ("b:2", 2, 1, [0, 1])
    assert find_member(options(coordinator="a:1"), env) == ("a:1", 2, 1, [0, 1])
    assert find_member(options(), {}) is None
    assert find_member(options(processes=1), env) is None
    for wrong in (
        {"coordinator": "a:1"},
        {"processes": 2, "process": 0},
        {"coordinator": "a", "processes": 2, "process": 0},
        {"coordinator": "a:1", "processes": 2, "process": 2},
    ):
        with pytest.raises(UserError, match="--distributed"):
            find_member(options(**wrong), {})


def call_roll(port, ranks, present, timeout=2):
    """Returns {index in `present`: what the roll call of that process returned or raised}.

    present: a rank, or (rank, number of processes that it believes in), for each process.
    """
    found = {}

    def one(rank, claimed, of):
        try:
            found[rank] = roll_call(f"localhost:{port}", of, claimed, timeout)
        except UserError as error:
            found[rank] = str(error)

    claims = [(claim, ranks) if isinstance(claim, int) else claim for claim in present]
    threads = [
        threading.Thread(target=one, args=(i, rank, of)) for i, (rank, of) in enumerate(claims)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    return found


def test_the_roll_names_who_is_missing():
    host = socket.gethostname()
    assert call_roll(free_port(), 3, (0, 1, 2), timeout=30) == dict.fromkeys(range(3), [host] * 3)
    for error in call_roll(free_port(), 4, (0, 2)).values():
        assert (
            error.startswith("processes 1, 3 of 4 are missing")
            and f"0 ({host}), 2 ({host})" in error
        )
    (error,) = call_roll(free_port(), 2, (1,), timeout=1).values()
    assert error.startswith("process 0 of 2 is missing") and "localhost" in error
    assert all(
        "two processes are number 1 of 3" in error
        for error in call_roll(free_port(), 3, (0, 1, 1)).values()
    )
    assert all(
        "the same --distributed.processes" in error
        for error in call_roll(free_port(), 2, (0, (1, 3))).values()
    )


def test_strangers_at_the_port_are_ignored():
    """A port scan, and a process that came, died and was started again."""
    port, host = free_port(), socket.gethostname()
    result = []

    def call(rank):
        result.append(roll_call(f"localhost:{port}", 3, rank, 30))

    threads = [threading.Thread(target=call, args=(rank,)) for rank in (0, 2, 1)]
    threads[0].start()
    while True:
        try:
            with socket.create_connection(("localhost", port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n")
            with socket.create_connection(("localhost", port)) as dead:
                dead.sendall(b"1 3 old\n")
                time.sleep(0.2)
            break
        except OSError:
            time.sleep(0.05)
    for t in threads[1:]:  # the dead one does not complete the roll
        t.start()
        time.sleep(0.5)
    for t in threads:
        t.join(60)
    assert result == [[host] * 3] * 3


# ---------------------------------------------------------------- the same run


@pytest.mark.usefixtures("shared_steps")
def test_two_processes_train_as_one(tmp_path):
    """Four steps in two processes and two more in one have the losses of one process all along.

    The two divide the bank, so that both hold a part of each of its samples. The report at the end
    is made by the first alone, for which the other does not wait.
    """
    flags = TINY | STREAM | {"max_steps": 4, "drift.bank_placement": "divided"}
    one, two = tmp_path / "one", tmp_path / "two"
    finish(tmp_path, flags | {"save_dir": two, "sample_interval": 4}, devices=1)
    assert len(records(two)) == 4 and (two / "report.html").is_file()
    same_losses(
        train(one, STREAM | {"max_steps": 6}, devices=2),
        train(two, STREAM | {"max_steps": 6}, devices=2),
    )
    assert json.loads((two / "config.json").read_text())["max_steps"] == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"mesh.fsdp": 4}, {"mesh.fsdp": 8}, STREAM, STREAM | {"drift.bank_placement": "host"}],
    ids=[
        "whole bank",
        "fsdp 4",
        "fsdp over both processes",
        "stream",
        "stream, bank in host memory",
    ],
)
def test_20_steps_and_the_moves_of_a_checkpoint(tmp_path, changes):
    """20 steps of 2 processes x 4 devices, with grids and scores, equal those of 1 x 8.

    So do those of a run that moves between both.
    """
    flags = WIDE | changes | {"sample_interval": 10, "eval_interval": 10}
    one, two, moving = (tmp_path / name for name in ("one", "two", "moving"))
    finish(tmp_path, flags | {"save_dir": one}, ranks=1, devices=8)
    finish(tmp_path, flags | {"save_dir": two})
    for until, kw in (
        (5, {}),
        (10, {"ranks": 1, "devices": 8}),
        (15, {}),
        (20, {"ranks": 1, "devices": 8}),
    ):
        finish(tmp_path, flags | {"save_dir": moving, "max_steps": until}, **kw)
    same_losses(records(one), records(two))
    same_losses(records(one), records(moving))
    distances = [
        [row["fd_pixels"] for row in read_rows(folder / "fid.csv")] for folder in (one, two)
    ]
    np.testing.assert_allclose(*distances, rtol=1e-4)
    assert sorted(p.name for p in (one / "samples").iterdir()) == sorted(
        p.name for p in (two / "samples").iterdir()
    )


# ---------------------------------------------------------------- the end


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_on_one_process_stops_all_at_one_step(tmp_path, rank):
    flags, run = TINY | {"max_steps": 100000, "save_interval": 100000}, tmp_path / "run"
    job = Job(tmp_path, flags | {"save_dir": run}, devices=1)
    job.until(run, 3)
    job.processes[rank].send_signal(signal.SIGTERM)
    assert job.wait(90) == {0: 128 + signal.SIGTERM, 1: 128 + signal.SIGTERM}, job.log(0) + job.log(
        1
    )
    (step,) = Checkpoints(run / "checkpoints").steps()
    assert f"SIGTERM: saved at step {step}" in job.log(0) and "Traceback" not in job.log(
        0
    ) + job.log(1)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_killed_the_other_ends_and_the_job_resumes_exactly(tmp_path, rank):
    flags, straight, killed = (
        TINY | STREAM | {"max_steps": 40},
        tmp_path / "straight",
        tmp_path / "killed",
    )
    finish(tmp_path, flags | {"save_dir": straight}, devices=1)
    job = Job(tmp_path, flags | {"save_dir": killed, "max_steps": 100000}, devices=1)
    job.until(killed, 9)
    job.processes[rank].kill()
    begin = time.time()
    assert job.processes[1 - rank].wait(60) != 0
    last = job.log(1 - rank).strip().splitlines()[-1]
    deadline = time.time() + 5
    while (
        not last.startswith("error: ") and time.time() < deadline
    ):  # the last words come a moment after the end
        time.sleep(0.1)
        last = job.log(1 - rank).strip().splitlines()[-1]
    assert (
        last.startswith(f"error: process {1 - rank} of 2")
        and "resume" in last
        and time.time() - begin < 60
    ), job.log(1 - rank)
    finish(tmp_path, flags | {"save_dir": killed}, devices=1)
    assert records(straight) == records(killed)[:40]


@pytest.mark.slow
def test_a_mistake_of_one_process_ends_all(tmp_path):
    """Other flags in one process are named; a missing process is named by the one that waits."""
    job = Job(tmp_path, TINY | {"save_dir": tmp_path / "b"}, devices=1, own={1: {"seed": 7}})
    assert 2 in job.wait(120).values() and "seed is 7 in process 1 and 0 in process 0" in job.log(
        0
    ) + job.log(1)
    job = Job(tmp_path, TINY | {"save_dir": tmp_path / "a", "distributed.timeout": 5}, start=[0])
    assert (
        job.wait(60) == {0: 2}
        and "error: process 1 of 2 is missing" in job.log(0)
        and "Traceback" not in job.log(0)
    )


@pytest.mark.slow
def test_a_folder_that_is_not_shared_ends_all(tmp_path):
    """Each process looks a minute for what the other writes in its folder."""
    job = Job(
        tmp_path,
        TINY | {"save_dir": tmp_path / "here"},
        devices=1,
        own={1: {"save_dir": tmp_path / "there"}},
    )
    assert job.wait(150) == {0: 2, 1: 2}, job.log(0) + job.log(1)
    for rank, name in enumerate(("here", "there")):
        assert (
            f"error: {tmp_path / name} is not one folder for all: process 0, 1 of 2 does not see"
            in job.log(rank)
            and "Traceback" not in job.log(rank)
        )
        assert not list((tmp_path / name).glob("metrics.jsonl"))
