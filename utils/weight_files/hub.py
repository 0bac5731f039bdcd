"""Downloads from the Hugging Face hub, without the log lines of its client."""

import contextlib
import logging
import os
import pathlib
import socket
import urllib.parse
from collections.abc import Iterator, Sequence

from utils.errors import UserError

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


@contextlib.contextmanager
def quiet_client() -> Iterator[None]:
    """Makes the hub's client quick and silent where the hub cannot be reached.

    Within it, where the hub is out of reach, downloads take what the cache holds at once; the
    client would try for half a minute. The client's warnings about retries are kept back: the
    caller says in one line what failed.
    """
    from huggingface_hub import constants

    logger = logging.getLogger("huggingface_hub")
    offline, level = constants.HF_HUB_OFFLINE, logger.level
    constants.HF_HUB_OFFLINE = offline or out_of_reach()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
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
