"""Refuse an option that does not divide what it cuts into equal parts, and name the nearest that do."""

from __future__ import annotations

import math

from clbench.errors import UserError


class DivisorError(UserError, ValueError):
    """An option that does not divide what it cuts into equal parts."""


def check_divides(option: str, given: int, what: str, *numbers: int) -> None:
    """Raise DivisorError unless ``given`` divides all the numbers, which are ``what``."""
    common = math.gcd(*numbers)
    if common % given:
        fitting = [number for number in range(1, common + 1) if common % number == 0]
        below, above = [n for n in fitting if n < given], [n for n in fitting if n > given]
        near = " or ".join(str(number) for number in below[-1:] + above[:1])
        these = " and ".join(str(number) for number in dict.fromkeys(numbers))
        raise DivisorError(f"petl.{option}: {given} does not divide {these}, {what}; use {near}")
