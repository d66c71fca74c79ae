"""What is due when (row R5)."""

from __future__ import annotations

from datetime import datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.wmsctl.backup.worlds import MONDAY, Chain, histories
from wmsctl.backup.retention import Held, soundness
from wmsctl.backup.schedule import Attempt, Due, Schedule, due, missed, owed

SUNDAY = MONDAY - timedelta(days=1)
PLAN = Schedule(long_term=None)


def at(day: int, hour: int, minute: int = 0) -> datetime:
    """A moment of the week that begins on SUNDAY, its day 0."""
    return SUNDAY + timedelta(days=day, hours=hour, minutes=minute)


def asked(
    chain: Chain, now: datetime, *failed: Attempt, schedule: Schedule = PLAN
) -> list[tuple[str, datetime]]:
    found = due(schedule, chain.backups, soundness(chain.held), now, failed)
    return [(each.type, each.slot) for each in found]


def test_r5_the_first_is_full_then_differential_with_a_full_one_each_week() -> None:
    chain = Chain()
    assert asked(chain, at(3, 10)) == [("full", at(3, 6))]
    chain.take("full", at(3, 10))
    assert asked(chain, at(3, 11)) == []
    assert asked(chain, at(3, 12)) == [("incr", at(3, 12))]
    chain.take("incr", at(3, 12))
    assert asked(chain, at(3, 17, 59)) == []
    assert asked(chain, at(3, 18)) == [("incr", at(3, 18))]
    assert asked(chain, at(4, 0)) == [("diff", at(4, 0))]
    chain.take("diff", at(4, 0))
    assert asked(chain, at(4, 6)) == [("incr", at(4, 6))]
    assert asked(chain, at(7, 0)) == [("full", at(7, 0))]


@pytest.mark.parametrize(
    ("now", "run"),
    [
        (at(1, 3), "diff"),  # Monday's 00:00
        (at(2, 7), "diff"),  # Monday's whole day and Tuesday's 00:00 and 06:00: one run for all of them
        (at(7, 13), "full"),  # the week's full one does for the rest, too
        (at(20, 13), "full"),
    ],
)
def test_of_missed_runs_one_is_caught_up_the_most_valuable(now: datetime, run: str) -> None:
    chain = Chain()
    chain.take("full", at(0, 0))
    chain.take("incr", at(0, 18))
    found = asked(chain, now)
    assert [kind for kind, _ in found] == [run]
    chain.take(found[0][0], now)  # type: ignore[arg-type]
    assert asked(chain, now + timedelta(minutes=10)) == []


def test_the_month_begins_with_a_full_one_in_the_second_repository_that_holds_its_wal() -> None:
    schedule = Schedule()
    chain = Chain()
    chain.take("full", at(0, 0))
    chain.take("diff", at(2, 0))
    first = due(schedule, chain.backups, soundness(chain.held), at(2, 1))
    assert [(d.repo, d.type, d.self_contained) for d in first] == [(2, "full", True)]
    chain.take("full", at(2, 1), repo=2)
    assert asked(chain, at(2, 5), schedule=schedule) == []
    december = at(9, 0)
    assert (december.day, december.month) == (1, 12)
    both = due(schedule, chain.backups, soundness(chain.held), december)
    assert [(d.repo, d.type, d.slot) for d in both] == [(1, "full", at(7, 0)), (2, "full", december)]
    # It failed all day, and is owed for as long as the month goes on.
    assert [
        d.slot for d in owed(schedule, chain.backups, soundness(chain.held), at(20, 7)) if d.repo == 2
    ] == [december]


def test_nothing_is_due_while_a_backup_runs() -> None:
    assert due(PLAN, [], {}, at(0, 0), running=True) == ()


def test_a_failed_run_waits_longer_each_time_and_then_for_its_next_time() -> None:
    chain = Chain()
    chain.take("full", at(0, 0))
    now = at(0, 6, 1)
    tries: list[Attempt] = []
    waits = []
    for _ in range(3):
        found = due(PLAN, chain.backups, soundness(chain.held), now, tries)
        waits.append((found[0].at - (tries[-1].at if tries else at(0, 6))).total_seconds())
        tries.append(Attempt(1, "incr", now))
        now += timedelta(minutes=20)
    assert waits == [0, 300, 600]
    assert due(PLAN, chain.backups, soundness(chain.held), now, tries) == ()
    assert asked(chain, at(0, 12), *tries) == [("incr", at(0, 12))]


def test_a_full_backup_that_keeps_failing_does_not_cost_the_day_its_differential() -> None:
    chain = Chain()
    chain.take("full", at(0, 0))
    tries = [Attempt(1, "full", at(7, 0, minute)) for minute in (1, 10, 30)]
    assert asked(chain, at(7, 1), *tries[:2]) == [("full", at(7, 0))]
    assert asked(chain, at(7, 1), *tries) == [("diff", at(7, 0))]
    chain.take("diff", at(7, 1))
    assert asked(chain, at(7, 2), *tries) == []
    assert asked(chain, at(7, 6), *tries) == [("full", at(7, 0))]


def test_a_damaged_backup_is_due_again_and_nothing_is_based_on_it() -> None:
    chain = Chain()
    chain.take("full", at(0, 0))
    incremental = chain.take("incr", at(0, 6))
    chain.spoil(incremental)
    assert asked(chain, at(0, 7)) == [("diff", at(0, 6))]
    full = Chain()
    full.take("full", at(0, 0))
    full.take("incr", at(0, 6))
    full.spoil(full.backups[0])
    assert asked(full, at(0, 7)) == [("full", at(0, 6))]


def test_what_is_late_beyond_the_grace_is_missed() -> None:
    chain = Chain()
    chain.take("full", at(0, 0))
    sound = soundness(chain.held)

    def late(now: datetime) -> list[str]:
        return [each.type for each in missed(PLAN, owed(PLAN, chain.backups, sound, now), now)]

    assert late(at(0, 6, 30)) == []
    assert late(at(0, 6, 31)) == ["incr"]
    assert late(at(1, 0, 20)) == []
    assert late(at(1, 7)) == ["diff", "incr"]


def test_other_times_and_another_weekday() -> None:
    schedule = Schedule(daily=time(2, 30), incremental=(time(14, 0),), week_start=2, long_term=None)
    chain = Chain()
    chain.take("full", at(1, 3))
    assert asked(chain, at(2, 2), schedule=schedule) == [("incr", at(1, 14))]
    assert asked(chain, at(2, 2, 30), schedule=schedule) == [("diff", at(2, 2, 30))]
    assert asked(chain, at(3, 2, 29), schedule=schedule)[0][0] == "diff"
    assert asked(chain, at(3, 2, 30), schedule=schedule) == [("full", at(3, 2, 30))]
    assert schedule.next(at(3, 2, 30)) == at(3, 14) and schedule.next(at(3, 14)) == at(4, 2, 30)
    assert schedule.slot(at(3, 2, 29)) == at(2, 14)


@pytest.mark.parametrize(
    "values",
    [
        {"incremental": (time(0, 0),)},
        {"incremental": (time(6, 0), time(6, 0))},
        {"week_start": 7},
        {"attempts": 0},
        {"retry_s": 0},
    ],
)
def test_a_schedule_that_is_none_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"time|weekdays"):
        Schedule(**values)  # type: ignore[arg-type]


@settings(deadline=None)
@given(histories(), st.integers(0, 1))
def test_what_is_done_when_it_is_due_is_due_no_more(
    history: tuple[list[Held], datetime], second: int
) -> None:
    held, now = history
    schedule = Schedule(long_term=2 if second else None)
    chain = Chain()
    chain.held = list(held)
    found = due(schedule, chain.backups, soundness(chain.held), now)
    assert len({each.repo for each in found}) == len(found)
    for each in found:
        assert isinstance(each, Due) and each.slot <= now
        chain.take(each.type, now, repo=each.repo)
    assert due(schedule, chain.backups, soundness(chain.held), now) == ()
