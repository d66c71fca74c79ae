"""Calendar arithmetic, and windows as sets of moments."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmsctl.backup import periods
from wmsctl.backup.windows import Window, covered, lost, merged

DAYS = st.dates(date(2020, 1, 1), date(2060, 1, 1))
UNITS = st.sampled_from(["day", "week", "month", "year"])


@pytest.mark.parametrize(
    ("day", "unit", "count", "until"),
    [
        ("2026-11-24", "day", 7, "2026-12-01"),
        ("2028-02-26", "day", 7, "2028-03-04"),  # a leap year
        ("2026-12-06", "week", 4, "2027-01-03"),
        ("2026-01-31", "month", 1, "2026-03-01"),  # never early: there is no 31 February
        ("2028-01-31", "month", 1, "2028-03-01"),
        ("2026-01-28", "month", 1, "2026-02-28"),
        ("2026-12-01", "month", 12, "2027-12-01"),
        ("2027-12-31", "month", 2, "2028-03-01"),
        ("2026-01-01", "year", 7, "2033-01-01"),
        ("2028-02-29", "year", 7, "2035-03-01"),
        ("2028-02-29", "year", 4, "2032-02-29"),
    ],
)
def test_r5_terms_end_on_the_day(day: str, unit: periods.Unit, count: int, until: str) -> None:
    assert periods.later(date.fromisoformat(day), unit, count) == date.fromisoformat(until)


@settings(deadline=None)
@given(DAYS, UNITS, st.integers(1, 84))
def test_a_term_is_never_shorter_than_promised(day: date, unit: periods.Unit, count: int) -> None:
    shortest = {"day": 1, "week": 7, "month": 28, "year": 365}[unit] * count
    assert (periods.later(day, unit, count) - day).days >= shortest
    longest = {"day": 1, "week": 7, "month": 31, "year": 366}[unit] * count + 1
    assert (periods.later(day, unit, count) - day).days <= longest


@settings(deadline=None)
@given(DAYS, UNITS, st.integers(0, 6))
def test_periods_lie_side_by_side(day: date, unit: periods.Unit, week_start: int) -> None:
    first = periods.first_day(day, unit, week_start)
    following = periods.later(first, unit, 1)
    assert first <= day < following
    assert periods.first_day(following - timedelta(days=1), unit, week_start) == first
    assert periods.first_day(following, unit, week_start) == following
    assert list(periods.periods(day, following, unit, week_start)) == [first, following]
    if unit == "week":
        assert first.weekday() == week_start


def test_a_moment_belongs_to_its_day_of_utc() -> None:
    brasilia = timezone(timedelta(hours=-3))
    assert periods.day_of(datetime(2026, 11, 24, 22, 0, tzinfo=brasilia)) == date(2026, 11, 25)


T0 = datetime(2026, 1, 1, tzinfo=UTC)


def hour(number: int) -> datetime:
    return T0 + timedelta(hours=number)


@st.composite
def windows(draw: st.DrawFn) -> list[Window]:
    pairs = draw(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6)), max_size=5))
    return [Window(hour(begin), hour(begin + length)) for begin, length in pairs]


def inside(found: tuple[Window, ...] | list[Window], moment: datetime) -> bool:
    return any(window.begin <= moment <= window.end for window in found)


@settings(deadline=None)
@given(windows(), windows())
def test_lost_is_what_was_there_and_is_not(before: list[Window], after: list[Window]) -> None:
    gone = lost(merged(before), merged(after))
    for half in range(60):
        moment = T0 + timedelta(minutes=30 * half)
        if half % 2:  # between hours nothing is a bound
            assert inside(gone, moment) == (inside(before, moment) and not inside(after, moment))
        elif inside(before, moment) and not inside(after, moment):
            assert inside(gone, moment)


@settings(deadline=None)
@given(windows())
def test_merged_windows_are_the_same_moments_apart_from_each_other(found: list[Window]) -> None:
    whole = merged(found)
    for half in range(60):
        moment = T0 + timedelta(minutes=30 * half)
        assert inside(whole, moment) == inside(found, moment)
    assert all(a.end < b.begin for a, b in pairwise(whole))
    assert merged(whole) == whole and lost(whole, whole) == ()


def test_bounds_of_what_is_promised_do_not_count_as_covered() -> None:
    parts = [Window(hour(0), hour(2)), Window(hour(3), hour(3)), Window(hour(5), hour(9))]
    assert covered(parts, hour(2), hour(7)) == (Window(hour(3), hour(3)), Window(hour(5), hour(7)))
    assert str(parts[1]) == "2026-01-01 03:00:00 UTC"
    assert str(parts[0]) == "2026-01-01 00:00:00 to 2026-01-01 02:00:00 UTC"
