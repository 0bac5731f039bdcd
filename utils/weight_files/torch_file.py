"""Reads the tensors of a PyTorch `.pth` file without PyTorch, and without running what is in it.

A `.pth` file is a pickle that names tensors, and raw storages beside it. A pickle can call any
importable function. This reader therefore resolves only the few names that a state dict needs, and
refuses every other one before anything is called.

There are two containers (facts from torch/serialization.py):

    since 1.6    a zip archive: NAME/data.pkl, and NAME/data/KEY, one raw storage each, stored
                 uncompressed
    before       consecutive pickles: magic number, protocol 1001, machine description, the object,
                 the list of storage keys; then for each key its length (int64) and its raw numbers
"""

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from utils.errors import UserError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}

Storages = dict[str, np.ndarray]  # flat arrays by key


def read_torch_file(path: str | Path) -> Any:
    """Returns the object saved in `path`, every tensor as a NumPy array.

    It is usually {name: tensor}, perhaps nested.

    Raises:
        UserError: the file does not exist, is damaged or incomplete, or names anything but
            tensors, storages and ordered dictionaries. The message then has that name, and nothing
            of the file was run.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no weights file {path}; give the path of a .pth file")
    try:
        if zipfile.is_zipfile(path):
            tree, storages = _read_zip(path)
        else:
            with open(path, "rb") as file:
                tree, storages = _read_legacy(file)
        return _to_arrays(tree, storages)
    except _NoTensor as error:
        raise UserError(
            f"{path} asks for {error}, which is no tensor; it was not run. Save a plain state "
            "dict, or as .safetensors"
        ) from None
    except (UserError, OSError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise UserError(
            f"{path} is damaged, incomplete or not a PyTorch file; get it again "
            f"({type(error).__name__}: {error})"
        ) from error


# ---- the two containers ----


def _read_zip(path: Path) -> tuple[Any, Storages]:
    """Returns the pickled object, with stand-ins for its tensors, and the storages."""
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if "constants.pkl" in names:
            raise UserError(
                f"{path} is a TorchScript program; expected weights (a saved state dict)"
            )
        if "byteorder" in names and archive.read(names["byteorder"]) != b"little":
            raise UserError(
                f"{path} was written on a big-endian machine; save it again on a common one"
            )
        with archive.open(names["data.pkl"]) as file:
            unpickler = _Unpickler(file)
            tree = unpickler.load()
        storages = {}
        for key, (dtype, count) in unpickler.storages.items():
            info = archive.getinfo(names[f"data/{key}"])
            if info.file_size != count * dtype.itemsize:
                raise ValueError(
                    f"storage {key}: {info.file_size} bytes, expected {count * dtype.itemsize}"
                )
            storages[key] = np.frombuffer(archive.read(info), dtype)
    return tree, storages


def _read_legacy(file: BinaryIO) -> tuple[Any, Storages]:
    """Returns the pickled object, with stand-ins for its tensors, and the storages."""
    if _Unpickler(file).load() != MAGIC_NUMBER or _Unpickler(file).load() != LEGACY_PROTOCOL:
        raise ValueError("the magic number is missing")
    if not _Unpickler(file).load()["little_endian"]:
        raise ValueError("written on a big-endian machine")
    unpickler = _Unpickler(file)
    tree = unpickler.load()
    storages = {}
    for key in _Unpickler(file).load():
        dtype, count = unpickler.storages[key]
        (written,) = struct.unpack("<q", file.read(8))
        data = file.read(count * dtype.itemsize)
        if written != count or len(data) != count * dtype.itemsize:
            raise ValueError(f"storage {key} is cut off")
        storages[key] = np.frombuffer(data, dtype)
    return tree, storages


# ---- the pickle, and the few names that it may use ----


class _NoTensor(Exception):
    """A name that the file asks for and that no state dict needs."""


class _Storage(NamedTuple):
    """Part of a storage, by its key."""

    key: str
    offset: int
    n_elements: int


class _Tensor(NamedTuple):
    """What the pickle leaves in the place of a tensor.

    The older container has the numbers only after the pickle.
    """

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Global:
    """Stands for an allowed name.

    It cannot be changed: a pickle may try to set attributes of whatever it is given.
    """

    __slots__ = ()


class _StorageType(_Global):
    """Stands for torch.FloatStorage and the like."""

    __slots__ = ("dtype",)
    dtype: np.dtype

    def __init__(self, dtype):
        object.__setattr__(self, "dtype", np.dtype(dtype))

    def __setattr__(self, name, value):
        raise AttributeError(name)


class _RebuildTensor(_Global):
    """Stands for torch._utils._rebuild_tensor_v2.

    Its arguments are storage, offset, size, stride, requires_grad, hooks and perhaps metadata.
    """

    __slots__ = ()

    def __call__(self, storage, offset, size, stride, *_):
        return _Tensor(storage, offset, tuple(size), tuple(stride))


class _RebuildParameter(_Global):
    """Stands for torch._utils._rebuild_parameter(tensor, requires_grad, hooks)."""

    __slots__ = ()

    def __call__(self, tensor, *_):
        return tensor


GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    **{("torch", name): _StorageType(dtype) for name, dtype in DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Unpickles with GLOBALS alone.

    Attributes:
        storages: key -> (dtype, number of elements) of the storages that the pickle refers to.
    """

    def __init__(self, file):
        super().__init__(file)
        self.storages: dict[str, tuple[np.dtype, int]] = {}

    def find_class(self, module, name):
        if (module, name) not in GLOBALS:
            raise _NoTensor(f"{module}.{name}")
        return GLOBALS[module, name]

    def persistent_load(self, pid):
        """Returns the storage that `pid` refers to.

        pid: ("storage", type, key, device, count[, view]). Only the older container has a view:
            None, or (key, offset, count).
        """
        kind, storage_type, key, _, count, *view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or count < 0:
            raise ValueError(f"unknown reference {pid!r}")
        description = (storage_type.dtype, count)
        if self.storages.setdefault(key, description) != description:
            raise ValueError(f"storage {key} is described twice and differently")
        offset = 0
        if view and view[0] is not None:
            _, offset, count = view[0]
        return _Storage(key, offset, count)


# ---- arrays ----


def _to_arrays(tree: Any, storages: Storages) -> Any:
    """Returns `tree` with arrays in the place of the stand-ins for tensors."""
    if isinstance(tree, _Tensor):
        return _to_array(tree, storages)
    if isinstance(tree, dict):
        return {key: _to_arrays(value, storages) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_to_arrays(value, storages) for value in tree)
    return tree


def _to_array(tensor: _Tensor, storages: Storages) -> np.ndarray:
    """Returns the numbers of a tensor, after checking that they lie within its storage."""
    (key, start, count), offset, size, stride = tensor
    numbers = storages[key]
    if start < 0 or count < 0 or start + count > numbers.size:
        raise ValueError(f"a view into storage {key} reaches beyond it")
    numbers = numbers[start : start + count]
    if min(offset, *size, *stride, 0) < 0:
        raise ValueError(f"a tensor has offset {offset}, size {size}, stride {stride}")
    elements = math.prod(size)
    if elements == 0:
        return np.zeros(size, numbers.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= numbers.size or elements > numbers.size:
        raise ValueError(f"a tensor of {size} reaches beyond its storage of {numbers.size}")
    steps = [step * numbers.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(numbers[offset:], size, steps).copy()
