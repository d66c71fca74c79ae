"""Months, weeks and days of UTC: the periods that partitions hold. Pure arithmetic of dates, no time zone in it.

A period is half open, [start, end): the end of one is the start of the next.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

Interval = Literal["month", "week", "day"]

_DAY, _WEEK = timedelta(days=1), timedelta(days=7)
_BOUND = re.compile(r"FOR VALUES FROM \((?P<lower>'[^']*'|MINVALUE)\) TO \((?P<upper>'[^']*'|MAXVALUE)\)")


@dataclass(frozen=True, order=True)
class Period:
    """One month, one week from Monday, or one day; `start` is its first day."""

    start: date
    interval: Interval

    @property
    def end(self) -> date:
        """The first day after it."""
        if self.interval == "month":
            return months_after(self.start, 1)
        return self.start + (_WEEK if self.interval == "week" else _DAY)

    @property
    def lower(self) -> datetime:
        return midnight(self.start)

    @property
    def upper(self) -> datetime:
        return midnight(self.end)

    @property
    def suffix(self) -> str:
        """2024_01 for a month, 2024_w05 for a week (ISO 8601, whose year may be another than Monday's), 2024_01_31."""
        if self.interval == "month":
            return f"{self.start:%Y_%m}"
        if self.interval == "week":
            year, week, _ = self.start.isocalendar()
            return f"{year:04d}_w{week:02d}"
        return f"{self.start:%Y_%m_%d}"

    def name(self, table: str) -> str:
        """The name of the partition that holds it."""
        return f"{table}_{self.suffix}"

    def next(self) -> Period:
        return Period(self.end, self.interval)

    def previous(self) -> Period:
        return period_of(self.start - _DAY, self.interval)


def period_of(day: date, interval: Interval) -> Period:
    """The period that `day` lies in."""
    if isinstance(day, datetime):
        day = day.astimezone(UTC).date()
    if interval == "month":
        return Period(day.replace(day=1), interval)
    if interval == "week":
        return Period(day - day.weekday() * _DAY, interval)
    return Period(day, interval)


def period_between(lower: datetime | None, upper: datetime | None, interval: Interval) -> Period | None:
    """The period with exactly these bounds; None when there is none (a partition that was cut by hand)."""
    if lower is None or upper is None:
        return None
    found = period_of(lower, interval)
    return found if (found.lower, found.upper) == (lower, upper) else None


def following(first: Period, count: int) -> Iterator[Period]:
    """`first` and the `count` periods after it."""
    yield first
    for _ in range(count):
        first = first.next()
        yield first


def months_after(day: date, months: int) -> date:
    """The same day of the month so many months later (earlier when negative), or that month's last day."""
    month = day.year * 12 + day.month - 1 + months
    year, month = month // 12, month % 12 + 1
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def midnight(day: date) -> datetime:
    """The first moment of `day`, of UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def bounds(expression: str) -> tuple[datetime | None, datetime | None]:
    """(lower, upper) of what pg_get_expr says of a partition by range, read by a session whose time zone is UTC.

    None for MINVALUE and MAXVALUE. Raises ValueError for anything else: a default partition, a list, several columns.
    """
    found = _BOUND.fullmatch(expression)
    if not found:
        raise ValueError(f"no bounds of one column: {expression}")
    return _moment(found["lower"]), _moment(found["upper"])


def _moment(text: str) -> datetime | None:
    if not text.startswith("'"):
        return None
    moment = datetime.fromisoformat(text.strip("'"))
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def literal(moment: datetime) -> str:
    """A moment for SQL that no session's time zone moves: 2024-01-01 00:00:00+00."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}+00"
