"""Arrays in pickles, which may come from anyone, without running what is in them.

A pickle can call any importable function. This reader resolves only the few names that NumPy's own
pickles have, to stand-ins that build arrays out of bytes and check them, and refuses every other
name before anything is called.

Data alone can do harm too: a short pickle can make a tuple of tuples so deep that Python crashes
when it becomes a key, or so wide that this takes for ever. So no tuple may be a key.
"""

import io
import math
import os
import pickle
import pickletools
from collections.abc import Iterable
from typing import Any

import numpy as np

from utils.errors import UserError

PLAIN = "fiub"  # kinds of numbers: floats, integers, truth values
BOOKMARKS = ("PUT", "BINPUT", "LONG_BINPUT")  # each makes a table as long as its number says
SETS = ("EMPTY_SET", "ADDITEMS", "FROZENSET")
LARGEST_AXIS = 1 << 48
MOST_AXES = 32


def read_pickled_arrays(path: str | os.PathLike) -> Any:
    """Returns what was pickled: plain containers, numbers, text and arrays of numbers.

    Raises:
        UserError: the file cannot be read, is damaged, or names anything but NumPy's arrays. The
            message then has that name, and nothing of the file was run.
    """
    try:
        with open(path, "rb") as file:
            pickled = file.read()
        check_opcodes(pickled)
        return _Unpickler(io.BytesIO(pickled)).load()
    except _NoArray as error:
        raise UserError(
            f"{path} asks for {error}, which is no array; it was not run. Save the arrays as .npz"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(
            f"{path} is damaged, or no pickle of plain arrays ({reason}); get it again"
        ) from None


def check_opcodes(pickled: bytes) -> None:
    """Raises ValueError for a pickle that is cut off, or that would reserve memory it does not use.

    Every length in it is compared with the bytes that are there, and nothing is built.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if opcode.name in BOOKMARKS and isinstance(argument, int) and argument > count:
            raise ValueError(f"it reserves {argument} places after {count} steps")
        if opcode.name in SETS:
            raise ValueError("it has a set, which no statistics need")


def check_keys(keys: Iterable) -> None:
    """Raises ValueError for keys whose contents would have to be gone through."""
    if any(isinstance(key, tuple) for key in keys):
        raise ValueError("a key is a tuple, expected a name")


# ---------------------------------------------------------------- the few names it may use


class _NoArray(Exception):
    """A name that the file asks for and that no array needs."""


class _Global:
    """Stands for an allowed name. A pickle cannot set attributes of it: it has no slots."""

    __slots__ = ()


class _ArrayType(_Global):
    """Stands for numpy.ndarray, which is only handed to `_Reconstruct`."""

    __slots__ = ()


class _NumberType:
    """What the pickle leaves in the place of a dtype: a kind, a size and an order of bytes."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype

    def __setstate__(self, state: tuple):
        """state: (version, order of bytes, ...), the rest of which only structures need."""
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _DType(_Global):
    """Stands for numpy.dtype(text, align, copy)."""

    __slots__ = ()

    def __call__(self, text, *_):
        dtype = np.dtype(text) if isinstance(text, str) else np.dtype(object)
        if dtype.kind not in PLAIN:
            raise ValueError(f"an array of {str(text)[:40]}, expected numbers")
        return _NumberType(dtype)


class _Dict(dict):
    """Stands for a kind of dict, which may get its entries as a list of pairs."""

    __slots__ = ()

    def __init__(self, pairs=()):
        check_keys(key for key, _ in pairs)
        super().__init__(pairs)


class _Array:
    """What the pickle makes first of an array: it gets its contents afterwards."""

    __slots__ = ("array",)

    def __init__(self):
        self.array = np.zeros(0)

    def __setstate__(self, state: tuple):
        """state: (version, shape, dtype, whether in Fortran's order, bytes)."""
        _, shape, dtype, fortran, numbers = state
        self.array = to_array(numbers, dtype, shape, "F" if fortran else "C")


class _Reconstruct(_Global):
    """Stands for numpy.core.multiarray._reconstruct(class, shape, kind)."""

    __slots__ = ()

    def __call__(self, *_):
        return _Array()


class _FromBuffer(_Global):
    """Stands for numpy.core.numeric._frombuffer(bytes, dtype, shape, order), of protocol 5."""

    __slots__ = ()

    def __call__(self, numbers, dtype, shape, order, *_):
        made = _Array()
        made.array = to_array(numbers, dtype, shape, order)
        return made


class _Scalar(_Global):
    """Stands for numpy.core.multiarray.scalar(dtype, bytes)."""

    __slots__ = ()

    def __call__(self, dtype, numbers):
        return to_array(numbers, dtype, (), "C").item()


GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dict,
    ("dnnlib.util", "EasyDict"): _Dict,  # a dict of the EDM programs
    ("numpy", "ndarray"): _ArrayType(),
    ("numpy", "dtype"): _DType(),
}
for _core in ("numpy.core", "numpy._core"):  # before NumPy 2, and since
    GLOBALS[f"{_core}.multiarray", "_reconstruct"] = _Reconstruct()
    GLOBALS[f"{_core}.multiarray", "scalar"] = _Scalar()
    GLOBALS[f"{_core}.numeric", "_frombuffer"] = _FromBuffer()


# The one of the standard library that is written in Python, so that keys can be looked at.
_Base: Any = pickle._Unpickler


class _Unpickler(_Base):
    """Unpickles with GLOBALS alone, and without tuples for keys."""

    dispatch: dict[int, Any] = dict(_Base.dispatch)

    def find_class(self, module, name):
        if (module, name) not in GLOBALS:
            raise _NoArray(f"{module}.{name}"[:80])
        return GLOBALS[module, name]

    def load_setitem(self):
        check_keys([self.stack[-2]])
        super().load_setitem()

    def load_setitems(self):
        check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self):
        check_keys(self.stack[::2])
        super().load_dict()

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict


# ---------------------------------------------------------------- arrays


def to_array(numbers: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """Returns the array of some bytes, after checking that they are as many as its shape says."""
    numbers = memoryview(numbers)  # no copy: a pickle may name the same bytes a thousand times
    if not isinstance(dtype, _NumberType) or not isinstance(shape, tuple):
        raise ValueError("an array without a type or a shape")
    if len(shape) > MOST_AXES or not all(isinstance(n, int) for n in shape):
        raise ValueError("an array whose shape is not a few numbers")
    if not all(0 <= n < LARGEST_AXIS for n in shape):
        raise ValueError("an array of a size that none has")
    expected = math.prod(shape) * dtype.dtype.itemsize
    if expected != numbers.nbytes:
        raise ValueError(
            f"{list(shape)} of {dtype.dtype} need {expected} bytes, not {numbers.nbytes}"
        )
    return np.frombuffer(numbers, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def array_of(value: Any) -> np.ndarray | None:
    """Returns the array that `read_pickled_arrays` found at some place; None if it is no array."""
    return value.array if isinstance(value, _Array) else None
