"""Data sets that TensorFlow Datasets has prepared, read without TensorFlow: `tfds:name` and `tfds:/data_dir/name/version`.

Records lie in array_record or TFRecord files. Both are read at random: of a TFRecord file, whose records follow one another (length uint64, checksum of it uint32,
data, checksum uint32; https://www.tensorflow.org/tutorials/load_data/tfrecord), the positions are found by going through the lengths once.
"""

import concurrent.futures
import functools
import logging
import os
import pathlib
import re
import struct

import numpy as np

from data import Dataset, choose_split
from data.images import make_source
from utils.errors import UserError
from utils.words import did_you_mean

log = logging.getLogger(__name__)

COUNTED = 20_000  # samples up to which labels are counted: it takes reading everything


class TFRecords:
    """Random access to the records (bytes) of TFRecord files."""

    def __init__(self, files: list[str]):
        self.files = files
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            spans = list(pool.map(record_spans, files))
        self.file = np.repeat(np.arange(len(files)), [len(s) for s in spans])
        self.spans = np.concatenate(spans)  # [S, 2] offset, length

    def __len__(self):
        return len(self.spans)

    def __getitem__(self, index):
        offset, length = map(int, self.spans[index])
        with open(
            self.files[self.file[index]], "rb", buffering=0
        ) as file:  # not kept open: ImageNet has 1,024 files, as many as a process may often open
            return os.pread(file.fileno(), length, offset)


def record_spans(file: str) -> np.ndarray:
    """[S, 2] offsets and lengths of the records of a TFRecord file. Raises UserError for a file that ends inside a record."""
    spans, position, size = [], 0, os.path.getsize(file)
    with open(file, "rb", buffering=0) as stream:
        while position + 12 <= size:
            (length,) = struct.unpack("<Q", os.pread(stream.fileno(), 12, position)[:8])
            spans.append((position + 12, length))
            position += 12 + length + 4
    if position != size:
        raise UserError(f"{file} is no TFRecord file, or is cut short: copy or prepare it again")
    return np.array(spans, np.int64).reshape(-1, 2)


class ArrayRecords:
    """Random access to the records (bytes) of array_record files."""

    def __init__(self, files: list[str]):
        self.files = files

    @functools.cached_property
    def source(self):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource(self.files)

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.source[index]

    def __getstate__(self):
        return {"files": self.files}


KINDS = {"array_record": ArrayRecords, "tfrecord": TFRecords}


class Examples:
    """read(i) of `data.images.Images` over records, the image left as the bytes of its file. folder: of the prepared data set."""

    def __init__(self, records, folder: str, image: str, label: str, name: str):
        self.records, self.folder, self.image, self.label, self.name = (
            records,
            folder,
            image,
            label,
            name,
        )

    @functools.cached_property
    def parser(self):
        import tensorflow_datasets as tfds

        features = tfds.builder_from_directory(self.folder).info.features
        return tfds.features.FeaturesDict(
            {name: features[name] for name in (self.image, self.label) if name}
        )

    def __call__(self, index):
        import tensorflow_datasets as tfds

        example = self.parser.deserialize_example_np(
            self.records[index], decoders={self.image: tfds.decode.SkipDecoding()}
        )
        return (
            example[self.image],
            int(example[self.label]) if self.label else 0,
            f"{self.name} sample {index}",
        )

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k != "parser"}


def load(name: str, split: str, options) -> Dataset:
    import tensorflow_datasets as tfds

    folder = _find(name, options.dir)
    try:
        builder = tfds.builder_from_directory(str(folder))
        kind, features, splits = (
            builder.info.file_format.file_suffix,
            builder.info.features,
            builder.info.splits,
        )
    except Exception as error:  # the library raises a dozen types for broken files
        raise UserError(
            f"{name}: {folder} cannot be read as a prepared data set ({type(error).__name__}: {' '.join(str(error).split())[:150]}); prepare it again"
        ) from error
    if kind not in KINDS:
        raise UserError(
            f"{name}: {folder} holds {kind} files; prepare it with --file_format=array_record"
        )
    own, split = choose_split(name, splits, split)
    files = [str(path) for path in splits[own].filepaths]
    absent = [file for file in files if not os.path.isfile(file)]
    if absent:
        raise UserError(
            f"{name}: {absent[0]} is missing, with {len(absent) - 1} more files of {len(files)}: copy or prepare it again"
        )
    records = KINDS[kind](files)
    if len(records) != splits[own].num_examples:
        raise UserError(
            f"{name}: the files of {own} hold {len(records)} samples, but dataset_info.json says {splits[own].num_examples}: copy or prepare it again"
        )
    image = _column(
        name,
        features,
        options.image_column,
        "image_column",
        [k for k, f in features.items() if isinstance(f, tfds.features.Image)],
    )
    label = (
        ""
        if options.label_column == "none"
        else _column(
            name,
            features,
            options.label_column,
            "label_column",
            [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)],
        )
    )
    if not image:
        raise UserError(
            f"{name} has no images among its features {', '.join(features)}; name them with --data.image_column"
        )
    if not label:
        log.info("%s: no class labels, so one class: training is unconditional", name)
    read = Examples(records, str(folder), image, label, name)
    class_names, counts = _classes(name, features, label, read, len(records))
    source = make_source(read, len(records), options.image_size, options.channels, name)
    return Dataset(
        name,
        split,
        source,
        source.shape,
        "uint8",
        class_names,
        counts,
        max_corrupt=options.max_corrupt,
    )


def _find(name: str, data_dir: str) -> pathlib.Path:
    """The folder of a prepared version: the one named, or the newest version of a name under data_dir."""
    place = name.partition(":")[2]
    root = pathlib.Path(
        data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    ).expanduser()
    folder = (
        pathlib.Path(place).expanduser()
        if place.startswith(("/", ".", "~"))
        else root / place.replace(":", "/")
    )
    versions = (
        [folder]
        if (folder / "dataset_info.json").is_file()
        else [f.parent for f in folder.glob("**/dataset_info.json") if "incomplete" not in str(f)]
    )
    if not versions:
        raise UserError(
            f"{name}: no prepared data set in {folder}. Where TensorFlow is installed run `tfds build {folder.name} --file_format=array_record --data_dir DIR`, "
            f"copy DIR here, and give --data.dir DIR, or tfds:DIR/name/version"
        )
    return max(versions, key=lambda f: [int(n) for n in re.findall(r"\d+", f.name)])


def _column(name: str, features, given: str, flag: str, found: list[str]) -> str:
    if given:
        if given not in features:
            raise UserError(
                f"{name} has no feature {given!r}{did_you_mean(given, features)} (it has {', '.join(features)}); name one with --data.{flag}"
            )
        return given
    if len(found) > 1:
        log.warning("%s: of %s the first is taken; --data.%s chooses", name, ", ".join(found), flag)
    return found[0] if found else ""


def _classes(name: str, features, label: str, read: Examples, n: int):
    """(class names, samples per class or None)."""
    import tensorflow_datasets as tfds

    if not label:
        return ("all",), (n,)
    named = isinstance(features[label], tfds.features.ClassLabel)
    if n > COUNTED:
        if not named:
            raise UserError(
                f"{name}: feature {label!r} is no class label, so the number of classes is not known; prepare it as ClassLabel, or give --data.label_column none"
            )
        return tuple(features[label].names), None
    try:
        labels = np.array([read(i)[1] for i in range(n)])
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{name}: feature {label!r} holds no labels ({error}); name another with --data.label_column, or none"
        ) from None
    names = tuple(features[label].names) if named else tuple(map(str, range(labels.max() + 1)))
    if labels.min() < 0 or labels.max() >= len(names):
        raise UserError(
            f"{name}: feature {label!r} has labels from {labels.min()} to {labels.max()}, expected 0 to {len(names) - 1}"
        )
    return names, tuple(np.bincount(labels, minlength=len(names)).tolist())
