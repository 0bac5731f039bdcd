"""Runs in buckets: the same bits as on disk, whatever is killed, on emulators of two stores."""

import json
import os
import random
import subprocess
import time

import emulators
import pytest
from test_train import STREAM, TINY, command, everything_saved, records, run, same_bits, train

from evaluation.fid_csv import read_rows, scores
from models.export import export_run
from utils import config as config_lib
from utils import folder_lock, storage
from utils.checkpoint import Checkpoints
from utils.checkpoint.checksums import find_damage, item_names
from utils.errors import UserError
from utils.lines_file import LinesFile
from utils.npz import read_npz

CHANGES = STREAM | {
    "max_steps": 12,
    "save_interval": 4,
    "sample_interval": 12,
    "keep_checkpoints": 1,
}


@pytest.fixture(scope="module", params=["gs", "s3"])
def store(request):
    """The address of an empty bucket, which the programs and this process find."""
    missing = emulators.missing(request.param)
    if missing:
        pytest.skip(f"no emulator of {request.param}://: {', '.join(missing)} is not installed")
    before = dict(os.environ)
    with emulators.bucket(request.param) as (address, environment):
        os.environ |= environment
        yield address
    os.environ.clear()
    os.environ |= before
    # The next emulator has another address, which what is kept of this one does not know.
    storage.reach.cache_clear()
    storage.file_system(address).clear_instance_cache()


@pytest.fixture
def place(store, request):
    """A folder of the bucket that is this test's own."""
    return storage.as_path(f"{store}/{request.node.name.partition('[')[0]}")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run on disk that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("disk") / "run"
    train(folder, CHANGES)
    return folder


def copy(source, target):
    """Copies the files of a folder, as gsutil or aws would."""
    for name in storage.files_below(source):
        file = target / name
        if not storage.is_bucket(target):
            file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((source / name).read_bytes())


def assert_whole(folder):
    """Checks every byte of every checkpoint, and that nothing else is left of saving."""
    checkpoints = Checkpoints(folder / "checkpoints")
    for step in checkpoints.steps():
        there = folder / "checkpoints" / str(step)
        assert find_damage(there, item_names(there)) is None
    folders = {name.split("/")[0] for name in storage.files_below(checkpoints.folder)}
    assert folders == {str(step) for step in checkpoints.steps()}


def assert_same(folder, straight):
    """Checks that a run has ended as the one on disk: arrays, metadata, lines and files."""
    tree, metadata, step = everything_saved(straight, CHANGES)
    tree2, metadata2, step2 = everything_saved(folder, CHANGES)
    same_bits(tree, tree2)
    for facts in (metadata, metadata2):
        facts["config"].pop("save_dir")
    assert (step, metadata) == (step2, metadata2)
    assert records(folder) == records(straight)
    assert_whole(folder)
    drawn = {name for name in storage.files_below(folder) if name.startswith("samples/")}
    assert "samples/step_00000012.png" in drawn and (folder / "report.html").exists()


def killed(folder, condition, delay):
    """Starts the run, and kills it so many seconds after the condition holds."""
    given = TINY | CHANGES | {"save_dir": folder, "mesh.devices": 1}
    process = subprocess.Popen(command(*given.items()), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not condition():
        time.sleep(0.05)
    time.sleep(delay)
    process.kill()
    return process.communicate()[1]


def test_killed_and_resumed_it_ends_as_on_disk(place, straight, tmp_path):
    def saves_its_second():
        names = storage.files_below(place / "checkpoints")
        return any(name.startswith("8/") for name in names)

    error = killed(place, saves_its_second, delay=random.uniform(0, 0.5))
    assert Checkpoints(place / "checkpoints").steps(), error
    assert (place / ".lock").exists()  # what was killed could not remove it
    train(place, CHANGES)
    assert_same(place, straight)

    # ---- it is read as a run on disk is ----
    kept = place / "artifact", tmp_path
    for source, target in zip((place, straight), kept, strict=True):
        assert export_run(source, target) == "generator"
    for name in ("ema_params.msgpack", "metadata.json"):
        ours, theirs = ((folder / name).read_bytes() for folder in kept)
        assert ours == theirs.replace(str(straight).encode(), str(place).encode())
    out = place / "samples.npz"
    done = run([("load_dir", kept[0]), ("num_samples", 4), ("out", out)], "sample.py")
    assert done.returncode == 0, done.stderr
    assert read_npz(out)["arr_0"].shape == (4, 8, 8, 1)


def test_a_run_moves_between_disk_and_bucket(place, straight, tmp_path):
    first = tmp_path / "first"
    train(first, CHANGES | {"max_steps": 4})
    copy(first, place)
    train(place, CHANGES | {"max_steps": 8})
    second = tmp_path / "second"
    copy(place, second)
    train(second, CHANGES)
    assert_same(second, straight)


def test_lines_are_there_after_a_flush_and_a_chunk(place, monkeypatch):
    path = place / "metrics.jsonl"
    lines = LinesFile(path, [])
    lines.write("one\n")
    assert path.read_text() == ""
    lines.flush()
    lines.write("two\n")
    assert path.read_text() == "one\n"
    monkeypatch.setattr("utils.lines_file.UPLOAD_INTERVAL", 0)
    lines.write("three\n")
    assert path.read_text() == "one\ntwo\nthree\n"
    LinesFile(path, ["one\n"]).close()
    assert path.read_text() == "one\n"


def test_one_program_at_a_time_holds_a_folder(place, monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT", 0.3)
    monkeypatch.setattr(folder_lock, "EXPIRY", 1.0)
    lock = place / ".lock"
    with folder_lock.hold(place) as held:
        holder = json.loads(lock.read_bytes())
        assert holder["process"] == str(os.getpid())
        with pytest.raises(UserError, match=f"process {os.getpid()} of .* \\(. s ago\\)"):
            folder_lock.BucketLock(place)
        held.confirm()
    assert not lock.exists()

    # ---- a holder that is gone: at once on this machine, after a while elsewhere ----
    process = subprocess.Popen(["true"])
    process.wait()
    lock.write_bytes(json.dumps(holder | {"process": str(process.pid)}).encode())
    folder_lock.BucketLock(place).release()
    monkeypatch.setattr(folder_lock, "PATIENCE", 0.2)
    lock.write_bytes(json.dumps(holder | {"host": "elsewhere", "beat": time.time()}).encode())
    began = time.monotonic()
    taken = folder_lock.BucketLock(place)
    assert time.monotonic() - began > 0.9

    # ---- and a holder that slept too long finds that it holds nothing any more ----
    taken._released.set()
    lock.write_bytes(json.dumps(holder | {"host": "elsewhere", "beat": time.time()}).encode())
    with pytest.raises(UserError, match="of elsewhere .* has taken the folder over"):
        taken.confirm()
    taken.release()
    assert lock.exists()  # it is another's


def test_of_many_writers_one_wins(store):
    path = storage.as_path(f"{store}/won")
    assert storage.read_version(path) == (b"", None)
    first = storage.write_if(path, b"a", None)
    assert first and storage.write_if(path, b"b", None) is None
    second = storage.write_if(path, b"c", first)
    assert second and storage.write_if(path, b"d", first) is None
    assert storage.read_version(path) == (b"c", second)


def test_what_a_bucket_cannot_do_is_one_line(store, monkeypatch):
    scheme = store.partition(":")[0]
    for flag, value, words in (
        ("save_dir", f"{scheme}:/bucket/run", "expected two slashes"),
        ("vae", f"{store}/vae", "a bucket is not read here"),
    ):
        with pytest.raises(UserError, match=words):
            config_lib.resolve({flag: value})
    with pytest.raises(UserError, match="no-such-bucket cannot be listed"):
        storage.as_path(f"{scheme}://no-such-bucket/run")
    done = run([("save_dir", f"{scheme}://no-such-bucket/run")])
    assert done.returncode == 2 and done.stderr.count("\n") <= 2, done.stderr
    assert "cannot be listed" in done.stderr
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="requirements-buckets.txt"):
        storage.as_path(f"{scheme}://another/run")


@pytest.mark.slow
def test_ten_kills_at_any_moment(place, straight):
    """Kills at random moments of the start, of steps and of saves."""
    before = storage.files_below(place)
    assert not before
    for _ in range(10):
        killed(place, lambda: True, delay=random.uniform(2, 12))
        assert_readable(place)
    train(place, CHANGES)
    assert_same(place, straight)

    flags = [("metrics", "fid"), ("num_samples", 40)]
    for folder in (place, straight):
        done = run([("load_dir", folder), *flags], "eval_fid.py")
        assert done.returncode == 0, done.stderr
    ours, theirs = (read_rows(folder / "fid.csv") for folder in (place, straight))
    assert scores(ours[0]) == scores(theirs[0])
    (straight / "fid.csv").unlink()


def assert_readable(folder):
    """Checks that every checkpoint that counts is whole."""
    checkpoints = Checkpoints(folder / "checkpoints")
    for step in checkpoints.steps():
        there = folder / "checkpoints" / str(step)
        assert find_damage(there, item_names(there)) is None, step
