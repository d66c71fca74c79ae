"""Versions as tuples of numbers, for comparisons only."""

from __future__ import annotations

import re

_NUMBERS = re.compile(r"(\d+(?:\.\d+)*)")


def parse(text: str) -> tuple[int, ...]:
    """The first dotted number in `text`: "v3.250.0" -> (3, 250, 0), "go1.26.8 linux" -> (1, 26, 8).

    Raises ValueError when there is none.
    """
    found = _NUMBERS.search(text)
    if found is None:
        raise ValueError(f"no version number in {text!r}")
    return tuple(int(part) for part in found.group(1).split("."))


def at_least(version: str, minimum: str) -> bool:
    """Whether `version` >= `minimum`; missing parts count as zero, so "3.11" is at least "3.11.0"."""
    left, right = parse(version), parse(minimum)
    width = max(len(left), len(right))
    return left + (0,) * (width - len(left)) >= right + (0,) * (width - len(right))


def within(version: str, minimum: str, below: str) -> bool:
    """Whether minimum <= `version` < below. A pre-release ("3.250.0-alpha") counts as older."""
    if "-" in version and parse(version) == parse(minimum):
        return False
    return at_least(version, minimum) and not at_least(version, below)
