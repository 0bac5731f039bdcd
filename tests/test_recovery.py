"""What a run does about a step that is no number, or that does not end, and where its time went."""

import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from test_train import ROOT, STREAM, everything_saved, records, same_bits, train

from training import loop
from training.drift import DriftJob
from training.goodput import Goodput
from training.recovery import another_seed
from utils.checkpoint import Checkpoints
from utils.errors import UserError

CHANGES = STREAM | {"max_steps": 12, "model.name": "mlp"}


@pytest.fixture
def breaks(monkeypatch):
    """Lets the steps of these numbers give NaN, each once, as a bad sample or a bad chip would."""
    steps = []
    advance = DriftJob.advance

    def broken(job, batch):
        step = int(job.state.step) + 1
        if steps and steps[0] == step:
            del steps[0]
            params = jax.tree.map(spoiled, job.state.params)
            job.state = job.state.replace(params=params)
        return advance(job, batch)

    monkeypatch.setattr(DriftJob, "advance", broken)
    return steps


def spoiled(array):
    return jax.device_put(np.full(array.shape, np.nan, array.dtype), array.sharding)


@pytest.mark.usefixtures("shared_steps")
def test_it_stops_or_goes_back_and_on_with_other_samples(tmp_path, breaks, caplog):
    breaks += [7]
    with pytest.raises(UserError, match="step 7: .*loss.* not finite.*--on_nonfinite rollback"):
        train(tmp_path / "stops", CHANGES)
    assert (tmp_path / "stops" / "config.json").exists()  # it did start
    breaks += [7, 6]
    rolls = CHANGES | {"on_nonfinite": "rollback"}
    lines = train(tmp_path / "rolls", rolls)
    for words in ("24 samples used since (1 of", "40 samples used since (2 of at most 3 times)"):
        assert f"back to step 4, and on without the {words}" in caplog.text
    assert [line["step"] for line in lines] == [*range(1, 13)]

    before = records(tmp_path / "stops")
    assert [line["loss"] for line in before[:4]] == [line["loss"] for line in lines[:4]]
    assert before[4]["loss"] != lines[4]["loss"]  # what was used since is not used again
    _, metadata, _ = everything_saved(tmp_path / "rolls", rolls)
    assert metadata["rollbacks"] == 2 and metadata["position"] == 12 * 8 + 40 + fill_of(tmp_path)
    lines = (tmp_path / "rolls/environment.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    backs = [(e["step"], e["back_to"]) for e in events if e["event"] == "rollback"]
    assert backs == [(7, 4), (6, 4)]

    # ---- a run that was stopped after going back ends in the same bits ----
    breaks += [7, 6]
    train(tmp_path / "twice", rolls | {"max_steps": 8})
    train(tmp_path / "twice", rolls)
    ours, theirs = (everything_saved(tmp_path / name, rolls)[0] for name in ("rolls", "twice"))
    same_bits(ours, theirs)


@pytest.mark.usefixtures("shared_steps")
def test_a_bank_that_holds_all_goes_on_with_other_random_numbers(tmp_path, breaks, monkeypatch):
    """It has no stream to go on in. Each time is another one, and snapshots go back with it."""
    seeds = []
    monkeypatch.setattr(
        "training.recovery.another_seed",
        lambda seed, times: seeds.append(another_seed(seed, times)) or another_seed(seed, times),
    )
    breaks += [7, 7]
    changes = {"max_steps": 8, "on_nonfinite": "rollback", "optim.ema_snapshots": 4}
    train(tmp_path, changes)
    assert len({0, *map(int, seeds)}) == 3
    snapshots = Checkpoints(tmp_path / "averages")
    assert snapshots.steps() == [2, 4, 6]
    assert (tmp_path / "averages" / "6.replaced").exists()


@pytest.mark.usefixtures("shared_steps")
def test_going_back_holds_one_state(tmp_path, breaks, monkeypatch):
    """A run may need most of the memory: the state that is given up goes before the other comes."""
    held = []
    restore = DriftJob.restore

    def looked_at(job, checkpoints):
        held.append([hasattr(job, name) for name in ("state", "bank")])
        restore(job, checkpoints)

    monkeypatch.setattr(DriftJob, "restore", looked_at)
    breaks += [6]
    train(tmp_path, CHANGES | {"max_steps": 6, "on_nonfinite": "rollback"})
    assert held == [[False, False]]


@pytest.mark.usefixtures("shared_steps")
def test_speeds_leave_out_the_step_that_compiles(tmp_path, monkeypatch):
    """But where a log line ends with the first step there is nothing else to tell."""
    steps = []
    read = loop.Clock.read

    def looked_at(clock, step, batch_size):
        steps.append(step - clock.first_step)
        return read(clock, step, batch_size)

    monkeypatch.setattr(loop.Clock, "read", looked_at)
    for interval, counted in ((2, [1, 2]), (1, [1, 1, 1, 1])):
        del steps[:]
        train(tmp_path / str(interval), CHANGES | {"max_steps": 4, "log_interval": interval})
        assert steps == counted


@pytest.mark.usefixtures("shared_steps")
def test_a_signal_during_the_last_step_has_nothing_to_stop(tmp_path, monkeypatch):
    def late(job, step, values):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(DriftJob, "after_log", late)
    train(tmp_path, CHANGES | {"max_steps": 4})
    assert json.loads((tmp_path / "goodput.json").read_text())["finished"]


def fill_of(folder):
    """Returns how many samples of the stream filled the bank before the first step."""
    checkpoint = Checkpoints(folder / "stops" / "checkpoints")
    metadata, step = checkpoint.look()
    return metadata["position"] - 8 * step


@pytest.mark.usefixtures("shared_steps")
def test_it_goes_back_so_often_and_not_before_the_first_checkpoint(tmp_path, breaks):
    rolls = CHANGES | {"on_nonfinite": "rollback", "max_rollbacks": 1}
    breaks += [2]
    with pytest.raises(UserError, match="step 2: .* there is no checkpoint to go back to"):
        train(tmp_path / "first", rolls)
    breaks += [6, 6]
    with pytest.raises(UserError, match=r"step 6: .* after going back 1 times \(--max_rollbacks\)"):
        train(tmp_path / "often", rolls)
    assert len(records(tmp_path / "often")) == 5  # all of them finite


def test_a_program_that_hangs_is_ended_with_its_stacks():
    code = (
        "import time\nfrom utils.watchdog import Watchdog\n"
        "def step(): time.sleep(60)\n"
        "with Watchdog(5) as dog:\n"
        "    dog.restart(); time.sleep(0.1); dog.restart(); dog.rest()\n"
        "    dog.seconds = 0.1; dog.restart(); dog.rest(); time.sleep(0.3)\n"
        "    print('alive', flush=True)\n"
        "    dog.restart(); step()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=ROOT
    )
    assert done.returncode == 1 and done.stdout == "alive\n"
    assert "Timeout" in done.stderr and "in step" in done.stderr


@pytest.mark.usefixtures("shared_steps")
def test_time_is_accounted_for_over_all_starts(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("training.goodput.time.time", lambda: now[0])
    monkeypatch.setattr("training.goodput.time.perf_counter", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    account = Goodput(tmp_path)
    passes(10)
    account.started()
    passes(60)
    with account.during("waiting"):
        passes(5)
    with account.during("saving"):
        passes(5)
    account.save()
    passes(15)  # of steps, and then it is killed; 5 s later it starts again

    passes(5)
    account = Goodput(tmp_path)
    passes(10)
    account.started()
    passes(80)
    with account.during("evaluating"):
        passes(10)
    expected = {"steps": 140, "starting": 20, "waiting": 5, "evaluating": 10, "saving": 5}
    assert account.seconds() == expected | {"lost": 20}
    assert account.share() == 0.7
    words = "goodput 70% of 200 s: steps 70%, starting 10%, waiting 2%, evaluating 5%, saving 2%, "
    assert account.in_words() == words + "lost 10%"

    # ---- steps that the run goes back from are lost, and starting again is starting ----
    account.save()
    passes(20)
    account.lose()
    account.to_start()
    passes(5)
    account.started()
    now_spent = account.seconds()
    assert (now_spent["steps"], now_spent["starting"], now_spent["lost"]) == (140, 25, 40)

    # ---- after the end, nothing is lost until the run is taken up again ----
    account.save(finished=True)
    passes(1000)
    assert Goodput(tmp_path).seconds() == account.seconds() | {"steps": 140}
    (tmp_path / "goodput.json").write_text("{")
    assert sum(Goodput(tmp_path).seconds().values()) == 0
