"""Files of this machine and objects in a bucket, by the same calls.

A path is a `pathlib.Path` or, for gs://bucket/x and s3://bucket/x, an `etils.epath.Path`, which has
the same methods. What differs between the two is in this file, in `utils/folder_lock.py` and in
`utils/checkpoint/`; nothing else asks where a folder is. In a bucket

    a file appears whole or not at all, in one request, and replaces the one before;
    nothing can be renamed or appended to, and there are no empty folders;
    what is listed is what is there, because no listing is kept.

The credentials are the platform's own, found by the libraries; they are not read here.
"""

import atexit
import functools
import importlib.util
import io
import os
import pathlib
import shutil
import tempfile
from typing import Any, cast

from utils.errors import UserError

PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}  # what reads and writes the objects of each store
CONFLICTS = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")  # of S3
PREFIXES = tuple(f"{scheme}://" for scheme in PACKAGES)


# ---- where a path leads ----


def is_bucket(path: Any) -> bool:
    """Returns whether a path, or the text of one, is in a bucket."""
    return os.fspath(path).startswith(PREFIXES)


def as_path(path: str | os.PathLike) -> pathlib.Path:
    """Returns a path with the methods of `pathlib.Path`, wherever it is.

    Raises:
        UserError: a bucket cannot be reached; said before anything is read or written.
    """
    if not is_bucket(path):
        return pathlib.Path(path)
    scheme, _, rest = os.fspath(path).partition("://")
    reach(scheme, rest.partition("/")[0])
    from etils import epath

    return cast(pathlib.Path, epath.Path(path))


@functools.cache
def reach(scheme: str, bucket: str) -> None:
    """Lists one object of a bucket. Raises UserError where that is not possible."""
    package = PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{scheme}://{bucket} needs the package {package}: pip install -r "
            "requirements-buckets.txt"
        )
    if not bucket:
        raise UserError(f"{scheme}://: expected a bucket and a folder, {scheme}://bucket/folder")
    try:
        files = file_system(f"{scheme}://")
        if scheme == "gs":
            files.call("GET", "b/{}/o", bucket, maxResults=1, json_out=True)
        else:
            files.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
    except Exception as error:  # of the libraries, of which each has its own
        raise UserError(
            f"{scheme}://{bucket} cannot be listed ({reason(error)}); give a bucket that is there, "
            "and see that this machine has credentials for it"
        ) from None


def file_system(path: Any) -> Any:
    """Returns the fsspec file system of a path in a bucket: the one that `epath` uses."""
    import fsspec
    from fsspec.config import conf

    for name in PREFIXES:
        # Another process may write, and what it writes counts at once.
        conf.setdefault(name.partition(":")[0], {})["use_listings_cache"] = False
    if os.fspath(path).startswith("gs://"):
        return fsspec.filesystem("gcs", finalize_on_close=True)
    return fsspec.filesystem("s3")


def reason(error: BaseException) -> str:
    """Returns the beginning of what a library says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


# ---- files ----


def publish(temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Puts a finished file of this machine at its place, whole, over the one before.

    Raises:
        OSError: it cannot be written there.
    """
    if not is_bucket(path):
        os.replace(temporary, path)
        return
    try:
        file_system(path).put_file(str(temporary), str(path))
    except Exception as error:
        raise OSError(0, reason(error)) from error
    temporary.unlink()


def temporary_for(path: pathlib.Path) -> pathlib.Path:
    """Returns where to write a file before it is published: beside it, or for a bucket here."""
    if not is_bucket(path):
        return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    return _scratch() / f"{os.getpid()}.{path.name}"


def write(path: pathlib.Path, content: bytes) -> None:
    """Writes a file whole or not at all. Raises OSError."""
    temporary = temporary_for(path)
    try:
        temporary.write_bytes(content)
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def append(path: pathlib.Path, text: str) -> None:
    """Adds to a small file; in a bucket it is read and written again. Raises OSError."""
    if not is_bucket(path):
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
        return
    before = path.read_bytes() if path.exists() else b""
    write(path, before + text.encode())


def open_text(path: pathlib.Path, errors: str = "strict", newline: str | None = None) -> Any:
    """Opens a file to read text in UTF-8; `errors` and `newline` are those of `open`."""
    return io.TextIOWrapper(path.open("rb"), encoding="utf-8", errors=errors, newline=newline)


# ---- objects that several programs write ----


def read_version(path: pathlib.Path) -> tuple[bytes, str | None]:
    """Returns the content of an object and its version; (b"", None) where there is none."""
    files = file_system(path)
    try:
        facts = files.info(str(path))
        version = facts["generation"] if str(path).startswith("gs://") else facts["ETag"]
        return files.cat_file(str(path)), version
    except FileNotFoundError:
        return b"", None


def write_if(path: pathlib.Path, content: bytes, version: str | None) -> str | None:
    """Writes an object, if it still has the version that is given; the store itself compares.

    Args:
        path: in a bucket.
        content: of the object.
        version: as `read_version` returns it; None: only if there is no object.
    Returns:
        The new version; None where the object has another one, so that nothing is written.
    """
    files = file_system(path)
    bucket, key, _ = files.split_path(str(path))
    try:
        if str(path).startswith("gs://"):
            written = files.call(
                "POST",
                files.base.replace("/storage/v1/", "/upload/storage/v1/") + f"b/{bucket}/o",
                uploadType="media",
                name=key,
                ifGenerationMatch=version or "0",
                data=content,
                json_out=True,
            )
            return written["generation"]
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        written = files.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)
        return written["ETag"]
    except FileNotFoundError:  # it was removed
        return None
    except Exception as error:
        if _is_conflict(error):
            return None
        raise


def _is_conflict(error: BaseException | None) -> bool:
    """Returns whether a store says that an object has another version.

    A store that is busy is another error, though the libraries may have one word for both.
    """
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):  # of S3
            return response.get("Error", {}).get("Code") in CONFLICTS
        if isinstance(error, FileExistsError):  # of Google Cloud Storage
            return True
        error = error.__cause__ or error.__context__
    return False


# ---- folders ----


def files_below(folder: pathlib.Path) -> dict[str, int]:
    """Returns {"path/in/folder": size in bytes} of all files, also of subfolders, sorted."""
    if is_bucket(folder):
        root = str(folder).partition("://")[2].rstrip("/") + "/"
        found = file_system(folder).find(str(folder), detail=True)
        sizes = {name.removeprefix(root): facts["size"] for name, facts in found.items()}
        return {name: sizes[name] for name in sorted(sizes) if not name.endswith("/")}
    files = [file for file in folder.rglob("*") if file.is_file()]
    names = sorted(file.relative_to(folder).as_posix() for file in files)
    return {name: (folder / name).stat().st_size for name in names}


def remove_folder(folder: pathlib.Path, first: str = "") -> None:
    """Removes a folder, if it is there. In a bucket `first` is a file that goes before others."""
    if not is_bucket(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    names = list(files_below(folder))
    if first in names:
        (folder / first).unlink()
        names.remove(first)
    if names:
        file_system(folder).rm([str(folder / name) for name in names])


def move_folder(source: pathlib.Path, target: pathlib.Path, mark: str) -> None:
    """Moves a folder over another one.

    mark: a file of the source without which it does not count. In a bucket the files are copied,
        and the mark is removed first, so that a folder which is half moved counts at one place.
    """
    remove_folder(target, mark)
    if not is_bucket(source):
        source.rename(target)
        return
    files = file_system(source)
    for name in sorted(files_below(source), key=mark.__eq__):  # the mark comes last
        files.cp_file(str(source / name), str(target / name))
    remove_folder(source, mark)


# ---- copies on this machine, for what cannot be read from afar ----


def local(path: str | os.PathLike) -> pathlib.Path:
    """Returns a file or a folder as one of this machine: from a bucket, a copy for this process.

    Raises:
        UserError: it is not in the bucket or cannot be read, or the disk is full.
    """
    path = as_path(path)
    if not is_bucket(path):
        return path
    return _copy_here(str(path))


def is_copy(path: str | os.PathLike) -> bool:
    """Returns whether a file is a copy that `local` has made."""
    has_copies = _scratch.cache_info().currsize > 0  # asking for the folder would make it
    return has_copies and pathlib.Path(path).is_relative_to(_scratch() / "copies")


@functools.cache
def _copy_here(address: str) -> pathlib.Path:
    path = as_path(address)
    target = _scratch() / "copies" / address.partition("://")[2]
    if not path.exists():
        raise UserError(f"{address} does not exist; give a file or folder that is in the bucket")
    if path.is_file():
        status: Any = path.stat()  # of etils, where a size is called length
        sizes = {"": status.length}
    else:
        sizes = files_below(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if sum(sizes.values()) > free:
        raise UserError(
            f"{address}: {sum(sizes.values()) / 1e9:.1f} GB are copied to {target.parent} first, "
            f"and {free / 1e9:.1f} GB are free there; give another TMPDIR"
        )
    sources = [f"{address}/{name}" if name else address for name in sizes]
    targets = [target / name if name else target for name in sizes]
    for folder in {file.parent for file in targets}:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        file_system(address).get(sources, [str(file) for file in targets])
    except Exception as error:
        raise UserError(f"{address} could not be read ({reason(error)})") from None
    return target


@functools.cache
def _scratch() -> pathlib.Path:
    """Returns a folder of this process that is removed when it ends."""
    folder = tempfile.mkdtemp(prefix="jax-drift-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pathlib.Path(folder)
