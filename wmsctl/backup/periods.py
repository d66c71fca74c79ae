"""Calendar arithmetic of schedule and retention: days, weeks, months, years of UTC. Pure.

A week begins on the weekday of the weekly full backup, so that a week and the chain of its full backup are one thing.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

Unit = Literal["day", "week", "month", "year"]

SUNDAY = 6
"""As datetime counts: Monday is 0."""


def day_of(moment: datetime) -> date:
    """The UTC day that `moment` lies in."""
    return moment.astimezone(UTC).date()


def midnight(day: date) -> datetime:
    """00:00 UTC of `day`."""
    return datetime.combine(day, time(), UTC)


def add_months(day: date, months: int) -> date:
    """The same day of the month, `months` later; where that month has no such day, the first of the next one.

    So a term never ends early: 31 January and one month is 1 March (or 29 February is 1 March a year later), as
    a promise of a month is one of at least a month.
    """
    index = day.year * 12 + day.month - 1 + months
    year, month = divmod(index, 12)
    try:
        return date(year, month + 1, day.day)
    except ValueError:
        year, month = divmod(index + 1, 12)
        return date(year, month + 1, 1)


def later(day: date, unit: Unit, count: int) -> date:
    """`count` units after `day`: what was kept since `day` for that long may go on this date."""
    if unit == "day":
        return day + timedelta(days=count)
    if unit == "week":
        return day + timedelta(weeks=count)
    return add_months(day, count if unit == "month" else 12 * count)


def first_day(day: date, unit: Unit, week_start: int = SUNDAY) -> date:
    """The first day of the period that `day` lies in: it names the period."""
    if unit == "day":
        return day
    if unit == "week":
        return day - timedelta(days=(day.weekday() - week_start) % 7)
    return day.replace(day=1) if unit == "month" else day.replace(month=1, day=1)


def periods(since: date, until: date, unit: Unit, week_start: int = SUNDAY) -> Iterator[date]:
    """The first days of all periods from the one of `since` to the one of `until`."""
    first = first_day(since, unit, week_start)
    while first <= until:
        yield first
        first = later(first, unit, 1)


def name(first: date, unit: Unit) -> str:
    """A period for people: 2026-11-24, week of 2026-11-22, 2026-11, 2026."""
    return {"day": str(first), "week": f"week of {first}", "month": f"{first:%Y-%m}", "year": f"{first:%Y}"}[
        unit
    ]
