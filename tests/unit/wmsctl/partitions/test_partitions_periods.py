"""Periods tile the time of UTC: every moment lies in exactly one, whatever the calendar does."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmsctl.partitions import periods
from wmsctl.partitions.periods import Interval, Period

INTERVALS: tuple[Interval, ...] = ("month", "week", "day")
days = st.dates(min_value=date(1990, 1, 1), max_value=date(2190, 12, 31))
intervals = st.sampled_from(INTERVALS)


@given(days, intervals)
def test_d4_every_day_lies_in_its_period_and_in_no_other(day: date, interval: Interval) -> None:
    found = periods.period_of(day, interval)
    assert found.start <= day < found.end
    assert (
        periods.period_of(found.start, interval) == found == periods.period_of(found.end, interval).previous()
    )
    assert found.next().start == found.end and found.next().previous() == found
    assert not found.previous().start <= day < found.previous().end


@given(days, intervals)
def test_d4_names_are_unique_and_sort_like_time(day: date, interval: Interval) -> None:
    found = periods.period_of(day, interval)
    assert found.previous().name("t") < found.name("t") < found.next().name("t")
    # The longest table, the longest suffix, and what is added while a partition is being restored.
    assert len(found.name("t" * 40)) + len("__restoring") <= 63


@given(days, intervals)
def test_d4_bounds_are_found_again_in_what_postgresql_says(day: date, interval: Interval) -> None:
    period = periods.period_of(day, interval)
    said = f"FOR VALUES FROM ('{periods.literal(period.lower)}') TO ('{periods.literal(period.upper)}')"
    assert periods.period_between(*periods.bounds(said), interval) == period


@given(days, st.integers(-2000, 2000))
def test_months_after_and_back_is_the_same_month(day: date, months: int) -> None:
    moved = periods.months_after(day.replace(day=1), months)
    assert periods.months_after(moved, -months) == day.replace(day=1)
    assert (moved.year - day.year) * 12 + moved.month - day.month == months


@pytest.mark.parametrize(
    ("day", "interval", "suffix"),
    [
        (date(2024, 2, 29), "month", "2024_02"),
        (date(2024, 12, 30), "week", "2025_w01"),
        (date(2021, 1, 3), "week", "2020_w53"),
        (date(2024, 2, 29), "day", "2024_02_29"),
    ],
)
def test_d4_names_of_leap_days_and_of_weeks_that_begin_a_year_early(
    day: date, interval: Interval, suffix: str
) -> None:
    assert periods.period_of(day, interval).suffix == suffix


def test_d4_a_moment_belongs_to_its_period_of_utc_wherever_it_was_said() -> None:
    brasilia = timezone(timedelta(hours=-3))
    assert periods.period_of(datetime(2024, 1, 31, 22, 0, tzinfo=brasilia), "month").suffix == "2024_02"
    assert periods.literal(datetime(2024, 1, 31, 21, 0, tzinfo=brasilia)) == "2024-02-01 00:00:00+00"


def test_months_after_ends_with_the_month() -> None:
    assert periods.months_after(date(2024, 1, 31), 1) == date(2024, 2, 29)
    assert periods.months_after(date(2023, 3, 31), -1) == date(2023, 2, 28)


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("FOR VALUES FROM (MINVALUE) TO ('2024-01-01')", (None, datetime(2024, 1, 1, tzinfo=UTC))),
        (
            "FOR VALUES FROM ('2024-01-01 00:00:00') TO (MAXVALUE)",
            (datetime(2024, 1, 1, tzinfo=UTC), None),
        ),
    ],
)
def test_open_bounds_are_no_period(expression: str, found: tuple[datetime | None, datetime | None]) -> None:
    assert periods.bounds(expression) == found
    assert periods.period_between(*found, "month") is None


@pytest.mark.parametrize(
    "expression", ["DEFAULT", "FOR VALUES IN (1)", "FOR VALUES FROM ('a', 1) TO ('b', 2)"]
)
def test_what_is_no_range_of_one_column_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="no bounds"):
        periods.bounds(expression)


def test_a_partition_cut_by_hand_is_no_period() -> None:
    assert (
        periods.period_between(datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC), "month")
        is None
    )
    assert list(periods.following(Period(date(2024, 11, 1), "month"), 2))[-1].suffix == "2025_01"
