"""The values of keys: from text, or something typed, to the key's type, and back to text."""

import math
from collections.abc import Mapping
from typing import Any

from configs.default import BUCKET, PATH, Key
from utils.errors import UserError
from utils.paths import expand
from utils.words import did_you_mean

BOOLEANS = {
    "1": True,
    "true": True,
    "t": True,
    "yes": True,
    "0": False,
    "false": False,
    "f": False,
    "no": False,
}
GREATEST_INTEGER = 2**31 - 1  # devices count with 32 bits; an interval may end later, as the seed's
NOUNS: dict[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    tuple: "different numbers, separated by commas, each",
}


def expected(key: Key) -> str:
    """Returns what a key accepts in words, such as "an integer in [1, inf) or all"."""
    if key.accepts == PATH:
        return "a path"
    if key.accepts == BUCKET:
        return "a path, gs://... or s3://..."
    if isinstance(key.accepts, tuple):
        return "one of " + ", ".join(key.accepts)
    noun = NOUNS[type(key.default)]
    return f"{noun} in {key.accepts}" if key.accepts else noun


def convert_all(
    values: Mapping[str, Any], keys: Mapping[str, Key], source: str = ""
) -> dict[str, Any]:
    """Returns the values as the types of their keys.

    Args:
        values: {name of a key: value}.
        keys: the rows of the table by name.
        source: what the values were read from, for messages; empty for the command line.
    Raises:
        UserError: an unknown key, with the near ones, or a value that its key does not accept.
    """
    beginning = f"{source}: " if source else ""
    for name in values:
        if name not in keys:
            raise UserError(f"{beginning}unknown key {name}{did_you_mean(name, keys)}")
    converted = {}
    for name, value in values.items():
        try:
            converted[name] = convert(keys[name], value)
        except ValueError as error:
            raise UserError(f"{beginning or '--'}{name}={value}: {error}") from None
    return converted


class _TooLarge(ValueError):
    """An integer that devices cannot count to."""


def convert(key: Key, value: Any) -> Any:
    """Returns `value`, which may be text, as the type of the key's default.

    Raises:
        ValueError: the key does not accept the value; the message is "expected ...".
    """
    if key.accepts in (PATH, BUCKET) and isinstance(value, str):
        return expand(value, buckets=key.accepts == BUCKET)  # its error tells more
    try:
        return _converted(key, value)
    except _TooLarge:
        raise ValueError(f"expected {expected(key)}, at most {GREATEST_INTEGER}") from None
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"expected {expected(key)}") from None


def _converted(key: Key, value: Any) -> Any:
    """As `convert`, but the errors are those of Python's own conversions."""
    kind = type(key.default)
    if kind is str:
        return _text(value, key.accepts)
    # What is left accepts an interval, or an interval and a word: "[1, inf) or all".
    interval, _, word = str(key.accepts).partition(" or ")
    if word and value == word:
        return value
    if kind is bool:
        return value if isinstance(value, bool) else BOOLEANS[str(value).lower()]
    if kind is tuple:
        return _numbers(value, interval)
    return _number(value, kind, interval)


def _text(value: Any, choices: str | tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise TypeError
    if choices and value not in choices:
        raise ValueError
    return value


def _numbers(value: Any, interval: str) -> tuple[float, ...]:
    """Converts "0.1,0.2", "(0.1, 0.2)", "[0.1, 0.2]" or a sequence; the numbers must differ."""
    items = value.strip("()[] ").split(",") if isinstance(value, str) else value
    numbers = tuple(_number(item, float, interval) for item in items)
    if not numbers or len(set(numbers)) != len(numbers):
        raise ValueError
    return numbers


def _number(value: Any, kind: type, interval: str) -> int | float:
    """Converts to an int or a float in an interval such as "[0, 1)".

    Integers may be written as 1e5 or 100_000. A boolean is no number here, though Python thinks so.
    """
    if isinstance(value, bool):
        raise TypeError
    number = float(value)
    if kind is int:
        if not number.is_integer():
            raise ValueError
        number = int(number)
        if abs(number) > GREATEST_INTEGER and "inf" in interval:
            raise _TooLarge
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below and math.isfinite(number)):
        raise ValueError
    return number


def as_text(value: Any) -> str:
    """Returns a value as one would type it; lists are tuples that were JSON."""
    if isinstance(value, tuple | list):
        return ",".join(map(as_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
