"""Guidance scales: lists of them, and the search for the best."""

import functools
import math
from collections.abc import Callable

from utils.errors import UserError


def parse_alphas(text: str) -> tuple[list[float], tuple[float, float] | None]:
    """(alphas, None) of "1" or "1,1.5,2"; ([], (low, high)) of "search:1,4", or of "search" alone."""
    word, colon, interval = text.partition(":")
    search = word == "search"
    try:
        numbers = [
            float(number)
            for number in ((interval if colon else "1,4") if search else text).split(",")
        ]
    except ValueError:
        numbers = []
    if (
        not numbers
        or not all(1 <= a < math.inf for a in numbers)
        or (search and (len(numbers) != 2 or numbers[0] >= numbers[1]))
    ):
        raise UserError(
            f"--cfg_scale {text}: expected a number from 1 on, several separated by commas, or search:LOW,HIGH"
        )
    return ([], tuple(numbers)) if search else (list(dict.fromkeys(numbers)), None)


def golden_section(
    function: Callable[[float], float], low: float, high: float, tolerance: float = 0.05
) -> float:
    """Where a function with one valley is least, to the tolerance, on a grid of 0.01; no point is asked for twice."""
    ratio = (math.sqrt(5) - 1) / 2
    known = functools.cache(function)
    at = lambda x: (known(round(x, 2)), round(x, 2))
    a, b = low, high
    left, right = at(b - ratio * (b - a)), at(a + ratio * (b - a))
    while b - a > tolerance:
        if left < right:
            b, right = right[1], left
            left = at(b - ratio * (b - a))
        else:
            a, left = left[1], right
            right = at(a + ratio * (b - a))
    return min(left, right, at(low))[1]
