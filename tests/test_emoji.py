"""The folder of emoji that benchmarks make: which emoji, and what a reader finds in it."""

import pathlib

import pytest
from PIL import Image

import data
from benchmarks import emoji
from utils import config as config_lib

LINES = """# group: Smileys & Emotion
1F600            ; fully-qualified     # 😀 E1.0 grinning face
263A             ; unqualified         # ☺ E0.6 smiling face
# group: People & Body
1F44B            ; fully-qualified     # 👋 E0.6 waving hand
1F44B 1F3FB      ; fully-qualified     # 👋🏻 E1.0 waving hand: light skin tone
# group: Component
1F3FB            ; component           # 🏻 E1.0 light skin tone
# group: Flags
1F1E8 1F1EE      ; fully-qualified     # 🇨🇮 E2.0 flag: Côte d’Ivoire
"""


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "emoji-test.txt"
    file.write_text(LINES, encoding="utf-8")
    return str(file)


def test_the_table_is_read_without_skin_tones(table):
    groups = [(found.group, found.name) for found in emoji.read_table(table)]
    assert groups == [
        ("Smileys & Emotion", "grinning face"),
        ("People & Body", "waving hand"),
        ("Component", "light skin tone"),
        ("Flags", "flag: Côte d’Ivoire"),
    ]


@pytest.mark.skipif(not pathlib.Path(emoji.FONT).is_file(), reason="no fonts-noto-color-emoji")
def test_the_trainer_sees_an_ordinary_folder(table, tmp_path):
    pictures = emoji.draw_all(emoji.read_table(table), emoji.FONT, 32)
    emoji.write(pictures, tmp_path / "emoji", held_out=0)
    options = config_lib.resolve({}).data
    dataset = data.load(f"folder:{tmp_path}/emoji", "train", options)
    assert dataset.class_names == ("component", "flags", "people_body", "smileys_emotion")
    assert dataset.counts == (1, 1, 1, 1) and dataset.shape == (32, 32, 3)
    face = dataset.samples[3]["image"]
    assert (face[0, 0] == 255).all()  # transparent, so white
    red, green, blue = face[10, 16]
    assert red > 200 and green > 150 and blue < 100  # and the forehead is yellow


def test_a_tenth_is_held_out_of_each_class(tmp_path):
    picture = Image.new("RGBA", (4, 4))
    pictures = {"a": {f"n{i}": picture for i in range(20)}, "b": {"one": picture}}
    emoji.write(pictures, tmp_path, held_out=0.1)
    assert len(list((tmp_path / "test" / "a").iterdir())) == 2
    assert len(list((tmp_path / "train").rglob("*.png"))) == 19
