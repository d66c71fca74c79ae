"""Deadlines: every wait has one, and nested waits share it instead of adding up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from wmsctl.errors import Unknown, WmsctlError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, in seconds. Wall-clock jumps do not move it."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The moment `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self.at

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and `seconds` from now: a bound for one part of a longer work."""
        return Deadline(min(self.at, time.monotonic() + seconds))

    def timeout(self, cap: float, what: str) -> float:
        """Seconds that one blocking call may take: what is left, at most `cap`.

        Raises Unknown naming `what` when nothing is left (a timeout of 0 would mean "for ever" to some
        drivers).
        """
        left = self.remaining()
        if left <= 0:
            raise Unknown(f"no time left for {what}")
        return min(left, cap)


def wait_until(
    predicate: Callable[[], T | None],
    deadline: Deadline,
    interval: float,
    what: str,
    *,
    hint: str = "",
    error: type[WmsctlError] = Unknown,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Poll `predicate` every `interval` seconds until it returns something true, and return that.

    The predicate is always asked at least once, and once more at the deadline. An exception in it ends the
    wait: a predicate that tolerates a server being away has to catch that itself. Raises `error` (Unknown by
    default, for what was waited for may still happen) with "gave up waiting for <what> after N s".
    """
    started = time.monotonic()
    while True:
        last = deadline.expired
        found = predicate()
        if found:
            return found
        if last:
            raise error(f"gave up waiting for {what} after {time.monotonic() - started:.1f} s", hint=hint)
        sleep(min(interval, deadline.remaining()))
