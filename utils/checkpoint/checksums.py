"""crc32.json of a checkpoint: the size and the CRC-32 of each of its files.

{"crc32": of the rest of this file, "files": {"params/manifest.ocdbt": [size in bytes, CRC-32]}}
"""

import json
import pathlib
import zlib
from collections.abc import Sequence

from utils import storage

CHECKSUMS = "crc32.json"
METADATA = "metadata"  # the item that every checkpoint has, and the file in it
MARK = "commit_success.txt"  # Orbax's, of an item or a step in a bucket
WRITTEN_LATER = ("_CHECKPOINT_METADATA", MARK)  # by Orbax; we do not read them
BLOCK = 2**20  # bytes that are read at a time

Checksums = dict[str, list[int]]  # {name of a file: [size in bytes, CRC-32]}


def write_checksums(folder: pathlib.Path) -> None:
    """Writes crc32.json for all files that are in the folder of a step now."""
    names = [name for name in storage.files_below(folder) if name not in WRITTEN_LATER]
    sums = {name: _checksum(folder / name) for name in names}
    content = {"crc32": _checksum_of_all(sums), "files": sums}
    (folder / CHECKSUMS).write_text(json.dumps(content))


def read_checksums(folder: pathlib.Path) -> Checksums:
    """Reads crc32.json. Raises ValueError when its own content is not what was written."""
    content = json.loads((folder / CHECKSUMS).read_text())
    if content["crc32"] != _checksum_of_all(content["files"]):
        raise ValueError(f"{CHECKSUMS} was changed")
    return content["files"]


def item_names(folder: pathlib.Path) -> list[str]:
    """Returns the names of the items of a step, such as "params", sorted; without the metadata."""
    return sorted({_item(name) for name in read_checksums(folder)} - {METADATA})


def find_damage(folder: pathlib.Path, items: Sequence[str]) -> str | None:
    """Returns in words what is wrong with the files of a step, or None when all is well.

    Args:
        folder: that of the step.
        items: the items that will be read. Every byte of theirs, and of the metadata, is checked.
            With none, as for a first look at the metadata, all other files must have their size.
    """
    must_be_whole = {*items, METADATA}
    try:
        written = read_checksums(folder)
        sizes = storage.files_below(folder)
        for name, (size, crc) in written.items():
            file = folder / name
            is_read = _item(name) in must_be_whole
            if (is_read or not items) and name not in sizes:
                return f"{name} is missing"
            if (is_read or not items) and sizes[name] != size:
                return f"{name} was truncated"
            if is_read and _checksum(file) != [size, crc]:
                return f"{name} was changed"
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing"
    except OSError as error:
        return f"{error.filename}: {error.strerror or storage.reason(error)}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # a damaged crc32.json
        return f"{CHECKSUMS}: {error}"
    return None


def _item(name: str) -> str:
    """Returns the item that a file belongs to: "params" for "params/manifest.ocdbt"."""
    return name.split("/")[0]


def _checksum(file: pathlib.Path) -> list[int]:
    """Returns [size in bytes, CRC-32] of a file."""
    size = crc = 0
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            size += len(block)
            crc = zlib.crc32(block, crc)
    return [size, crc]


def _checksum_of_all(sums: Checksums) -> int:
    return zlib.crc32(json.dumps(sums, sort_keys=True).encode())
