"""Arrays in .npz and .npy files, which may come from anyone.

Everything that a file says of itself is checked before anything is unpacked or allocated: how it is
packed, and that the shape in each header is that of the bytes which follow.
"""

import math
import os
import pathlib
import zipfile
from typing import IO

import numpy as np

from utils.errors import UserError
from utils.paths import to_local

# Deflate packs zeros a thousand to one. Images and features stay far below this, so that more than
# so many bytes, packed more tightly, are no arrays but an attempt to fill the memory.
TIGHTEST_PACKING = 200
LARGEST_TIGHTLY_PACKED = 64 << 20

HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz by name. Nothing in the file is executed.

    Raises:
        UserError: the file is missing, damaged, or holds anything but plain arrays.
    """
    path = find_file(path, "an .npz file, or a folder of images")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not a zip file")
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, path.stat().st_size)
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # a damaged archive can fail in any way
        raise not_arrays(path, ".npz", error) from None


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """Returns the array of an .npy. Nothing in the file is executed.

    Raises:
        UserError: as of `read_npz`.
    """
    path = find_file(path, "an .npy file")
    try:
        with open(path, "rb") as file:
            check_header(file, path.stat().st_size)
        return np.load(path, allow_pickle=False)
    except Exception as error:
        raise not_arrays(path, ".npy", error) from None


def find_file(path: str | os.PathLike, wanted: str) -> pathlib.Path:
    """Returns the path of a file. Raises UserError, which says what is wanted, if there is none."""
    path = to_local(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; give {wanted}")
    return path


def not_arrays(path: pathlib.Path, kind: str, error: Exception) -> UserError:
    """Returns the one line that says why a file is not read."""
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return UserError(f"{path} is damaged, or no {kind} of plain arrays ({reason}); get it again")


# ---------------------------------------------------------------- what a file says of itself


def check_archive(archive: zipfile.ZipFile, file_size: int) -> None:
    """Raises ValueError unless each member is a plain array that fits into the file.

    file_size: of the archive, in bytes.
    """
    members = archive.infolist()
    for member in members:
        check_member(member)
    packed = sum(member.compress_size for member in members)
    unpacked = sum(member.file_size for member in members)
    if packed > file_size:
        raise ValueError(f"its members have {packed} bytes, the file itself {file_size}")
    if unpacked > max(LARGEST_TIGHTLY_PACKED, TIGHTEST_PACKING * packed):
        raise ValueError(f"{packed} bytes would become {unpacked}, which no array does")
    for member in members:
        with archive.open(member) as file:
            try:
                check_header(file, member.file_size)
            except ValueError as error:
                raise ValueError(f"{member.filename[:40]}: {error}") from None


def check_member(member: zipfile.ZipInfo) -> None:
    """Raises ValueError for a member of an archive that NumPy would not have written."""
    name = member.filename[:40]
    parts = pathlib.PurePosixPath(member.filename.replace("\\", "/")).parts
    if ".." in parts or "/" in parts:
        raise ValueError(f"{name!r} is a path, expected the name of an array")
    if member.flag_bits & 1:
        raise ValueError(f"{name} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in the way {member.compress_type}, expected 0 or 8")
    if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
        raise ValueError(f"{name} has two sizes, {member.compress_size} and {member.file_size}")


def check_header(file: IO[bytes], size: int) -> None:
    """Raises ValueError unless an .npy holds a plain array of exactly `size` bytes with its header.

    file: open at its start. Nothing but the header is read.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in HEADER_READERS:
            raise ValueError(f"a header of version {version}, expected {list(HEADER_READERS)}")
        shape, _, dtype = HEADER_READERS[version](file)
    except Exception as error:  # the header is parsed as Python's literals, which fail in many ways
        raise ValueError(str(error) or type(error).__name__) from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if min(shape, default=0) < 0:
        raise ValueError(f"the shape {list(shape)}")
    expected = file.tell() + math.prod(shape) * dtype.itemsize
    if expected != size:
        raise ValueError(f"{list(shape)} of {dtype} need {expected} bytes, there are {size}")
