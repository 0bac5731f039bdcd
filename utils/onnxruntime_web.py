"""The program that runs ONNX models in browsers: the package onnxruntime-web of npm.

It is fetched once by npm, which checks what it gets, and kept in the user's cache.
"""

import pathlib
import shutil
import subprocess
import tarfile

from utils.errors import UserError
from utils.files import cannot_write
from utils.paths import cache_folder

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
# The script that a page loads for each way to compute, and the program that the script loads.
FILES = {
    "webgpu": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
}


def copy_runtime(folder: pathlib.Path, source: str = "") -> None:
    """Copies the files that a page needs.

    Args:
        folder: where they go; made if missing.
        source: the package unpacked, or its .tgz; "" takes that of the cache, or npm's.
    Raises:
        UserError: it is not there, is something else, or cannot be fetched.
    """
    package = _unpacked(pathlib.Path(source)) if source else _fetched()
    names = [name for files in FILES.values() for name in files]
    found = {name: next(iter(package.rglob(name)), None) for name in names}
    missing = sorted(name for name, file in found.items() if file is None)
    if missing:
        raise UserError(
            f"--onnxruntime_web {source or package}: it has no {missing[0]}: give the package "
            f"{PACKAGE} of npm, unpacked or as .tgz"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in found.items():
            shutil.copyfile(str(file), folder / name)
    except OSError as error:
        raise cannot_write(folder, error) from error


def _unpacked(source: pathlib.Path) -> pathlib.Path:
    """Returns the folder of a package, which may be a .tgz."""
    if source.is_dir():
        return source
    if not source.is_file():
        raise UserError(
            f"--onnxruntime_web {source}: there is nothing; give the package {PACKAGE} of npm, "
            "unpacked or as .tgz"
        )
    return _unpack(source)


def _fetched() -> pathlib.Path:
    """Returns the folder of the package in the cache, fetched by npm if it is not there yet."""
    cache = cache_folder()
    folder = cache / f"onnxruntime-web-{VERSION}"
    if folder.is_dir():
        return folder
    advice = (
        f"on a machine that has both, run 'npm pack {PACKAGE}', and give the file here as "
        "--onnxruntime_web FILE"
    )
    if shutil.which("npm") is None:
        raise UserError(f"npm is missing, which fetches {PACKAGE}: install it, or {advice}")
    cache.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", "--silent", "--pack-destination", str(cache), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise UserError(f"npm cannot fetch {PACKAGE} ({lines[0][:120]}): {advice}")
    archive = cache / done.stdout.strip().splitlines()[-1]
    _unpack(archive).rename(folder)
    archive.unlink()
    return folder


def _unpack(archive: pathlib.Path) -> pathlib.Path:
    """Unpacks a .tgz of npm into a folder beside the cache's others, and returns it."""
    folder = cache_folder() / f"{archive.stem}.unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"{archive} is no package of npm ({type(error).__name__}): run 'npm pack {PACKAGE}'"
        ) from error
    return folder
