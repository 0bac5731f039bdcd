"""What people's data look like: layouts, labels and columns that can be taken for others."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from test_data import file_of, message, parquet, pictures, prepare_tfds

import data
from data import pipeline
from data.images import to_mode
from evaluation.image_files import batches, read_images
from utils.errors import UserError

SIDE = 8


def picture(seed=0, mode="RGB"):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).convert(mode)


def write(root, *places, n=2):
    """Writes n pictures into each of the folders."""
    for number, place in enumerate(places):
        (root / place).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            picture(10 * number + i).save(root / place / f"{i}.png")
    return root


def classes_of(root, split="train", **options):
    return data.load(f"folder:{root}", split, options).class_names


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize(
    "train, held_out", [("training", "testing"), ("Train", "Test"), ("train", "Validation")]
)
def test_known_spellings_of_splits(tmp_path, train, held_out):
    places = [f"{part}/{name}" for part in (train, held_out) for name in ("cat", "dog")]
    write(tmp_path, *places)
    for split in ("train", "test"):
        found = data.load(f"folder:{tmp_path}", split)
        assert (found.class_names, found.split) == (("cat", "dog"), split)
        assert found.counts == (2, 2)
        assert data.load(f"folder:{tmp_path}", split, {"label_column": "none"}).counts == (4,)


def test_a_held_out_split_without_classes(tmp_path):
    """It does where labels are not wanted; and where dataset.json has them."""
    write(tmp_path, "train/cat", "train/dog", "test")
    assert data.load(f"folder:{tmp_path}", "test").split == "train"
    assert data.load(f"folder:{tmp_path}", "test", {"label_column": "none"}).counts == (2,)

    for split, labels in (("train", [4, 5]), ("val", [5])):
        write(tmp_path / "edm", f"{split}/00000", n=len(labels))
        rows = [[f"00000/{i}.png", label] for i, label in enumerate(labels)]
        (tmp_path / "edm" / split / "dataset.json").write_text(json.dumps({"labels": rows}))
    assert data.load(f"folder:{tmp_path / 'edm'}", "test").counts == (0, 1)


@pytest.mark.parametrize(
    "places, words",
    [
        (["val/cat", "val/dog"], "no folder train: to learn from it give folder:{root}/val"),
        (["MyData/cat", "MyData/dog"], "give folder:{root}/MyData for those"),
        (["MyData/train/cat", "MyData/train/dog"], "give folder:{root}/MyData for those"),
        (["cat", "dog", "test"], "test in {root} may be a split or, like cat, a class"),
        (["train/cat", "training/cat"], "may both be the training split"),
    ],
)
def test_what_can_be_read_in_two_ways_is_said(tmp_path, places, words):
    write(tmp_path, *places)
    error = message(data.load, f"folder:{tmp_path}")
    assert words.format(root=tmp_path) in error
    advised = error.partition("give folder:")[2].split()[0].rstrip(",:;") if "give" in error else ""
    if advised:  # What is advised is not refused itself.
        assert data.load(f"folder:{advised}").samples


def test_storage_folders_are_no_classes(tmp_path):
    files = [f"{i // 2:05d}/img{i:08d}.png" for i in range(6)]
    for i, file in enumerate(files):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        picture(i).save(tmp_path / file)
    assert "look like those of StyleGAN" in message(data.load, f"folder:{tmp_path}")
    assert classes_of(tmp_path, label_column="none") == ("all",)

    labels = [3, 7, 3, 7, 7, 3]
    content = {"labels": [list(pair) for pair in zip(files, labels, strict=True)]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    found = data.load(f"folder:{tmp_path}")
    assert (found.class_names, found.counts) == (("3", "7"), (3, 3))
    images, numbers = pipeline.everything(found)
    assert numbers.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(images[3], np.asarray(picture(1)))

    (tmp_path / "dataset.json").write_text(json.dumps({"labels": None}))
    assert classes_of(tmp_path) == ("all",)


def test_tiny_imagenet_as_its_authors_pack_it(tmp_path):
    write(tmp_path, "train/n01/images", "train/n02/images", "val/images", "test/images")
    (tmp_path / "wnids.txt").write_text("n02\nn01\n")
    rows = ["0.png\tn02\t0\t0\t9\t9", "1.png\tn01\t0\t0\t9\t9"]
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    for split, counts in (("train", (2, 2)), ("test", (1, 1))):
        found = data.load("tiny_imagenet", split, {"dir": str(tmp_path)})
        assert (found.class_names, found.counts, found.split) == (("n01", "n02"), counts, split)


def test_empty_classes_are_left_out(tmp_path, caplog):
    write(tmp_path, "train/a", "train/c", "val/a", "val/b", "val/c")
    (tmp_path / "train" / "b").mkdir()
    for split in ("train", "test"):
        found = data.load(f"folder:{tmp_path}", split)
        assert (found.class_names, found.counts) == (("a", "c"), (2, 2))
    assert "classes without samples are left out: b" in caplog.text


# ---------------------------------------------------------------- tables


def files_of(n):
    return [{"bytes": file_of(picture(i)), "path": None} for i in range(n)]


@pytest.mark.parametrize("streaming", [0, 1])
def test_labels_that_start_at_one(tmp_path, streaming):
    parquet(tmp_path, {"image": files_of(6), "label": [1, 2, 3, 1, 2, 3]})
    found = data.load(f"hf:{tmp_path}", "train", {"streaming": streaming})
    assert found.class_names == ("1", "2", "3")
    assert sorted(int(found.samples[i]["label"]) for i in range(6)) == [0, 0, 1, 1, 2, 2]

    parquet(tmp_path, {"image": files_of(2), "label": [2, 3]}, name="test.parquet")
    found = data.load(f"hf:{tmp_path}", "test", {"streaming": streaming})
    assert found.class_names == ("1", "2", "3")
    assert [int(found.samples[i]["label"]) for i in range(2)] == [1, 2]


def test_a_streamed_split_with_labels_that_training_has_not(tmp_path):
    parquet(tmp_path, {"image": files_of(3), "label": [0, 1, 1]})
    parquet(tmp_path, {"image": files_of(2), "label": [1, 2]}, name="test.parquet")
    said = message(data.load, f"hf:{tmp_path}", "test", {"streaming": 1})
    assert "labels from 1 to 2 in this split, and from 0 to 1 in the training split" in said


def test_classes_of_the_training_split_count(tmp_path, caplog):
    import datasets

    names = datasets.ClassLabel(names=["x", "empty", "z"])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    parquet(tmp_path, {"image": files_of(4), "label": [0, 2, 2, 0]}, features)
    parquet(tmp_path, {"image": files_of(3), "label": [2, 1, 0]}, features, "test.parquet")
    found = data.load(f"hf:{tmp_path}", "test")
    assert (found.class_names, found.counts) == (("x", "z"), (1, 1))
    assert "classes without samples are left out: empty" in caplog.text
    assert "1 samples of classes that the training split does not have" in caplog.text


@pytest.mark.parametrize(
    "columns, options, words",
    [
        ({"label": [0, None, 1, 0]}, {}, "no label in 1 of 4 rows, row 1 first"),
        ({"image": ["a/0.png", "a/1.png", "a/2.png", "a/3.png"]}, {}, "holds text, such as 'a/0"),
        ({"image": [[[-1.0]], [[0.5]], [[1.0]], [[0.0]]]}, {}, "pixels from -1 to 1"),
        ({"image": [None] * 4}, {}, "has no image in 4 rows"),
    ],
)
def test_what_a_column_holds_is_looked_at(tmp_path, columns, options, words):
    parquet(tmp_path, {"image": files_of(4), "label": [0, 1, 1, 0]} | columns)
    assert words in message(data.load, f"hf:{tmp_path}", "train", options)


def test_floats_from_zero_to_one_are_pixels(tmp_path, caplog):
    image = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
    parquet(tmp_path, {"image": [image.tolist()] * 2, "label": [0, 1]})
    found = data.load(f"hf:{tmp_path}").samples[0]["image"]
    np.testing.assert_array_equal(found[..., 0], np.round(image * 255).astype(np.uint8))
    assert "multiplied by 255" in caplog.text


def test_an_empty_parquet_file_is_said_so(tmp_path):
    parquet(tmp_path, {"image": [], "label": []}, None)
    for streaming in (0, 1):
        error = message(data.load, f"hf:{tmp_path}", "train", {"streaming": streaming})
        assert "no rows" in error or "empty" in error or "no column" in error, error


def test_files_that_the_library_would_leave_out_are_named(tmp_path):
    write(tmp_path, "one", n=3)
    picture().save(tmp_path / "one" / "test_1.png")
    error = message(data.load, f"hf:{tmp_path}")
    assert "reads 1 of 4 files" in error and error.endswith(f"give folder:{tmp_path}")
    assert len(data.load(f"folder:{tmp_path}/one").samples) == 4


def test_the_only_split_is_named(tmp_path):
    parquet(tmp_path, {"image": files_of(2), "label": [0, 1]}, None, "test.parquet")
    error = message(data.load, f"hf:{tmp_path}")
    assert error.endswith("give --data.split test")
    assert len(data.load(f"hf:{tmp_path}", "test").samples) == 2


# ---------------------------------------------------------------- TFDS


def test_one_of_several_configurations(tmp_path):
    root = tmp_path / "odd"
    made = prepare_tfds(tmp_path / "made", pictures())
    for config in ("first", "second"):
        shutil.copytree(made, root / config / "1.0.0")
    options = {"dir": str(tmp_path)}
    assert "configurations first, second; pick one with --data.config" in message(
        data.load, "tfds:odd", "train", options
    )
    assert data.load("tfds:odd", "train", options | {"config": "second"}).counts == (4, 4, 4)
    (root / ".config").mkdir()
    (root / ".config" / "metadata.json").write_text('{"default_config_name": "second"}')
    read = data.load("tfds:odd", "train", options).samples.read
    assert "/second/" in read.folder


def test_texts_are_classes_where_they_are_asked_for(tmp_path):
    made = prepare_tfds(tmp_path, pictures())
    found = data.load(f"tfds:{made}", "train", {"label_column": "name"})
    assert found.class_names == tuple(sorted(str(i) for i in range(12)))
    assert found.counts == (1,) * 12
    assert sorted(int(found.samples[i]["label"]) for i in range(12)) == list(range(12))


# ---------------------------------------------------------------- one reader of images


def with_transparency(i):
    image = picture(i, "RGBA")
    image.putalpha(Image.fromarray(np.full((SIDE, SIDE), 40 * i, np.uint8)))
    return image, "png", {}


def turned(i):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    return picture(i), "png", {"exif": exif}


def sixteen_bits(i):
    values = np.random.default_rng(i).integers(0, 65536, (SIDE, SIDE)).astype(np.uint16)
    return Image.fromarray(values), "png", {}


def sixteen_bits_with_a_clear_grey(i):
    values = np.random.default_rng(i).integers(0, 65536, (SIDE, SIDE)).astype(np.uint16)
    values[0] = 900
    return Image.fromarray(values), "png", {"transparency": 900}


def test_clear_pixels_are_white_and_others_keep_their_colour(tmp_path):
    image, _, options = sixteen_bits_with_a_clear_grey(0)
    image.save(tmp_path / "0.png", **options)
    pixels = read_images(tmp_path)[0]
    assert (pixels[0] == 255).all() and pixels[1:].std() > 20
    lab = Image.new("LAB", (2, 2), (120, 180, 60))
    assert to_mode(lab, "RGB").getpixel((0, 0)) == lab.convert("RGB").getpixel((0, 0))
    assert to_mode(lab, "L").getpixel((0, 0)) == lab.convert("RGB").convert("L").getpixel((0, 0))


def grey_among_colours(i):
    return picture(i, "L" if i % 2 else "RGB"), ("tif", "gif", "png")[i % 3], {}


KINDS = [with_transparency, turned, sixteen_bits, grey_among_colours]


@pytest.mark.parametrize("make", KINDS)
def test_evaluation_reads_what_a_data_set_reads(tmp_path, make):
    """So the distance of a folder to itself is 0, whatever the files are."""
    for i in range(6):
        image, suffix, options = make(i)
        image.save(tmp_path / f"{i}.{suffix}", **options)
    (tmp_path / "._0.png").write_bytes(b"\x00\x05\x16\x07")  # of macOS
    (tmp_path / ".ipynb_checkpoints").mkdir()
    picture().save(tmp_path / ".ipynb_checkpoints" / "0-checkpoint.png")

    learned, _ = pipeline.everything(data.load(f"folder:{tmp_path}"))
    found = read_images(tmp_path)
    (scored,) = batches(found, range(len(found)), 100)
    np.testing.assert_array_equal(scored, learned)
    assert scored.std() > 20  # and no two kinds are clipped to the same white


def test_two_arrays_of_images_are_not_scored_by_halves(tmp_path):
    images = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    np.savez(tmp_path / "two.npz", images, images)
    with pytest.raises(UserError, match=r"several arrays may be the images \(arr_0, arr_1\)"):
        read_images(tmp_path / "two.npz")
