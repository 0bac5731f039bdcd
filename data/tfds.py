"""Data sets that TensorFlow Datasets has prepared, read without TensorFlow.

`tfds:name` and `tfds:/data_dir/name/version`. Records lie in array_record or TFRecord files, and
both are read at random. In a TFRecord file
(https://www.tensorflow.org/tutorials/load_data/tfrecord) the records follow one another:

    length uint64, checksum of the length uint32, data [length] bytes, checksum of the data uint32

so their positions are found by going through the lengths once.
"""

import concurrent.futures
import functools
import json
import logging
import os
import pathlib
import re
import struct
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from data.classes import ONE_CLASS, Classes, check_labels, find_classes, keep_known
from data.columns import LABEL_COLUMNS
from data.dataset import Dataset, Options
from data.errors import in_words
from data.images import make_images
from data.splits import choose_split
from utils.errors import UserError
from utils.words import did_you_mean

log = logging.getLogger(__name__)

COUNTED = 20_000  # samples up to which labels are counted, which takes reading all of them


# ---------------------------------------------------------------- records


class Records(Protocol):
    """Records (bytes) by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> bytes: ...


class TFRecords:
    """The records of TFRecord files, by index."""

    def __init__(self, files: list[str]):
        self.files = files
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            spans = list(pool.map(record_spans, files))
        self.file = np.repeat(np.arange(len(files)), [len(of_file) for of_file in spans])
        self.spans = np.concatenate(spans)  # [S, 2] offset, length

    def __len__(self):
        return len(self.spans)

    def __getitem__(self, index):
        offset, length = map(int, self.spans[index])
        path = self.files[self.file[index]]
        # Not kept open: ImageNet has 1,024 files, as many as a process may often open.
        with open(path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)


def record_spans(file: str) -> np.ndarray:
    """Returns the offsets and lengths [S, 2] of the data of the records in a TFRecord file.

    Raises UserError for a file that ends inside a record.
    """
    head, tail = 8 + 4, 4  # bytes before and after the data of a record
    spans = []
    position = 0
    size = os.path.getsize(file)
    with open(file, "rb", buffering=0) as stream:
        while position + head <= size:
            content = os.pread(stream.fileno(), head, position)
            (length,) = struct.unpack("<Q", content[:8])
            spans.append((position + head, length))
            position += head + length + tail
    if position != size:
        raise UserError(f"{file} is no TFRecord file, or is cut short: copy or prepare it again")
    return np.array(spans, np.int64).reshape(-1, 2)


class ArrayRecords:
    """The records of array_record files, by index."""

    def __init__(self, files: list[str]):
        self.files = files

    @functools.cached_property
    def records(self):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource(self.files)

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]

    def __getstate__(self):
        """Leaves the open files out: a worker process opens its own."""
        return {"files": self.files}


# By the suffix of the files.
RECORDS = {"array_record": ArrayRecords, "tfrecord": TFRecords}


class ReadExample:
    """`read` of `data.images.Images`, over records; the image stays the bytes of its file.

    Args:
        records: The records, by index.
        folder: Of the prepared data set.
        image: The feature that holds images.
        label: The feature that holds labels, or "".
        name: Of the data set, for messages.
    """

    classes = ONE_CLASS  # what the labels mean, once that is known

    def __init__(self, records: Records, folder: str, image: str, label: str, name: str):
        self.records = records
        self.folder = folder
        self.image = image
        self.label = label
        self.name = name

    @functools.cached_property
    def parser(self) -> Any:
        """Decodes the two features that are needed, and no others."""
        import tensorflow_datasets as tfds

        features: Any = tfds.builder_from_directory(self.folder).info.features
        needed = [name for name in (self.image, self.label) if name]
        return tfds.features.FeaturesDict({name: features[name] for name in needed})

    def __call__(self, index):
        import tensorflow_datasets as tfds

        as_bytes = {self.image: tfds.decode.SkipDecoding()}
        example = self.parser.deserialize_example_np(self.records[index], decoders=as_bytes)
        label = self.classes.label(_value(example[self.label])) if self.label else 0
        return example[self.image], label, f"{self.name} sample {index}"

    def values(self) -> np.ndarray:
        """Returns the values [S] of the labels, which takes reading all records."""
        import tensorflow_datasets as tfds

        as_bytes = {self.image: tfds.decode.SkipDecoding()}
        found = []
        for i in range(len(self.records)):
            example = self.parser.deserialize_example_np(self.records[i], decoders=as_bytes)
            found.append(_value(example[self.label]))
        return np.array(found)

    def __getstate__(self):
        """Leaves the parser out: a worker process makes its own."""
        return {key: value for key, value in self.__dict__.items() if key != "parser"}


def _value(label: Any) -> int | str:
    """Returns a label as an integer or a text. Raises TypeError or ValueError for an array."""
    if isinstance(label, bytes):
        return label.decode(errors="replace")
    return int(label)


class Chosen:
    """Some of the records, by index."""

    def __init__(self, records: Records, positions: np.ndarray):
        self.records = records
        self.positions = positions

    def __len__(self):
        return len(self.positions)

    def __getitem__(self, index):
        return self.records[int(self.positions[index])]


# ---------------------------------------------------------------- the data set


def load(name: str, split: str, options: Options) -> Dataset:
    """Returns a split, with its shape found by looking at some of its images."""
    folder = _find_folder(name, options.dir, options.config)
    kind, features, splits = _read_info(name, folder)
    own_name, split = choose_split(name, splits, split)
    records = _open_records(name, kind, splits[own_name], own_name)
    image, label = _choose_features(name, features, options)
    read = ReadExample(records, str(folder), image, label, name)
    counts: tuple[int, ...] | None = (len(records),)
    if label:
        train = read
        if split != "train" and "train" in splits:
            learned = _open_records(name, kind, splits["train"], "train")
            train = ReadExample(learned, str(folder), image, label, name)
        read, counts = _with_classes(name, features, read, train)
    n = len(read.records)
    images = make_images(read, n, options.image_size, options.channels, name)
    return Dataset(
        name=name,
        split=split,
        samples=images,
        shape=images.shape,
        dtype="uint8",
        class_names=read.classes.names,
        counts=counts,
        max_corrupt=options.max_corrupt,
    )


def _find_folder(name: str, data_dir: str, config: str) -> pathlib.Path:
    """Returns the folder of a prepared version: the one named, or the newest under data_dir.

    Of a set with several configurations that is one of `config`, or of its default.
    """
    source = name.partition(":")[2]
    usual = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    root = pathlib.Path(data_dir or usual).expanduser()
    if source.startswith(("/", ".", "~")):
        folder = pathlib.Path(source).expanduser()
    else:
        folder = root / source.replace(":", "/")
    if (folder / "dataset_info.json").is_file():
        if config:
            raise UserError(f"--data.config {config}: {name} says its version itself, leave it out")
        return folder
    found = [path.parent for path in folder.glob("**/dataset_info.json")]
    versions = [path for path in found if "incomplete" not in str(path)]
    if not versions:
        raise UserError(
            f"{name}: no prepared data set in {folder}. Where TensorFlow is installed run "
            f"`tfds build {folder.name} --file_format=array_record --data_dir DIR`, "
            f"copy DIR here, and give --data.dir DIR, or tfds:DIR/name/version"
        )
    configurations = {path.parent for path in versions}
    chosen = folder / (config or _default_configuration(folder))
    if chosen not in configurations and (config or len(configurations) > 1):
        listed = ", ".join(sorted(path.name for path in configurations))
        raise UserError(
            f"{name}: {folder} holds the configurations {listed}; pick one with --data.config"
        )
    if len(configurations) > 1 or config:
        versions = [path for path in versions if path.parent == chosen]
    return max(versions, key=_version_numbers)


def _default_configuration(folder: pathlib.Path) -> str:
    """Returns the configuration that the set itself calls its default, or ""."""
    try:
        return json.loads((folder / ".config" / "metadata.json").read_text())["default_config_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _version_numbers(folder: pathlib.Path) -> list[int]:
    """Returns the numbers in a folder's name: [1, 0, 2] of "1.0.2"."""
    return [int(number) for number in re.findall(r"\d+", folder.name)]


def _read_info(name: str, folder: pathlib.Path) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """Returns (kind of the files, features, splits), as dataset_info.json has them."""
    import tensorflow_datasets as tfds

    try:
        info: Any = tfds.builder_from_directory(str(folder)).info
        kind, features, splits = info.file_format.file_suffix, info.features, info.splits
    except Exception as error:  # The library raises a dozen types for broken files.
        raise UserError(
            f"{name}: {folder} cannot be read as a prepared data set "
            f"({in_words(error, 150)}); prepare it again"
        ) from error
    if kind not in RECORDS:
        raise UserError(
            f"{name}: {folder} holds {kind} files; prepare it with --file_format=array_record"
        )
    return kind, features, splits


def _open_records(name: str, kind: str, split_info: Any, own_name: str) -> Records:
    """Returns the records of a split. Raises UserError if files are missing or cut short."""
    files = [str(path) for path in split_info.filepaths]
    absent = [file for file in files if not os.path.isfile(file)]
    if absent:
        raise UserError(
            f"{name}: {absent[0]} is missing, with {len(absent) - 1} more files of {len(files)}: "
            "copy or prepare it again"
        )
    records = RECORDS[kind](files)
    if len(records) != split_info.num_examples:
        raise UserError(
            f"{name}: the files of {own_name} hold {len(records)} samples, but dataset_info.json "
            f"says {split_info.num_examples}: copy or prepare it again"
        )
    return records


def _choose_features(name: str, features: Mapping[str, Any], options: Options) -> tuple[str, str]:
    """Returns the features of images and of labels; "" stands for no labels."""
    import tensorflow_datasets as tfds

    image = _choose_feature(name, features, "image_column", options, tfds.features.Image)
    label = ""
    if options.label_column != "none":
        label = _choose_feature(name, features, "label_column", options, tfds.features.ClassLabel)
    if not image:
        listed = ", ".join(features)
        raise UserError(
            f"{name} has no images among its features {listed}; name them with --data.image_column"
        )
    if not label:
        _say_what_may_be_labels(name, features)
    return image, label


def _say_what_may_be_labels(name: str, features: Mapping[str, Any]) -> None:
    """Says that there are no class labels, and which features could stand for them."""
    import tensorflow_datasets as tfds

    possible = []
    for feature_name, feature in features.items():
        is_text = isinstance(feature, tfds.features.Text)
        dtype = getattr(feature, "np_dtype", None)
        is_integer = dtype is not None and np.issubdtype(dtype, np.integer)
        if is_text or (is_integer and not feature.shape):
            possible.append(feature_name)
    usual_first = sorted(possible, key=lambda found: found not in LABEL_COLUMNS)
    hint = ""
    if usual_first:
        hint = f"; --data.label_column {usual_first[0]} takes its values for classes"
    log.warning("%s: no class labels, so one class: training is unconditional%s", name, hint)


def _choose_feature(
    name: str, features: Mapping[str, Any], option: str, options: Options, kind: type
) -> str:
    """Returns the feature that an option names, or else the first of a kind, or else ""."""
    given = getattr(options, option)
    if given:
        if given not in features:
            listed = ", ".join(features)
            guess = did_you_mean(given, features)
            raise UserError(
                f"{name} has no feature {given!r}{guess} (it has {listed}); "
                f"name one with --data.{option}"
            )
        return given
    found = [key for key, feature in features.items() if isinstance(feature, kind)]
    if len(found) > 1:
        log.warning(
            "%s: of %s the first is taken; --data.%s chooses", name, ", ".join(found), option
        )
    return found[0] if found else ""


def _with_classes(
    name: str, features: Mapping[str, Any], read: ReadExample, train: ReadExample
) -> tuple[ReadExample, tuple[int, ...] | None]:
    """Returns the reader with its classes, and the samples of each; None where they are too many.

    Args:
        name: of the data set, for messages.
        features: of the set.
        read: the reader of the split, whose labels are not known yet.
        train: that of the training split, whose classes count for every split.
    """
    import tensorflow_datasets as tfds

    label, names = read.label, ()
    if isinstance(features[label], tfds.features.ClassLabel):
        names = tuple(features[label].names)
    if len(train.records) > COUNTED:
        if not names:
            raise UserError(
                f"{name}: feature {label!r} is no class label, so the number of classes is not "
                "known; prepare it as ClassLabel, or give --data.label_column none"
            )
        read.classes = Classes(names, None)
        return read, None
    try:
        values = read.values()
        learned = values if train is read else train.values()
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{name}: feature {label!r} holds no labels ({error}); name another with "
            "--data.label_column, or none"
        ) from None
    classes = find_classes(name, label, learned, names)
    check_labels(name, label, values, names)
    kept, labels = keep_known(name, classes, values)
    read.classes = classes
    if len(kept) < len(values):
        read.records = Chosen(read.records, kept)
    return read, tuple(np.bincount(labels, minlength=len(classes.names)).tolist())
