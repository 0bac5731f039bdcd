"""What tells whether two data sets are the same data, wherever they lie.

A run may go on when its data has moved to another folder, but not with other data.
"""

import zlib
from typing import Any

import numpy as np

from data.dataset import Dataset
from data.images import Images

LOOKED_AT = 16  # samples, spread over the set, whose content is compared
LOOKED_AT_IN_STREAMS = 2  # each of them takes reading a row group


def identity(dataset: Dataset) -> dict[str, Any]:
    """Returns the names of the classes, the number of samples, and a checksum, for JSON.

    The checksum is the CRC-32 of the names of all samples, where they have names, and of the
    content and the label of some. The content is that of the files: it does not depend on how they
    are decoded, cropped or resized. Conditions count as a whole.
    """
    n = len(dataset.samples)
    looked_at = LOOKED_AT_IN_STREAMS if dataset.order else LOOKED_AT
    crc = zlib.crc32(_names(dataset.samples))
    for index in sorted({i * n // looked_at for i in range(looked_at)}):
        content, label = _content(dataset.samples, index)
        crc = zlib.crc32(content, crc)
        crc = zlib.crc32(str(label).encode(), crc)
    if dataset.conditions is not None:
        crc = zlib.crc32(dataset.conditions.tobytes(), crc)
    return {"class_names": list(dataset.class_names), "samples": n, "crc32": crc}


def _names(samples: Any) -> bytes:
    """Returns the names of all samples in one text; b"" where they have none."""
    read = samples.read if isinstance(samples, Images) else None
    return "\n".join(getattr(read, "names", ())).encode(errors="surrogateescape")


def _content(samples: Any, index: int) -> tuple[bytes, int]:
    """Returns what is stored of a sample, and its label; nothing of one that cannot be read."""
    try:
        if isinstance(samples, Images):
            content, label, _ = samples.read(index)
        else:
            sample = samples[index]
            content, label = sample["image"], sample["label"]
        if not isinstance(content, bytes):
            content = np.ascontiguousarray(content).tobytes()
        return content, int(label)
    except Exception:  # of several libraries: the pipeline is what skips and counts these
        return b"", -1


def moved(before: str, now: str) -> bool:
    """Returns whether two names of data sets may mean the same data at different paths."""
    kind, _, source = before.partition(":")
    kind_now, _, source_now = now.partition(":")
    return before != now and kind == kind_now and bool(source and source_now)


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Returns in words how two identities differ, or ""."""
    if before["samples"] != now["samples"]:
        return f"{before['samples']:,} samples then and {now['samples']:,} now"
    if before["crc32"] != now["crc32"]:
        return "other names or other content of samples"
    return ""


def renamed_classes(before: list[str], now: list[str], shown: int = 12) -> str:
    """Returns both lists of classes in words where they differ, or ""."""
    if list(before) == list(now):
        return ""

    def listed(names: list[str]) -> str:
        more = f" and {len(names) - shown} more" if len(names) > shown else ""
        return ", ".join(names[:shown]) + more

    first = 0
    for old, new in zip(before, now, strict=False):
        if old != new:
            break
        first += 1
    start = max(0, first - shown // 2) if first >= shown else 0
    place = f", from class {start} on" if start else ""
    return (
        f"its {len(before)} classes are {listed(before[start:])}{place}, "
        f"but the data now has {len(now)}: {listed(now[start:])}"
    )
