"""Guidance scales: a list of them, or the search for the best. The paper calls the scale alpha."""

import functools
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from utils.errors import UserError

log = logging.getLogger("eval")

USUAL_INTERVAL = "1,4"  # of a search; the paper trains with alpha from 1 to 4


class Alphas(NamedTuple):
    """What --cfg_scale asks for: a list of scales, or an interval to search for the best one."""

    values: list[float]
    interval: tuple[float, float] | None = None


def parse_alphas(text: str) -> Alphas:
    """Returns the scales of "1" or "1,1.5,2", or the interval of "search:1,4" or "search".

    Raises:
        UserError: the text is none of these, or a scale is below 1.
    """
    word, colon, interval = text.partition(":")
    is_search = word == "search"
    listed = text
    if is_search:
        listed = interval if colon else USUAL_INTERVAL
    try:
        numbers = [float(number) for number in listed.split(",")]
    except ValueError:
        numbers = []
    fits = bool(numbers) and all(1 <= number < math.inf for number in numbers)
    if is_search and fits:
        fits = len(numbers) == 2 and numbers[0] < numbers[1]
    if not fits:
        raise UserError(
            f"--cfg_scale {text}: expected a number from 1 on, several separated by commas, "
            "or search:LOW,HIGH"
        )
    if is_search:
        return Alphas([], (numbers[0], numbers[1]))
    return Alphas(list(dict.fromkeys(numbers)))


def warn_beyond_training(metadata: Mapping[str, Any], scale: float) -> None:
    """Warns of a guidance scale that the generator has not learned. A flow takes any.

    Args:
        metadata: what a run says of itself. A published artifact does not say what it learned.
        scale: the greatest that is asked for.
    """
    config = metadata.get("config", {})
    if config.get("objective") != "drift" or "drift" not in config:
        return
    most = config["drift"]["alpha_max"]
    if scale > most:
        log.warning(
            "--cfg_scale %g: this generator was trained with scales up to %g "
            "(--drift.alpha_max); beyond them it knows nothing",
            scale,
            most,
        )


def golden_section(
    function: Callable[[float], float], low: float, high: float, tolerance: float = 0.05
) -> float:
    """Returns where a function with one valley is least, by golden-section search.

    Each turn leaves 0.618 of the interval and needs one new value of the function, because the
    other inner point is a point of the turn before. Points lie on a grid of 0.01, and no point is
    asked for twice.

    Args:
        function: may be slow.
        low, high: the interval. Its lower end is tried too.
        tolerance: length of the interval at which the search ends.
    """
    ratio = (math.sqrt(5) - 1) / 2
    known = functools.cache(function)

    def value_at(point: float) -> tuple[float, float]:
        """Returns (value, point); the lesser of two such pairs has the lesser value."""
        point = round(point, 2)
        return known(point), point

    left = value_at(high - ratio * (high - low))
    right = value_at(low + ratio * (high - low))
    lower_end = low
    while high - low > tolerance:
        if left < right:
            high, right = right[1], left
            left = value_at(high - ratio * (high - low))
        else:
            low, left = left[1], right
            right = value_at(low + ratio * (high - low))
    return min(left, right, value_at(lower_end))[1]
