"""Downloads from the Hugging Face hub and uploads to it, without the log lines of its client."""

import contextlib
import logging
import os
import pathlib
import re
import shlex
import socket
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence

from utils import storage
from utils.errors import UserError

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)  # OWNER/NAME
WEIGHTS = "model.safetensors"  # the file of a repository that holds its weights


def download_weights(repository: str, offline_way: str) -> pathlib.Path:
    """Returns the local copy of a repository's weights, fetched if it is not there yet.

    Args:
        repository: OWNER/REPOSITORY.
        offline_way: what to give in the place of the repository where there is no network.
    Raises:
        UserError: they cannot be fetched.
    """
    import huggingface_hub

    try:
        with quiet_client():
            return pathlib.Path(huggingface_hub.hf_hub_download(repository, WEIGHTS))
    except Exception as error:  # the client raises the errors of several network libraries
        raise UserError(
            f"cannot fetch {repository} ({type(error).__name__}): with no network, copy "
            f"{WEIGHTS} of https://huggingface.co/{repository} and give {offline_way}"
        ) from error


def download_snapshot(repository: str, patterns: Sequence[str]) -> pathlib.Path:
    """Returns the local copy of a repository's files that match the shell patterns.

    Raises whatever the hub's client raises: the errors of several network libraries.
    """
    import huggingface_hub

    with quiet_client():
        folder = huggingface_hub.snapshot_download(repository, allow_patterns=list(patterns))
    return pathlib.Path(folder)


def upload_folders(folders: Mapping[str, pathlib.Path], repository: str) -> list[str]:
    """Puts the files of folders into repositories, which are made if missing.

    Returns the addresses of their pages.

    Args:
        folders: by the kind of the repository, "model" or "space", a page of static files. What a
            repository has besides their files stays.
        repository: OWNER/REPOSITORY, the same for all kinds.
    Raises:
        UserError: not all are there now: no network, no login, or no right to write.
    """
    pages = []
    for kind, folder in folders.items():
        try:
            with quiet_client():
                pages.append(_upload(folder, repository, kind))
        except Exception as error:  # the client raises the errors of several network libraries
            missing = list(folders.items())[len(pages) :]
            commands = [upload_command(folder, repository, kind) for kind, folder in missing]
            raise UserError(
                f"{folder} is written, but not pushed ({_reason(error)}): with a network, and "
                f"after hf auth login, run {' && '.join(commands)}"
            ) from error
    return pages


def _upload(folder: pathlib.Path, repository: str, kind: str) -> str:
    import huggingface_hub

    hub = huggingface_hub.HfApi()
    sdk = "static" if kind == "space" else None
    page = hub.create_repo(repository, repo_type=kind, space_sdk=sdk, exist_ok=True)
    hub.upload_folder(
        repo_id=repository,
        repo_type=kind,
        folder_path=folder,
        commit_message="Upload by jax-drift",
    )
    return str(page)


def _reason(error: Exception) -> str:
    """Returns an error of the hub's client in one line."""
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "the hub is out of reach"
    return storage.reason(error)


def upload_command(folder: pathlib.Path, repository: str, kind: str) -> str:
    """Returns the command that puts a folder into a repository of a kind."""
    option = "" if kind == "model" else f" --repo-type {kind}"
    return f"hf upload {repository} {shlex.quote(str(folder))} .{option}"


@contextlib.contextmanager
def quiet_client() -> Iterator[None]:
    """Makes the hub's client quick and silent where the hub cannot be reached.

    Within it, where the hub is out of reach, downloads take what the cache holds at once; the
    client would try for half a minute. The client's lines about requests and retries are kept
    back: the caller says in one line what failed.
    """
    from huggingface_hub import constants

    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "httpx", "httpx2")]
    offline, levels = constants.HF_HUB_OFFLINE, [logger.level for logger in loggers]
    constants.HF_HUB_OFFLINE = offline or out_of_reach()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def out_of_reach() -> bool:
    """Returns whether the hub's name has no address here. A proxy, if any, resolves it itself."""
    from huggingface_hub import constants

    for scheme in ("http", "https", "all"):
        name = f"{scheme}_proxy"
        if os.environ.get(name) or os.environ.get(name.upper()):
            return False
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return True
    return False
