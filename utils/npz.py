"""Arrays in .npz files that others wrote."""

import pathlib
import zipfile
import zlib

import numpy as np

from utils.errors import UserError


def read_npz(path) -> dict[str, np.ndarray]:
    """The arrays of an .npz. Raises UserError when it is missing, damaged, or holds Python objects (nothing is executed)."""
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path} does not exist; give an .npz file, or a folder of images")
    try:
        if not zipfile.is_zipfile(path):  # np.load would try to unpickle it, and say so
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
        raise UserError(
            f"{path} is damaged, or no .npz of plain arrays ({' '.join(str(error).split())[:120]}); get it again"
        ) from None
