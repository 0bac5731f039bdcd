"""Features of real images on disk, so that a second evaluation costs its samples alone.

A file is named after everything that its features depend on: the data, as it lies on the disk, how
it is decoded, the network with its weights and resize, and the kind of device. What it holds is
made again wherever the file is missing, damaged or lacks something; any file may be deleted.

The folder has a limit. A file that was written may push out those that were used longest ago, which
several programs may do at once: a file is there whole or not at all.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from data import Dataset
from data.identity import identity
from evaluation.image_files import Images
from metrics.evidence import Evidence
from metrics.networks import Network
from utils import processes, storage
from utils.errors import UserError
from utils.files import replacing
from utils.npz import read_npz
from utils.paths import cache_folder, to_local, to_path

log = logging.getLogger("eval")

VERSION = 2  # of the files; another one where the same network gives other features
LARGEST = 4 << 30  # bytes of features that are kept of one set

# Files of the cache, and those that a program is writing or was killed at. Others are not touched.
OWN_FILE = re.compile(r"[0-9a-f]{32}\.npz|\.[0-9a-f]{32}\.\d+\.npz")

Found = tuple[Evidence, np.ndarray | None]  # and labels [N], where the images have some


def usual_folder() -> pathlib.Path:
    """Returns where features are kept when nothing is said."""
    return cache_folder() / "features"


class FeatureCache(NamedTuple):
    """The folder of the files, None: nothing is kept; and the bytes that they may take."""

    folder: pathlib.Path | None = None
    limit: int = 0

    def find(
        self,
        network: Network,
        facts: Callable[[], Mapping[str, Any]],
        with_features: bool,
        measure: Callable[[], Found],
    ) -> Found:
        """Returns what `measure` does, from disk where it is there. All processes must call it.

        Pixels are not kept: they are the images themselves.

        Args:
            network: What images become.
            facts: Gives what tells the images apart, for JSON; a value of None: nothing does.
            with_features: Whether the features of each image are needed, beside their moments.
            measure: Reads the images.
        """
        place = self._place(network, facts)
        if place is None:
            return measure()
        path, text = place
        found = _read(path, text, with_features)
        # All processes read the images or none: measuring is a work of all.
        if np.all(processes.concatenate_all(np.array([found is not None]))) and found:
            log.info("features of %d real images: %s", found[0].count, path)
            return found
        found = measure()
        if processes.is_first():
            _write(path, text, found, with_features and self._may_keep(found))
            _remove_oldest(path.parent, self.limit, path)
        return found

    def has(
        self, network: Network, facts: Callable[[], Mapping[str, Any]], with_features: bool
    ) -> bool:
        """Returns whether `find` would hardly measure. All processes must call it.

        A file may still turn out to be damaged when it is read as a whole.
        """
        place = self._place(network, facts)
        is_here = place is not None and _holds(place[0], with_features)
        return bool(np.all(processes.concatenate_all(np.array([is_here]))))

    def _place(
        self, network: Network, facts: Callable[[], Mapping[str, Any]]
    ) -> tuple[pathlib.Path, str] | None:
        """Returns the file of some images, and the key that it must hold; None: none is kept."""
        if self.folder is None or network.params is None:
            return None
        of_images = facts()
        if None in of_images.values():
            return None
        device = jax.devices()[0].device_kind
        key = {"version": VERSION, "device": device, **of_images, **network.facts}
        text = json.dumps(key, sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz", text

    def _may_keep(self, found: Found) -> bool:
        """Returns whether features are not too many to be kept."""
        features = found[0].features
        return features is not None and features.nbytes <= min(LARGEST, self.limit)


NO_CACHE = FeatureCache()


def open_cache(folder: str, limit_gib: float) -> FeatureCache:
    """Returns the cache of --feature_cache and --feature_cache_gib.

    Args:
        folder: "none" is no folder, "" the usual one.
        limit_gib: what its files may take, in GiB.
    """
    if folder == "none":
        return NO_CACHE
    return FeatureCache(to_path(folder) if folder else usual_folder(), round(limit_gib * 2**30))


# ---------------------------------------------------------------- what tells images apart


def dataset_facts(dataset: Dataset, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns what tells a split apart: its content and how it is decoded.

    Of files these are the names, sizes and times of all; of other sets the number of samples and
    the content of some.
    """
    facts = {"dataset_name": dataset.name, "split": dataset.split, "shape": dataset.shape}
    facts["data"] = {} if options is None else dict(options)
    files = getattr(getattr(dataset.samples, "read", None), "files", None)
    kind, _, path = dataset.name.partition(":")
    if kind == "npz":  # one file, of which `identity` looks at some samples
        files = [str(to_local(path))]
    return facts | identity(dataset) | ({} if files is None else {"files": _of_files(files)})


def image_facts(images: Images) -> dict[str, Any]:
    """Returns what tells images apart: names, sizes and times of files, or all of an array.

    Labels count too, since they are kept beside the features.
    """
    labels = 0  # None would mean that nothing tells them apart
    if images.labels is not None:
        labels = zlib.crc32(np.ascontiguousarray(images.labels).data)
    if isinstance(images.items, np.ndarray):
        checksum = zlib.crc32(np.ascontiguousarray(images.items).data)
        return {"images": [list(images.items.shape), checksum], "labels": labels}
    return {"images": _of_files(images.items), "channels": images.channels, "labels": labels}


def _of_files(files: Iterable[str]) -> str | None:
    """Returns a checksum of the names, sizes and times of files; None for copies from a bucket.

    A copy has the time when it was made, so that it could never be recognised.
    """
    digest = hashlib.sha256()
    for file in files:
        if storage.is_copy(file):
            return None
        found = os.stat(file)
        digest.update(f"{file}\n{found.st_size} {found.st_mtime_ns}\n".encode(errors="replace"))
    return digest.hexdigest()


# ---------------------------------------------------------------- files


def _read(path: pathlib.Path, key: str, with_features: bool) -> Found | None:
    """Returns what a file holds; None where it is missing, damaged, or lacks the features."""
    if not path.is_file():
        return None
    try:
        arrays = read_npz(path)
        if str(arrays["key"]) != key or (with_features and "features" not in arrays):
            return None
        count, mu, sigma = int(arrays["count"]), arrays["mu"], arrays["sigma"]
    except (UserError, KeyError, ValueError) as error:
        log.warning("%s: %s; it is made again", path, error)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # It was used now; see `_remove_oldest`.
    features = arrays["features"] if with_features else None
    return Evidence(count, mu, sigma, features), arrays.get("labels")


def _holds(path: pathlib.Path, with_features: bool) -> bool:
    """Returns whether a file is there, with features where they are needed."""
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return not with_features or "features.npy" in file.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _write(path: pathlib.Path, key: str, found: Found, with_features: bool) -> None:
    """Writes a file. Where that cannot be done, a line says so: the scores do not depend on it."""
    evidence, labels = found
    arrays: dict[str, Any] = {"key": key, "count": evidence.count}
    arrays |= {"mu": evidence.mu, "sigma": evidence.sigma}
    if with_features:
        arrays["features"] = evidence.features
    if labels is not None:
        arrays["labels"] = labels
    try:
        with replacing(path) as temporary:
            np.savez(temporary, **arrays)
    except UserError as error:
        log.warning("--feature_cache: %s", error)


def _remove_oldest(folder: pathlib.Path, limit: int, newest: pathlib.Path) -> None:
    """Removes the files that were used longest ago until the others take at most `limit` bytes.

    newest: Is not removed, however large. What other programs remove meanwhile is gone as well.
    """
    files = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if OWN_FILE.fullmatch(entry.name) and entry.name != newest.name:
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat()
                    files.append((found.st_mtime_ns, found.st_size, entry.path))
        total = newest.stat().st_size + sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= limit:
                return
            pathlib.Path(path).unlink(missing_ok=True)
            total -= size
            log.info("--feature_cache: %s removed, to keep within the limit", path)
