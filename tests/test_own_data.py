"""People's own data: what is chosen for a folder of pictures, why, and what goes over it."""

import numpy as np
import pytest
from PIL import Image

import data
from data.look import look_at
from evaluation import networks
from training import own_data, program
from training.drift import DriftJob
from utils import config as config_lib
from utils import sharding
from utils.errors import UserError

GPU = own_data.Machine(is_cpu=False, devices=1, bytes_per_device=24e9)


def picture(width, height, mode="RGB", seed=0):
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), np.uint8)
    return Image.fromarray(values, mode)


@pytest.fixture
def folder(tmp_path):
    """Two classes: drawings of several sizes, one of them grey, and three transparent ones."""
    (tmp_path / "cats").mkdir()
    (tmp_path / "dogs").mkdir()
    for i in range(9):
        picture(60 + i, 70, "L" if i == 0 else "RGB", i).save(tmp_path / "cats" / f"{i}.png")
    for i in range(3):
        picture(90, 64, "RGBA", i).save(tmp_path / "dogs" / f"{i}.png")
    return tmp_path


def parse(*words):
    import absl.flags

    flag_values = config_lib.define_flags(flag_values=absl.flags.FlagValues())
    return config_lib.parse(["program", *words], flag_values)


def choices_of(folder, **given):
    return own_data.choose({"dataset_name": f"folder:{folder}"} | given)


def test_a_folder_is_looked_at(folder):
    options = config_lib.resolve({"data.image_size": 32}).data
    look = look_at(data.load(f"folder:{folder}", "train", options))
    assert look.count == 12 and look.common_size is None and look.median_side == 64
    assert (look.grey, look.transparent, look.photographs) == (1, 3, 0)
    assert look_at(data.load("digits")) is None


def test_what_is_chosen_and_why(folder):
    choices = choices_of(folder)
    settings = own_data.merged(choices)
    assert settings["data.image_size"] == 64
    assert settings["data.flip"] is False
    assert settings["model.clip_output"] is True and settings["model.clip_margin"] == 2
    assert settings["model.refine_channels"] == 32
    assert settings["batch_size"] == 2 * settings["drift.n_neg"]
    assert settings["drift.n_pos"] == "all"
    (text,) = own_data.explain(choices)
    assert "of 10 sizes, such as 60x70, 90x64, 3 of 12 transparent, which are laid on" in text
    assert "1 of 12 grey, which become colour" in text
    assert "Class 'dogs' has 3 images, and 1 more have fewer than 64: expect copies" in text


def test_photographs_are_mirrored_and_not_clipped_but_not_digits(tmp_path):
    for name in ("0", "1", "2"):
        (tmp_path / "digits" / name).mkdir(parents=True)
        picture(32, 32).save(tmp_path / "digits" / name / "a.jpg")
    (tmp_path / "photos" / "beach").mkdir(parents=True)
    picture(32, 32).save(tmp_path / "photos" / "beach" / "a.jpg")
    photos = own_data.merged(choices_of(tmp_path / "photos"))
    assert photos["data.flip"] is True and not {"model.clip_output", "model.refine_channels"} & set(
        photos
    )
    digits = own_data.merged(choices_of(tmp_path / "digits"))
    assert digits["data.flip"] is False and digits["model.clip_output"] is True


def test_the_machine_counts(folder, monkeypatch):
    monkeypatch.setattr(own_data, "machine_of", lambda config: GPU)
    monkeypatch.setattr(own_data, "encoder_at_hand", lambda channels: ("dinov2", "at hand"))
    settings = own_data.merged(choices_of(folder))
    assert settings["model.preset"] == "small"
    assert settings["model.patch_size"] == 4  # 16 across an image
    assert settings["encoder.name"] == "dinov2"
    assert settings["max_steps"] == 20_000


@pytest.mark.parametrize(("side", "nearest"), [(8, 32), (40, 32), (48, 64), (100, 128), (999, 256)])
def test_the_nearest_side(side, nearest):
    assert own_data.nearest_side(side) == nearest


def test_flags_and_recipes_go_over_the_choice(folder):
    name = f"folder:{folder}"
    flags = parse("--dataset_name", name, "--batch_size", "48", "--max_steps", "7")
    config, _, choices = program.configure(DriftJob, flags)
    assert choices and config.data.image_size == 64
    assert (config.batch_size, config.drift.n_neg, config.max_steps) == (48, 24, 7)
    assert program.configure(DriftJob, parse("--dataset_name", name, "--recipe", "none"))[2] == []
    assert program.configure(DriftJob, parse("--dataset_name", "digits"))[2] == []
    with pytest.raises(UserError, match="is not a folder"):
        program.configure(DriftJob, parse("--dataset_name", "folder:/no/such"))


@pytest.mark.parametrize("batch", [2, 3, 10, 37, 64, 250])
def test_any_batch_size_divides(folder, batch):
    settings = own_data.merged(choices_of(folder, batch_size=batch))
    config = config_lib.resolve({"dataset_name": f"folder:{folder}"}, chosen=settings)
    assert config.batch_size == batch
    DriftJob.build(config, sharding.make_mesh(1, 1))  # raises for what does not fit


def test_scores_fall_back_with_a_line(monkeypatch, caplog):
    loaded = networks.load_network

    def without(*missing):
        def load(name, resize, weights):
            if name.partition(":")[0] in missing:
                raise UserError(f"cannot fetch {name}")
            return loaded("pixels", "", "") if name != "pixels" else loaded(name, resize, weights)

        return load

    monkeypatch.setattr(networks, "load_network", without("inception", "efficientnet"))
    assert networks.load_usual_network("inception", "", "").name == "pixels"
    assert "cannot fetch inception. Until then scores are of pixels" in caplog.text
    with pytest.raises(UserError, match="cannot fetch inception"):
        networks.load_usual_network("inception", "", "/my/weights")
