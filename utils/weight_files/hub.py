"""The Hugging Face hub's client, without its own log lines."""

import contextlib
import logging
import os
import socket
import urllib.parse
from collections.abc import Iterator


def out_of_reach() -> bool:
    """Whether the hub's name has no address here. False where a proxy resolves names."""
    import huggingface_hub.constants as hub

    if any(
        os.environ.get(f"{scheme}_proxy") or os.environ.get(f"{scheme.upper()}_PROXY")
        for scheme in ("http", "https", "all")
    ):
        return False
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(hub.ENDPOINT).hostname, 443)
    except OSError:
        return True
    return False


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Downloads within it take what the hub's cache holds, at once, where the hub is out of reach (the client would try for half a minute), and the client's warnings
    about retries are kept back: the caller says in one line what failed."""
    import huggingface_hub.constants as hub

    logger = logging.getLogger("huggingface_hub")
    offline, level = hub.HF_HUB_OFFLINE, logger.level
    hub.HF_HUB_OFFLINE = offline or out_of_reach()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = offline
        logger.setLevel(level)
