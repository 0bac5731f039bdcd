"""With what a run goes on: its own settings and its own data, whatever the command leaves out."""

import json
import pathlib
import shlex
import shutil

import numpy as np
import pytest
from absl import flags
from conftest import share_steps
from PIL import Image
from test_train import TINY, parts_of, refusal, run_here, train

import data
from evaluation import evaluate_command, sample_command
from evaluation.flags import define_evaluation_flags, define_sampling_flags
from models.runs import load_run
from training import drift, fill_bank, mae, program
from utils import config as config_lib
from utils import sharding
from utils.checkpoint import Checkpoints
from utils.errors import UserError

PICTURES = TINY | {
    "model.name": "mlp",
    "model.hidden_size": 8,
    "model.depth": 1,
    "drift.n_neg": 2,
    "batch_size": 4,
    "drift.n_pos": 2,
    "drift.bank_push": 4,
    "drift.n_unc": 0,
    "drift.alpha_max": 1.0,
    "max_steps": 2,
    "save_interval": 2,
}


def write_pictures(folder, classes=("cat", "dog"), n=6, seed=0):
    """Writes n pictures of 8 x 8 for each class."""
    generator = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = generator.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "run"
    with pytest.MonkeyPatch.context() as patch:
        share_steps(patch)
        train(folder, {"max_steps": 8})
    return folder


@pytest.fixture
def own_run(digits_run, tmp_path):
    """A copy, to do harm to."""
    return shutil.copytree(digits_run, tmp_path / "run")


def train_on(pictures, folder, **changes):
    """Trains a few steps on a folder of pictures, in this process."""
    name = f"folder:{pictures}"
    given = PICTURES | {"dataset_name": name, "save_dir": str(folder)} | changes
    config = config_lib.resolve(given | {"mesh.devices": 1})
    parts = drift.build(config, data.load(name), sharding.make_mesh(1, 1))
    drift.train(parts, drift.open_run(parts.config))


# ---------------------------------------------------------------- its settings


@pytest.mark.parametrize("job", [drift.DriftJob, mae.MAEJob])
@pytest.mark.usefixtures("shared_steps")
def test_a_run_without_a_checkpoint_goes_on_with_its_settings(tmp_path, job):
    """A run that was stopped before its first checkpoint has a config.json and nothing else."""
    given = {"dataset_name": "mnist_5k", "save_dir": str(tmp_path), "seed": 7}
    config = config_lib.resolve(given, schema=job.schema)
    config_lib.save_json(config, tmp_path / "config.json")

    flag_values = config_lib.define_flags(flag_values=flags.FlagValues(), schema=job.schema)
    config_lib.parse(["program", f"--save_dir={tmp_path}"], flag_values)
    found, saved, _ = program.configure(job, flag_values)
    assert (found.dataset_name, found.seed) == ("mnist_5k", 7) and saved is not None

    found.dataset_name = "digits"  # its recipe would not be that of these settings
    with pytest.raises(UserError, match="dataset_name = mnist_5k"):
        job.open_run(found)


@pytest.mark.usefixtures("shared_steps")
def test_a_refused_start_leaves_no_settings(digits_run, tmp_path):
    """The next command in its folder would go on with them, and be refused as well."""
    refused = {"load_dir": str(digits_run), "model.depth": 3, "model.num_heads": 1}
    all_at_once = (
        "model.depth = 1, model.num_heads = 2, but model.depth = 3, model.num_heads = 1 was"
    )
    with pytest.raises(UserError, match=all_at_once):
        train(tmp_path, refused)
    assert not (tmp_path / "config.json").exists()

    config_lib.save_json(config_lib.resolve(TINY), tmp_path / "config.json")
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match=all_at_once):
        train(tmp_path, refused)
    assert (tmp_path / "config.json").read_text() == before


@pytest.mark.parametrize(
    "had, wanted",
    [
        ({"optim.ema": (0.9, 0.99), "model.clip_output": True}, {"model.depth": 2}),
        ({"encoder.path": "", "model.depth": 5}, {"encoder.path": "/my runs/mae"}),
        ({"encoder.path": "/my runs/mae"}, {}),
        ({"objective": "flow", "model.noise_classes": 0}, {"encoder.name": "whiten"}),
        ({"encoder.cache": "on", "drift.bank_per_class": 16}, {"data.flip": True}),
    ],
)
def test_what_a_refused_run_says_gives_its_settings_back(had, wanted):
    """Whatever the type of a setting, and with spaces in it."""
    had, wanted = config_lib.resolve(TINY | had), config_lib.resolve(TINY | wanted)
    before = json.loads(json.dumps(had.to_dict()))
    with pytest.raises(UserError) as error:
        drift.DriftJob.check_same_run(before, wanted, pathlib.Path("run"))
    words = shlex.split(str(error.value).partition("give another --save_dir, or ")[2])

    given = config_lib.define_flags(flag_values=flags.FlagValues())
    given = config_lib.given_flags(config_lib.parse(["program", *words], given))
    assert given and given.items() <= config_lib.flatten(had).items()
    assert not given.items() & config_lib.flatten(wanted).items()


def test_settings_that_a_run_may_change():
    """They begin like others that it may not."""
    had = {"drift.field": "frechet", "drift.moments": "all", "drift.moments_file": "a.npz"}
    wanted = {"drift.moments_file": "b.npz", "encoder.cache_budget_gb": 5.0, "data.flip": True}
    had, wanted = config_lib.resolve(TINY | had), config_lib.resolve(TINY | had | wanted)
    drift.DriftJob.check_same_run(had.to_dict(), wanted, pathlib.Path("run"))


def test_too_few_could_be_read_for_a_step():
    parts = parts_of({"drift.n_unc": 150, "drift.alpha_max": 3.0})
    fill_bank.check_what_was_read(parts, np.full(10, 15), 150)
    with pytest.raises(UserError, match=r"--drift.n_unc 150: only 140 samples"):
        fill_bank.check_what_was_read(parts, np.full(10, 14), 140)
    with pytest.raises(UserError, match=r"--drift.n_pos all: class '3' of digits has 0 samples"):
        fill_bank.check_what_was_read(parts, 100 * (np.arange(10) != 3), 900)


@pytest.mark.usefixtures("shared_steps")
def test_a_run_that_is_through_is_no_start(digits_run, tmp_path):
    with pytest.raises(UserError, match="at step 8, and --max_steps 8 was asked for"):
        train(tmp_path, {"load_dir": str(digits_run), "max_steps": 8})
    assert not (tmp_path / "config.json").exists()


def test_a_run_of_the_other_trainer_is_no_start(digits_run):
    config = config_lib.nest({"load_dir": str(digits_run)})
    program.check_load_dir(config, drift.DriftJob.schema)
    with pytest.raises(UserError, match=r"is of a run of train_drift\.py"):
        program.check_load_dir(config, mae.MAEJob.schema)


@pytest.mark.usefixtures("shared_steps")
def test_a_finished_run_stores_no_setting_that_does_not_work(own_run):
    before = (own_run / "config.json").read_text()
    for flag, value in (("features", "nope"), ("fid_stats", "/nowhere.npz")):
        assert f"--{flag} {value}" in refusal([("save_dir", own_run), (flag, value)])
    run_here([("save_dir", own_run), ("features", "vit")])  # nothing is trained, so nothing kept
    assert (own_run / "config.json").read_text() == before


def test_a_home_folder_is_the_home_folder_for_every_program(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = config_lib.resolve(
        {"save_dir": "~/run", "dataset_name": "folder:~/x", "encoder.path": "a,~/b"}
    )
    assert config.save_dir == f"{tmp_path}/run"
    assert config.dataset_name == f"folder:{tmp_path}/x"
    assert config.encoder.path == f"a,{tmp_path}/b"
    for flag, bad, words in (
        ("save_dir", "s3:/bucket/run", "expected two slashes"),
        ("vae", "gs://bucket/vae", "a bucket is not read here"),
        ("dataset_name", "tfds:gs://x", "a bucket is not read here"),
    ):
        with pytest.raises(UserError, match=f"--{flag}={bad}: .*{words}"):
            config_lib.resolve({flag: bad})


@pytest.mark.parametrize("place, step", [("checkpoints/2", " --step 2"), ("checkpoints", "")])
def test_a_checkpoint_leads_to_its_run(tmp_path, place, step):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / "config.json").write_text("{}")
    words = ["program", f"--load_dir={tmp_path / place}"]
    for command, define_flags in (
        (sample_command, define_sampling_flags),
        (evaluate_command, define_evaluation_flags),
    ):
        with pytest.raises(UserError) as error:
            command.main(config_lib.parse(words, define_flags(flags.FlagValues())))
        assert str(error.value).endswith(f"give --load_dir {tmp_path}{step}")


# ---------------------------------------------------------------- its checkpoints


def damage(folder, item):
    """Flips a byte in the middle of the largest file of an item."""
    files = [file for file in (folder / item).rglob("*") if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    largest.write_bytes(content[:-1])


def test_a_damaged_bank_is_no_loss_to_those_who_want_parameters(own_run):
    damage(own_run / "checkpoints" / "8", "bank")
    newest = load_run(own_run)[2]
    assert newest["step"] == 8

    damage(own_run / "checkpoints" / "8", f"ema_{newest['ema']}")
    assert load_run(own_run)[2]["step"] == 4
    with pytest.raises(UserError, match=r"damaged: step 8 .*; choose one of \[4\],"):
        load_run(own_run, step=8)


# ---------------------------------------------------------------- its data


@pytest.mark.usefixtures("shared_steps")
def test_a_run_goes_on_with_its_data_wherever_they_are(tmp_path, caplog):
    old = write_pictures(tmp_path / "old")
    folder = tmp_path / "run"
    train_on(old, folder)

    new = tmp_path / "new"
    shutil.move(old, new)
    with caplog.at_level("INFO"):
        train_on(new, folder, max_steps=4)
    assert "the same data by its checksum" in caplog.text
    assert Checkpoints(folder / "checkpoints").latest() == 4
    assert json.loads((folder / "config.json").read_text())["dataset_name"] == f"folder:{new}"

    other = write_pictures(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="cannot stand in"):
        train_on(other, folder, max_steps=6)
    fewer = write_pictures(tmp_path / "fewer", n=5)
    with pytest.raises(UserError, match="12 samples then and 10 now"):
        train_on(fewer, folder, max_steps=6)


@pytest.mark.usefixtures("shared_steps")
def test_classes_keep_their_meaning(tmp_path):
    pictures, folder = write_pictures(tmp_path / "pictures"), tmp_path / "run"
    train_on(pictures, folder)
    (pictures / "cat").rename(pictures / "emu")
    with pytest.raises(UserError, match="2 classes are cat, dog, but the data now has 2: dog, emu"):
        train_on(pictures, folder, max_steps=4)
    (pictures / "emu").rename(pictures / "cat")
    write_pictures(pictures, classes=["ant"])
    with pytest.raises(UserError, match="now has 3: ant, cat, dog"):
        train_on(pictures, folder, max_steps=4)


# ---------------------------------------------------------------- numbers that cannot be


@pytest.mark.parametrize(
    "flag, value, words",
    [
        ("model.depth", "1e30", "in [1, 1000]"),
        ("batch_size", "1e18", "in [1, 1048576]"),
        ("eval_samples", "1e13", "at most 2147483647"),
        ("distributed.coordinator", "localhost:99999", "from 1 to 65535"),
        ("model.hidden_size", "65536", "GB of memory"),
    ],
)
def test_numbers_are_checked_against_what_can_be(tmp_path, flag, value, words):
    given = TINY | {"save_dir": tmp_path, flag: value}
    if flag.startswith("distributed"):
        given |= {"distributed.processes": 2, "distributed.process": 0}
    if flag == "model.hidden_size":
        given |= {"model.depth": 1000}
    assert words in refusal(given.items())
