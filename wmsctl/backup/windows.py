"""Restore windows: the moments that can be restored to. Pure.

A backup that WAL carries on is a window from its end to where the WAL ends; one without is a point, its own end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wmsctl.backup.retention import Held


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """All moments from `begin` to `end`, both included; a point when they are the same."""

    begin: datetime
    end: datetime

    @classmethod
    def of(cls, held: Held) -> Window:
        stopped = held.backup.stopped
        return cls(stopped, max(stopped, held.reach) if held.reach else stopped)

    @property
    def point(self) -> bool:
        return self.begin == self.end

    def __str__(self) -> str:
        if self.point:
            return f"{self.begin:%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.begin:%Y-%m-%d %H:%M:%S} to {self.end:%Y-%m-%d %H:%M:%S} UTC"


def merged(windows: Iterable[Window]) -> tuple[Window, ...]:
    """The same moments in as few windows as possible, in order."""
    result: list[Window] = []
    for window in sorted(windows):
        if result and window.begin <= result[-1].end:
            result[-1] = Window(result[-1].begin, max(result[-1].end, window.end))
        else:
            result.append(window)
    return tuple(result)


def lost(before: Sequence[Window], after: Sequence[Window]) -> tuple[Window, ...]:
    """What is in `before` and not in `after`; both merged. The bounds of a lost window are not lost themselves."""
    result: list[Window] = []
    for window in before:
        if window.point:
            if not any(other.begin <= window.begin <= other.end for other in after):
                result.append(window)
            continue
        begin = window.begin
        for other in after:
            if other.end < begin or other.begin > window.end:
                continue
            if other.begin > begin:
                result.append(Window(begin, other.begin))
            begin = other.end
        if begin < window.end:
            result.append(Window(begin, window.end))
    return tuple(result)


def covered(windows: Iterable[Window], begin: datetime, end: datetime) -> tuple[Window, ...]:
    """The parts of `windows` between two moments, points of their bounds left out."""
    cut = (Window(max(w.begin, begin), min(w.end, end)) for w in windows if w.begin <= end and w.end >= begin)
    return tuple(window for window in cut if not window.point or begin < window.begin < end)
