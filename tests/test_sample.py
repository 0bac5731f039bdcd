"""sample.py and the loading of runs, on a tiny run of real data."""

import pathlib

import numpy as np
import pytest
from absl.flags import FlagValues
from conftest import share_steps
from PIL import Image
from test_train import DIT, TINY, records, same_bits, train

import data
from configs.default import OF_TRAINERS
from evaluation import sample_command
from evaluation.fid_csv import read_rows
from evaluation.flags import define_sampling_flags
from models.export import export_run
from models.runs import load_run
from models.sampling import generate
from models.weights import load_generator
from training import drift
from utils import config as config_lib
from utils import sharding
from utils.errors import UserError

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    changes = {"max_steps": 8, "eval_interval": 4, "sample_interval": 4}
    with pytest.MonkeyPatch.context() as patch:
        share_steps(patch)
        train(folder, DIT | changes | {"model.class_dropout_prob": 0.2})
    return folder


def main(**given):
    """Runs the command of sample.py in this process."""
    words = [f"--{name}={value}" for name, value in given.items()]
    values = define_sampling_flags(FlagValues())
    sample_command.main(config_lib.parse(["sample.py", *words], values))


def test_a_run_loads_by_its_folder(run):
    model, params, metadata = load_generator(str(run))
    assert metadata["step"] == 8 and metadata["ema"] == "0.99" and model.null_class
    kernel = np.asarray(params["patch_embedding"]["kernel"])
    for other in (load_run(run, ema="raw")[1], load_run(run, 4)[1]):
        assert (np.asarray(other["patch_embedding"]["kernel"]) != kernel).any()
    with pytest.raises(UserError, match="0.5.*0.99"):
        load_run(run, ema="0.5")
    with pytest.raises(UserError, match="no checkpoint of step 7"):
        load_run(run, 7)


def test_sample_i_depends_on_seed_and_i_alone(run):
    model, params, _ = load_generator(run)
    labels = np.arange(20) % 10

    def samples(labels, seed, **settings):
        return np.concatenate(list(generate(model, params, labels, 1.0, seed, **settings)))

    whole = samples(labels, 3, batch_size=20)
    np.testing.assert_allclose(samples(labels, 3, batch_size=7), whole, atol=1e-5)
    later = samples(labels[5:9], 3, first=5, batch_size=4)
    np.testing.assert_allclose(later, whole[5:9], atol=1e-5)
    assert np.abs(samples(labels, 4, batch_size=20) - whole).max() > 0.1


def test_grid_sweep_comparison_files(run, tmp_path):
    main(load_dir=run)
    assert Image.open(run / "samples" / "grid.png").size[0] > 400
    sweep = {"classes": "3,10", "cfg_scale": "1,2", "per_class": 3}
    main(load_dir=run, **sweep, compare=True, out=tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").exists()
    main(load_dir=run, num_samples=12, out=tmp_path / "x.npz")
    main(load_dir=run, num_samples=12, out=tmp_path / "pngs", sample_batch_size=5)
    arrays = np.load(tmp_path / "x.npz")
    images = arrays["arr_0"]
    assert images.shape == (12, 8, 8, 1) and images.dtype == np.uint8
    assert arrays["arr_1"].tolist() == [*range(10), 0, 1]
    files = sorted((tmp_path / "pngs").iterdir())
    assert [file.name for file in files][:2] == ["000000_0.png", "000001_1.png"]
    in_files = np.stack([np.asarray(Image.open(file)) for file in files]).astype(int)
    assert np.abs(in_files - images[..., 0]).max() <= 1


@pytest.mark.parametrize(
    "given, word",
    [
        ({"load_dir": ""}, "load_dir"),
        ({"load_dir": "nowhere"}, "nowhere"),
        ({"classes": "11"}, "labels 0 to 9, and 10"),
        ({"classes": "a"}, "comma"),
        ({"num_samples": 3, "out": "x.gif"}, "npz"),
        ({"out": "x.npz"}, "png"),
        ({"num_samples": 3, "cfg_scale": "1,2"}, "grid"),
        ({"load_dir": GOLDEN / "latent_tiny", "latents": 1}, "samples.npz"),
        ({"load_dir": GOLDEN / "latent_tiny", "vae": "/no/vae"}, "--vae names another place"),
        ({"load_dir": GOLDEN / "pixel_tiny", "ema": "raw"}, "--ema"),
        ({"ema": "0.5"}, "0.99"),
    ],
)
def test_mistakes(run, given, word):
    with pytest.raises(UserError, match=word):
        main(**{"load_dir": run} | given)


def test_published_artifact_starts_a_run(run, tmp_path):
    """--init_from a run or an artifact; its weights are the first parameters."""
    assert export_run(run, tmp_path / "artifact") == "generator"
    for source in (run, tmp_path / "artifact"):
        changes = DIT | {"model.class_dropout_prob": 0.2, "init_from": str(source)}
        parts = drift.build(
            config_lib.resolve(TINY | changes),
            data.load("digits"),
            sharding.make_mesh(1, 1),
        )
        state = drift.make_state(parts)
        np.testing.assert_array_equal(
            state.params["patch_embedding"]["kernel"],
            load_generator(source)[1]["patch_embedding"]["kernel"],
        )


def test_an_export_is_the_chosen_average_and_makes_the_same_samples(run, tmp_path):
    export_run(run, tmp_path / "raw", 4, "raw")
    _, params, facts = load_generator(tmp_path / "raw")
    same_bits(params, load_run(run, 4, "raw")[1])
    assert (facts["step"], facts["ema"], facts["ema_decay"]) == (4, "raw", 0.0)
    export_run(run, tmp_path / "first")
    assert load_generator(tmp_path / "first")[2]["ema_decay"] == 0.99
    of_run, of_export = tmp_path / "run.npz", tmp_path / "export.npz"
    main(load_dir=run, num_samples=4, out=of_run)
    main(load_dir=tmp_path / "first", num_samples=4, out=of_export)
    np.testing.assert_array_equal(np.load(of_run)["arr_0"], np.load(of_export)["arr_0"])
    main(load_dir=tmp_path / "first", per_class=2, compare=True)
    with pytest.raises(UserError, match="not the folder of a run"):
        export_run(tmp_path / "first", tmp_path / "again")


@pytest.mark.usefixtures("shared_steps")
def test_a_run_goes_on_with_its_own_settings(run, tmp_path):
    """The flags of the first command need not be repeated; --load_dir goes on elsewhere."""
    folder = tmp_path / "b"

    def command(given):
        words = [f"--{name}={value}" for name, value in given.items()]
        values = config_lib.define_flags(extra=OF_TRAINERS, flag_values=FlagValues())
        drift.main(config_lib.parse(["train_drift.py", *words], values))

    first = TINY | DIT | {"load_dir": run, "save_dir": folder, "mesh.devices": 1, "max_steps": 10}
    first["optim.ema"] = 0.99
    command(first | {"model.class_dropout_prob": 0.2})
    assert [record["step"] for record in records(folder)] == [9, 10]
    command({"save_dir": folder, "max_steps": 12})
    assert [record["step"] for record in records(folder)] == [9, 10, 11, 12]
    with pytest.raises(UserError, match="seed"):
        command({"save_dir": folder, "max_steps": 14, "seed": 5})
    assert config_lib.from_json(folder / "config.json").max_steps == 12


def test_the_first_average_that_was_named_is_scored(tmp_path):
    """In the trainer as in `load_run`, also when it is not the smallest."""
    train(tmp_path, {"max_steps": 2, "eval_interval": 2, "optim.ema": (0.999, 0.5)})
    (row,) = read_rows(tmp_path / "fid.csv")
    assert row["ema"] == load_run(tmp_path)[2]["ema"] == "0.999"
