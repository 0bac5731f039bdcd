"""Optional packages, which one feature needs and the others do without."""

import importlib
from typing import Any

from utils.errors import UserError


def need(package: str, why: str, requirements: str) -> Any:
    """Returns an optional package, imported.

    Args:
        package: its name.
        why: what it is for, as the beginning of the message.
        requirements: the file that lists it.
    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the package {error.name} is missing, and {why}: pip install -r {requirements}"
        ) from error
