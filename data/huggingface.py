"""Data sets of the Hugging Face hub and local copies of them, by the library `datasets`.

`hf:owner/name`, `hf:/path`, and the short names of `data.hub_cards`. A local copy is a folder of
parquet, arrow or image files as the hub has them, a folder that `save_to_disk` wrote, or a single
.parquet or .arrow file.
"""

import pathlib
from typing import Any

import numpy as np

from data import folder, streaming
from data.classes import ONE_CLASS, Classes, check_labels, find_classes, keep_known
from data.columns import (
    PROBED,
    choose_columns,
    class_names,
    image_content,
    look_at_images,
    read_column,
)
from data.conditions import check_no_labels, to_vectors
from data.dataset import Dataset, Options
from data.errors import explain
from data.hub_cards import CARDS, Card
from data.images import make_images
from data.layout import SUFFIXES
from data.splits import choose_split
from utils import storage
from utils.errors import UserError
from utils.paths import to_local
from utils.weight_files import hub

CAN_STREAM = True
TAKES_CONDITIONS = True
TABLES = (".parquet", ".arrow", ".csv", ".json", ".jsonl")
SAVED_TO_DISK = ("dataset_dict.json", "state.json")  # One of these is in what `save_to_disk` wrote.


class ReadRow:
    """`read` of `data.images.Images`, over a table whose images are not decoded.

    Args:
        table: Of the library `datasets`.
        image: The column of images.
        label: The column of labels, or "".
        classes: What the labels mean.
        name: Of the data set, for messages.
    """

    def __init__(self, table: Any, image: str, label: str, classes: Classes, name: str):
        self.table = table
        self.image = image
        self.label = label
        self.classes = classes
        self.name = name
        n = len(table)
        rows = sorted({i * n // PROBED for i in range(PROBED)}) if n else []
        self.pixels = look_at_images(name, image, [table[row][image] for row in rows])

    def __call__(self, index):
        row = self.table[index]
        sample = f"{self.name} sample {index}"
        content, name = image_content(row[self.image], sample, self.pixels)
        label = self.classes.label(row[self.label]) if self.label else 0
        return content, label, name


class Unread:
    """The samples of a data set of which only facts are known: their number."""

    def __init__(self, n: int):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        raise TypeError("only facts are known of this data set: load it without facts_only")


def facts(name: str, split: str, options: Options) -> Dataset | None:
    """Returns what the card of a short name tells; None for other data sets and splits."""
    card = CARDS.get(name)
    if card is None or split not in ("train", "test") or options.condition_column:
        return None
    _, n = card.train if split == "train" else card.test
    size = options.image_size or card.size
    channels = options.channels or card.channels
    has_labels = (options.label_column or card.label) != "none"
    if has_labels:
        class_names = tuple(str(number) for number in range(card.n_classes))
    else:
        class_names = ("all",)
    counts = card.counts if split == "train" else None
    if card.balanced or not has_labels:
        counts = (n // len(class_names),) * len(class_names)
    return Dataset(
        name=name,
        split=split,
        samples=Unread(n),
        shape=(size, size, channels),
        dtype="uint8",
        class_names=class_names,
        counts=counts,
    )


def load(name: str, split: str, options: Options) -> Dataset:
    """Returns a split, with its shape found by looking at some of its images.

    Labels are as the data set has them: class labels, integers, or texts in sorted order.
    """
    card = CARDS.get(name)
    if options.dir and not card:
        raise UserError(
            f"--data.dir {options.dir}: it is for short names such as cifar10; {name} says its "
            "place itself, leave it out"
        )
    check_no_labels(name, options)
    source = name.partition(":")[2]
    if card:
        source = options.dir or card.repo
        if _is_tiny_imagenet(options.dir) and not options.condition_column:
            size, channels = card.size, card.channels
            return folder.load_root(name, pathlib.Path(options.dir), split, options, size, channels)
    if options.streaming:
        files, features = _find_parquet(name, source, card, options.config)
        return streaming.load(name, files, features, split, options, card)

    tables = _open_tables(name, source, card, options.config)
    own_name, split = choose_split(name, tables, split, card and card.own_names)
    table = tables[own_name]
    image, label = choose_columns(name, table, options, card)
    if not len(table):
        raise UserError(f"{name}: the split {own_name} is empty; give another --data.split")
    classes, counts, conditions = ONE_CLASS, (len(table),), None
    if options.condition_column:
        values = read_column(table, options.condition_column)
        conditions = to_vectors(name, options.condition_column, values)
    if label:
        train = _training_table(name, tables, card, table)
        feature = class_names(table.features[label])
        classes = find_classes(name, label, read_column(train, label), feature)
        values = read_column(table, label)
        check_labels(name, label, values, feature)
        kept, labels = keep_known(name, classes, values)
        if len(kept) < len(table):
            table = table.select(kept)
        counts = tuple(np.bincount(labels, minlength=len(classes.names)).tolist())
    needed = [image, label] if label else [image]
    table = _without_decoding(table.select_columns(needed), image)
    read = ReadRow(table, image, label, classes, name)
    size, channels = options.image_size, options.channels
    if card:
        size, channels = size or card.size, channels or card.channels
    images = make_images(read, len(table), size, channels, name)
    return Dataset(
        name=name,
        split=split,
        samples=images,
        shape=images.shape,
        dtype="uint8",
        class_names=classes.names,
        counts=counts,
        max_corrupt=options.max_corrupt,
        conditions=conditions,
    )


def _training_table(name: str, tables: dict[Any, Any], card: Card | None, table: Any) -> Any:
    """Returns the table whose classes count for all splits; `table` where none is for training."""
    own_names = card and card.own_names
    train = (own_names or {}).get("train", "train")
    return tables.get(train, table)


def _without_decoding(table: Any, image: str) -> Any:
    """Returns the table with the bytes of its images: `data.images` is what decodes them."""
    import datasets

    if isinstance(table.features[image], datasets.Image):
        return table.cast_column(image, datasets.Image(decode=False))
    return table


# ---------------------------------------------------------------- where it is


def _is_tiny_imagenet(folder: str) -> bool:
    """Returns whether a folder is tiny-imagenet-200 as its authors pack it: no parquet files."""
    return bool(folder) and (pathlib.Path(folder) / "wnids.txt").is_file()


def _open_tables(name: str, source: str, card: Card | None, config: str) -> dict[Any, Any]:
    """Returns {split: table} of a local copy or of the hub."""
    import datasets

    path, is_local = _path(name, source)
    try:
        if path.is_file():
            kind = {".parquet": "parquet", ".arrow": "arrow"}.get(path.suffix)
            if kind is None:
                raise UserError(
                    f"--dataset_name {name}: expected a .parquet or .arrow file, or a folder"
                )
            return datasets.load_dataset(kind, data_files=str(path))
        if _is_saved_to_disk(path):
            found = datasets.load_from_disk(str(path))
        else:
            if is_local:
                _check_takes_all(name, path, config)
            else:
                _use_cache_without_network()
            found = datasets.load_dataset(str(path) if is_local else source, config or None)
        return found if isinstance(found, dict) else {"train": found}
    except UserError:
        raise
    except Exception as error:  # of several libraries
        raise UserError(explain(name, source, is_local, card, error)) from error


def _check_takes_all(name: str, path: pathlib.Path, config: str) -> None:
    """Raises UserError where the library reads only some files of a folder, by their names.

    It takes files that are called test_* for another split, and then leaves all others out.
    """
    import datasets

    builder = datasets.load_dataset_builder(str(path), config or None)
    found = builder.config.data_files
    if not found or config or len(builder.builder_configs) > 1:
        return
    taken = [file for files in found.values() for file in files]
    suffixes = {pathlib.PurePath(file).suffix.lower() for file in taken} & {*SUFFIXES, *TABLES}
    there = [
        file
        for file in path.rglob("*")
        if file.suffix.lower() in suffixes
        and not any(part.startswith((".", "__")) for part in file.relative_to(path).parts)
    ]
    if len(taken) >= len(there):
        return
    left_out = sorted(map(str, set(map(str, there)) - {str(pathlib.Path(f)) for f in taken}))
    advice = "give hf:FILE with one of the files, or rename them so that none is called by a split"
    if suffixes & set(SUFFIXES):
        advice = f"give folder:{path}"
    raise UserError(
        f"{name}: by their names, the library datasets reads {len(taken)} of {len(there)} files in "
        f"{path} and leaves out {left_out[0]}: {advice}"
    )


def _find_parquet(
    name: str, source: str, card: Card | None, config: str
) -> tuple[dict[str, list[str]], dict[str, Any] | None]:
    """Returns ({split: parquet files}, features or None) of a local copy or of the hub.

    Nothing of the files is read. Raises UserError for data of another kind.
    """
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet

    if storage.is_bucket(source) and source.endswith(".parquet"):
        return {"train": [source]}, None  # of which only the row groups are read that are needed
    path, is_local = _path(name, source)
    if path.is_file():
        if path.suffix == ".parquet":
            return {"train": [str(path)]}, None
        kind = path.suffix or "file"
    elif _is_saved_to_disk(path):
        kind = "save_to_disk"
    else:
        try:
            if not is_local:
                _use_cache_without_network()
            place = str(path) if is_local else source
            builder = datasets.load_dataset_builder(place, config or None)
        except Exception as error:  # of several libraries
            raise UserError(explain(name, source, is_local, card, error)) from error
        if isinstance(builder, Parquet):
            found = builder.config.data_files
            files = {str(split): list(paths) for split, paths in found.items()}
            return files, builder.info.features
        kind = type(builder).__module__.rpartition(".")[2]
    raise UserError(
        f"--data.streaming 1: {name} holds {kind} data, and only parquet is streamed; leave it out"
    )


def _path(name: str, source: str) -> tuple[pathlib.Path, bool]:
    """Returns the path that a source may be, and whether it is one or rather a name of the hub."""
    if storage.is_bucket(source):
        return to_local(source), True
    path = pathlib.Path(source).expanduser()
    is_local = path.exists() or source.startswith(("/", ".", "~"))
    if is_local and not path.exists():
        raise UserError(
            f"--dataset_name {name}: {path} does not exist; give hf:owner/name, or the path of a "
            "parquet or arrow file or of a folder of them"
        )
    return path, is_local


def _is_saved_to_disk(path: pathlib.Path) -> bool:
    return any((path / marker).is_file() for marker in SAVED_TO_DISK)


def _use_cache_without_network():
    """Lets the libraries use their cache at once where the hub is out of reach.

    They would try for half a minute.
    """
    import datasets
    import huggingface_hub.constants

    if hub.out_of_reach():
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True
