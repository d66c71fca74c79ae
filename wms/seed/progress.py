"""What a load says of itself on stderr: how much, how fast, and for how long still."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

EVERY_S = 2.0


def say(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Counts rows and units of work; tells at most every two seconds, and at the end."""

    def __init__(
        self, total: int, clock: Callable[[], float] = time.monotonic, tell: Callable[[str], None] = say
    ) -> None:
        self._total, self._clock, self._tell = total, clock, tell
        self._started = self._told = clock()
        self._done = self._worked = 0
        self.rows = self.ledger = 0

    def add(self, rows: int, ledger: int) -> None:
        """So many rows were written, so many of them to the ledger."""
        self.rows += rows
        self.ledger += ledger

    def work(self, what: str, units: int) -> None:
        """So many units of work were done now."""
        self._done += units
        self._worked += units
        now = self._clock()
        if now - self._told >= EVERY_S:
            self._told = now
            left = (self._total - self._done) * (now - self._started) / max(1, self._worked)
            self._tell(f"{what}: {self.rows} rows, {self._rate():.0f} rows/s, {left:.0f} s left")

    def skip(self, units: int) -> None:
        """So many units are there already."""
        self._done += units

    def end(self) -> None:
        """Tell the sum."""
        seconds = self._clock() - self._started
        self._tell(
            f"{self.rows} rows in {seconds:.1f} s ({self._rate():.0f} rows/s), "
            f"{self.ledger} of them stock transactions ({self.ledger / max(seconds, 0.001) * 60:.0f} a minute)"
        )

    def _rate(self) -> float:
        return self.rows / max(self._clock() - self._started, 0.001)
