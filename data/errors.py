"""The errors of other libraries in one line, and what a user can do about them."""

import errno
import re

from data.hub_cards import Card

# Types of errors, besides ConnectionError, when the hub is out of reach. They belong to several
# libraries, whose versions differ in where they are defined.
OUT_OF_REACH = (
    "OfflineModeIsEnabled",
    "LocalEntryNotFoundError",
    "ConnectTimeout",
    "ConnectError",
)


def in_words(error: Exception, length: int = 120) -> str:
    """Returns the type of an error and the first characters of its text, in one line."""
    return f"{type(error).__name__}: {_text(error, length)}"


def _text(error: Exception, length: int) -> str:
    return " ".join(str(error).split())[:length]


def explain(name: str, source: str, is_local: bool, card: Card | None, error: Exception) -> str:
    """Returns why a data set could not be opened, and what to do, in one line.

    Args:
        name: As given on the command line.
        source: The path, or the name on the hub, that it was read from.
        is_local: Whether `source` is a path.
        card: Of a well-known data set.
        error: What was raised, by whichever library.
    """
    causes = _causes(error)
    text = _text(error, 200)
    if "Config name is missing" in text or "BuilderConfig" in text:
        listed = re.search(r"(?:available configs|Available): (\[[^\]]*\])", _text(error, 2000))
        known = listed[1] if listed else "the names on its page"
        return f"{name}: several configurations, of which --data.config picks one: {known[:400]}"
    page = f"https://huggingface.co/datasets/{source}"
    if any(_is_disk_full(cause) for cause in causes):
        return (
            f"{name}: the disk is full ({text}); free some space, or set HF_HOME to a folder on "
            "another disk"
        )
    if is_local:
        return (
            f"{name}: {source} cannot be read as a data set ({in_words(error, 200)}); "
            "expected parquet, arrow or image files, or what save_to_disk writes"
        )
    if re.search(r"\bgated\b", text) or any(_is_refused(cause) for cause in causes):
        return (
            f"{name}: {page} is gated; accept its terms there, then log in with `hf auth login` "
            "(or set HF_TOKEN), and run the command again"
        )
    if any(_is_out_of_reach(cause) for cause in causes):
        return _how_to_copy(name, source, card)
    if type(error).__name__ == "DatasetNotFoundError":
        return (
            f"{name}: {page} does not exist or is private; correct the name, or log in with "
            "`hf auth login`"
        )
    return f"{name}: {page} cannot be opened ({in_words(error, 200)})"


def _is_refused(error: BaseException) -> bool:
    """Tells a set that is there and asks for a log-in; a name that is not there has status 401."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return type(error).__name__ == "GatedRepoError" or status == 403


def _how_to_copy(name: str, source: str, card: Card | None) -> str:
    use = f"--dataset_name {name} --data.dir DIR" if card else "--dataset_name hf:DIR"
    terms = ""
    if card and card.gated:
        terms = ", after accepting its terms there and `hf auth login`"
    return (
        f"{name}: the Hugging Face hub cannot be reached, and there is no copy in its cache. On a "
        f"machine with a network run `hf download {source} --repo-type dataset --local-dir DIR`"
        f"{terms}, copy DIR here, and give {use}"
    )


def _causes(error: BaseException) -> list[BaseException]:
    """Returns an error and those that it was raised from or during, the last one first."""
    causes = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes


def _is_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _is_out_of_reach(error: BaseException) -> bool:
    return isinstance(error, ConnectionError) or type(error).__name__ in OUT_OF_REACH
