"""Arrays in .npz files, which may come from anyone."""

import os
import pathlib
import zipfile
import zlib

import numpy as np

from utils.errors import UserError


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz by name. Nothing in the file is executed.

    Raises:
        UserError: the file is missing, damaged, or holds Python objects.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path} does not exist; give an .npz file, or a folder of images")
    try:
        # np.load would try to unpickle a file of another kind, and its message would say so.
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("not a zip file")
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (
        OSError,
        EOFError,
        ValueError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path} is damaged, or no .npz of plain arrays ({reason}); get it again"
        ) from None
