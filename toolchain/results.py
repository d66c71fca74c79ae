"""The counts of several pytest runs, from the JUnit files that they wrote."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Counts:
    """How tests ended. An error in a fixture counts as a failure."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        text = f"{self.passed} passed, {self.failed} failed"
        return f"{text}, {self.skipped} skipped" if self.skipped else text


def read(file: Path) -> Counts:
    """The counts of one JUnit file. Raises OSError or ElementTree.ParseError when it is absent or cut off."""
    passed = failed = skipped = 0
    for suite in ElementTree.parse(file).getroot().iter("testsuite"):
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        out = int(suite.get("skipped", 0))
        failed, skipped = failed + bad, skipped + out
        # A test whose teardown fails counts twice with pytest, as passed and as an error.
        passed += max(int(suite.get("tests", 0)) - bad - out, 0)
    return Counts(passed, failed, skipped)


def collect(folder: Path, runs: Iterable[str]) -> tuple[Counts, list[str]]:
    """The sum over folder/<run>.xml, and a line about each run.

    A run that left no readable file was never started or was killed: it counts as one failure, so that it
    cannot go unnoticed.
    """
    total, lines = Counts(), []
    for run in runs:
        file = folder / f"{run}.xml"
        try:
            counts = read(file)
            lines.append(f"{run}: {counts}")
        except (OSError, ElementTree.ParseError) as error:
            counts = Counts(failed=1)
            lines.append(f"{run}: did not finish, counted as 1 failed ({file}: {error})")
        total += counts
    return total, lines
