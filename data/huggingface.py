"""Data sets of the Hugging Face hub and local copies of them, by the library `datasets`: `hf:owner/name`, `hf:/path`, and short names for well-known ones.

A local place is a folder of parquet, arrow or image files as the hub has them, one that `save_to_disk` wrote, or a single .parquet or .arrow file.
"""

import dataclasses
import errno
import logging
import pathlib

import numpy as np

from data import Dataset, choose_split, streaming
from data.images import make_source
from utils.errors import UserError
from utils.weight_files import hub
from utils.words import did_you_mean

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Known:
    """A hub data set by its card: columns ("none" = no labels), (split, samples) to learn from and held out, side and channels, number of classes."""

    repo: str
    image: str
    label: str
    train: tuple[str, int]
    test: tuple[str, int]
    size: int
    channels: int
    n_classes: int
    gated: bool = False
    balanced: bool = False  # every class has as many samples


IMAGENET = Known(
    "ILSVRC/imagenet-1k",
    "image",
    "label",
    ("train", 1_281_167),
    ("validation", 50_000),
    256,
    3,
    1000,
    gated=True,
)
KNOWN = {
    "mnist": Known(
        "ylecun/mnist", "image", "label", ("train", 60_000), ("test", 10_000), 28, 1, 10
    ),
    "fashion_mnist": Known(
        "zalando-datasets/fashion_mnist",
        "image",
        "label",
        ("train", 60_000),
        ("test", 10_000),
        28,
        1,
        10,
        balanced=True,
    ),
    "cifar10": Known(
        "uoft-cs/cifar10",
        "img",
        "label",
        ("train", 50_000),
        ("test", 10_000),
        32,
        3,
        10,
        balanced=True,
    ),
    "cifar100": Known(
        "uoft-cs/cifar100",
        "img",
        "fine_label",
        ("train", 50_000),
        ("test", 10_000),
        32,
        3,
        100,
        balanced=True,
    ),
    "tiny_imagenet": Known(
        "zh-plus/tiny-imagenet",
        "image",
        "label",
        ("train", 100_000),
        ("valid", 10_000),
        64,
        3,
        200,
        balanced=True,
    ),
    "imagenet64": dataclasses.replace(IMAGENET, size=64),
    "imagenet256": IMAGENET,
    # Its labels are the sex; the FIDs in the literature are unconditional.
    "celebahq256": Known(
        "korexyz/celeba-hq-256x256",
        "image",
        "none",
        ("train", 28_000),
        ("validation", 2_000),
        256,
        3,
        1,
    ),
}


class Rows:
    """read(i) of `data.images.Images` over a table with undecoded images."""

    def __init__(self, table, image: str, label: str, index_of: dict | None, base: str):
        self.table, self.image, self.label, self.index_of, self.base = (
            table,
            image,
            label,
            index_of,
            base,
        )

    def __call__(self, index):
        row = self.table[index]
        content, name = content_of(row[self.image], f"{self.base} sample {index}")
        if not self.label:
            return content, 0, name
        return content, self.index_of[row[self.label]] if self.index_of else row[self.label], name


def content_of(value, name: str):
    """(what `data.images.decode` takes, name for messages) of the value of an image column."""
    if isinstance(value, dict):
        path = value.get("path")
        name = f"{name} ({path})" if path else name
        value = (
            value["bytes"] if value.get("bytes") is not None else pathlib.Path(path).read_bytes()
        )
    elif isinstance(value, list):
        value = np.asarray(value, np.uint8)
    return value, name


class NotRead:
    """The source of a data set of which only facts are known."""

    def __init__(self, n: int):
        self.n = n

    def __len__(self):
        return self.n


def facts(name: str, split: str, options) -> Dataset | None:
    """What is known of a short name without reading anything; None for other data sets."""
    known = KNOWN.get(name)
    if known is None or split not in ("train", "test"):
        return None
    n = (known.train if split == "train" else known.test)[1]
    size = options.image_size or known.size
    one = (options.label_column or known.label) == "none"
    names = ("all",) if one else tuple(map(str, range(known.n_classes)))
    counts = (n // len(names),) * len(names) if one or known.balanced else None
    return Dataset(
        name,
        split,
        NotRead(n),
        (size, size, options.channels or known.channels),
        "uint8",
        names,
        counts,
    )


def load(name: str, split: str, options) -> Dataset:
    """A split, labels as the data set has them (class labels, integers, or texts in sorted order)."""
    known = KNOWN.get(name)
    if options.dir and not known:
        raise UserError(
            f"--data.dir {options.dir}: it is for short names such as cifar10; {name} says its place itself, leave it out"
        )
    place = (options.dir or known.repo) if known else name.partition(":")[2]
    if options.streaming:
        return streaming.load(name, *_parquet(name, place, known), split, options, known)
    tables = _tables(name, place, known)
    own, split = choose_split(
        name, tables, split, known and {"train": known.train[0], "test": known.test[0]}
    )
    table = tables[own]
    image, label = choose_columns(name, table, options, known)
    index_of, class_names, counts = _labels(name, table, label, split)
    read = Rows(
        _undecoded(table.select_columns([image] + [label] * bool(label)), image),
        image,
        label,
        index_of,
        name,
    )
    size = options.image_size or (known.size if known else 0)
    source = make_source(
        read, len(table), size, options.channels or (known.channels if known else 0), name
    )
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


def choose_columns(name: str, table, options, known: Known | None) -> tuple[str, str]:
    """The columns of images and labels, "" for no labels. table: with `column_names` and `features`."""
    image = options.image_column or (known.image if known else _find_image(name, table))
    label = options.label_column or (known.label if known else _find_label(name, table))
    label = "" if label == "none" else label
    for flag, column in (("image_column", image), ("label_column", label)):
        if column and column not in table.column_names:
            raise UserError(
                f"{name} has no column {column!r}{did_you_mean(column, table.column_names)} (it has {', '.join(table.column_names)}); name one with --data.{flag}"
            )
    return image, label


def _undecoded(table, image: str):
    import datasets

    if isinstance(table.features[image], datasets.Image):
        return table.cast_column(image, datasets.Image(decode=False))
    return table


def _tables(name: str, place: str, known: Known | None) -> dict:
    """{split: table} of a local place or of the hub."""
    import datasets

    path, local = _path(name, place)
    try:
        if path.is_file():
            kind = {".parquet": "parquet", ".arrow": "arrow"}.get(path.suffix)
            if kind is None:
                raise UserError(
                    f"--dataset_name {name}: expected a .parquet or .arrow file, or a folder"
                )
            return datasets.load_dataset(kind, data_files=str(path))
        if any((path / marker).is_file() for marker in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(str(path))
        else:
            if not local:
                _offline_without_network(datasets)
            found = datasets.load_dataset(str(path) if local else place)
        return found if isinstance(found, dict) else {"train": found}
    except UserError:
        raise
    except Exception as error:  # the errors of several libraries
        raise UserError(_explain(name, place, local, known, error)) from error


def _path(name: str, place: str) -> tuple[pathlib.Path, bool]:
    """The path that a place may be, and whether it is one."""
    path = pathlib.Path(place).expanduser()
    local = path.exists() or place.startswith(("/", ".", "~"))
    if local and not path.exists():
        raise UserError(
            f"--dataset_name {name}: {path} does not exist; give hf:owner/name, or the path of a parquet or arrow file or of a folder of them"
        )
    return path, local


def _parquet(name: str, place: str, known: Known | None):
    """({split: parquet files}, features or None) of a local place or of the hub; no data is read."""
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet

    path, local = _path(name, place)
    if path.is_file() and path.suffix == ".parquet":
        return {"train": [str(path)]}, None
    kind = (
        path.suffix or "file"
        if path.is_file()
        else "save_to_disk"
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
        else ""
    )
    if not kind:
        try:
            if not local:
                _offline_without_network(datasets)
            builder = datasets.load_dataset_builder(str(path) if local else place)
        except Exception as error:  # the errors of several libraries
            raise UserError(_explain(name, place, local, known, error)) from error
        kind = type(builder).__module__.rpartition(".")[2]
        if isinstance(builder, Parquet):
            return {
                str(split): list(files) for split, files in builder.config.data_files.items()
            }, builder.info.features
    raise UserError(
        f"--data.streaming 1: {name} holds {kind} data, and only parquet is streamed; leave it out"
    )


def _offline_without_network(datasets):
    """Lets the libraries use their cache at once where the hub is out of reach; they would try for half a minute."""
    import huggingface_hub.constants

    if hub.out_of_reach():
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


def _explain(name: str, place: str, local: bool, known: Known | None, error: Exception) -> str:
    """One line about why a data set could not be opened, and what to do."""
    chain, cause = [], error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())[:200]
    if any(isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT) for e in chain):
        return f"{name}: the disk is full ({text}); free some space, or set HF_HOME to a folder on another disk"
    if local:
        return f"{name}: {place} cannot be read as a data set ({type(error).__name__}: {text}); expected parquet, arrow or image files, or what save_to_disk writes"
    page = f"https://huggingface.co/datasets/{place}"
    if "gated" in text or "401" in text or "403" in text:
        return f"{name}: {page} is gated; accept its terms there, then log in with `hf auth login` (or set HF_TOKEN), and run the command again"
    if any(
        isinstance(e, ConnectionError)
        or type(e).__name__
        in ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectTimeout", "ConnectError")
        for e in chain
    ):
        use = f"--dataset_name {name} --data.dir DIR" if known else "--dataset_name hf:DIR"
        terms = (
            ", after accepting its terms there and `hf auth login`" if known and known.gated else ""
        )
        return (
            f"{name}: the Hugging Face hub cannot be reached, and there is no copy in its cache. On a machine with a network run "
            f"`hf download {place} --repo-type dataset --local-dir DIR`{terms}, copy DIR here, and give {use}"
        )
    if type(error).__name__ == "DatasetNotFoundError":
        return f"{name}: {page} does not exist or is private; correct the name, or log in with `hf auth login`"
    return f"{name}: {page} cannot be opened ({type(error).__name__}: {text})"


def _find_image(name: str, table) -> str:
    import datasets

    kinds = [c for c, f in table.features.items() if isinstance(f, datasets.Image)]
    named = [c for c in ("image", "img", "jpg", "png", "pixels") if c in table.column_names]
    found = [c for c in named if c in kinds] or kinds or named
    if not found:
        raise UserError(
            f"{name}: no column of images among {', '.join(table.column_names)}; name it with --data.image_column"
        )
    if len(found) > 1:
        log.warning(
            "%s: images are taken from the column %s, not from %s; --data.image_column chooses",
            name,
            found[0],
            ", ".join(found[1:]),
        )
    return found[0]


def _find_label(name: str, table) -> str:
    import datasets

    kinds = [c for c, f in table.features.items() if isinstance(f, datasets.ClassLabel)]
    named = [
        c for c in ("label", "labels", "fine_label", "class", "cls") if c in table.column_names
    ]
    found = [c for c in named if c in kinds] or kinds or named
    if not found:
        log.info(
            "%s: no column of labels among %s, so one class: training is unconditional; --data.label_column names one",
            name,
            ", ".join(table.column_names),
        )
        return "none"
    if len(found) > 1:
        log.warning(
            "%s: labels are taken from the column %s, not from %s; --data.label_column chooses",
            name,
            found[0],
            ", ".join(found[1:]),
        )
    return found[0]


def _labels(name: str, table, label: str, split: str):
    """(index of a value or None, class names, samples per class)."""
    import datasets

    if not label:
        return None, ("all",), (len(table),)
    values = table.with_format("arrow")[label]
    values = np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values[:].to_numpy())
    feature, index_of = table.features[label], None
    if isinstance(feature, datasets.ClassLabel):
        names = tuple(feature.names)
    elif values.dtype.kind in "OUS" and all(isinstance(v, str) for v in values):
        names = tuple(sorted(set(values.tolist())))
        index_of = {v: k for k, v in enumerate(names)}
        values = np.array([index_of[v] for v in values])
    elif values.dtype.kind in "iub":
        names = tuple(map(str, range(int(values.max()) + 1)))
        values = values.astype(np.int64)
    else:
        raise UserError(
            f"{name}: column {label!r} holds no labels ({feature}); name another with --data.label_column, or none"
        )
    if values.dtype.kind == "f" or values.min() < 0 or values.max() >= len(names):
        raise UserError(
            f"{name}: column {label!r} has labels from {values.min()} to {values.max()}, expected 0 to {len(names) - 1}; this split may have none (--data.split)"
        )
    counts = np.bincount(values, minlength=len(names))
    if split == "train" and not counts.all():
        empty = int(np.argmin(counts))
        raise UserError(
            f"{name}: class {empty} ({names[empty]!r}) has no samples in this split, of {int((counts == 0).sum())} empty classes; use another --data.label_column or --data.split"
        )
    return index_of, names, tuple(counts.tolist())
