"""Seven years and more of row R5, to the day: months of every length, two leap years, missed runs and failed ones.

What is expected is counted here with loops over days, not with the planner's own arithmetic.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import cache

import pytest

from wmsctl.backup.catalogue import Backup
from wmsctl.backup.schedule import Due
from wmsctl.backup.simulate import Day, World, run

START = date(2026, 11, 24)
DAYS = 2700
"""To 16 April 2034: over 29 February 2028 and 2032, and past the end of the first archive's term."""
RANK = {"full": 0, "diff": 1, "incr": 2}


def months_on(day: date, months: int) -> date:
    """Day by day: the same day of the month, or the first of the following month where there is none."""
    year, month = day.year, day.month
    for _ in range(months):
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
    for number in (day.day,):
        try:
            return date(year, month, number)
        except ValueError:
            return date(year, month + 1, 1)
    raise AssertionError


def term(tier: str, day: date) -> date:
    """The first day on which the tier no longer keeps a backup of `day`."""
    if tier in ("daily", "weekly"):
        return day + timedelta(days=7 if tier == "daily" else 28)
    return months_on(day, 12 if tier == "monthly" else 84)


def period(tier: str, day: date) -> date:
    if tier == "weekly":
        while day.weekday() != 6:
            day -= timedelta(days=1)
        return day
    return {"daily": day, "monthly": day.replace(day=1), "archive": date(day.year, 1, 1)}[tier]


REPOS = {"daily": (1,), "weekly": (1,), "monthly": (2, 1), "archive": (2, 1)}


@cache
def quiet_years() -> tuple[Day, ...]:
    return tuple(run(World(), START, DAYS))


def state(days: tuple[Day, ...], day: date) -> Day:
    return days[(day - START).days]


def starts(found: Day, repo: int, kind: str) -> list[date]:
    return [h.backup.started.date() for h in found.held if (h.backup.repo, h.backup.type) == (repo, kind)]


def test_r5_a_whole_year_after_the_beginning_all_tiers_are_full_and_no_more() -> None:
    for found in quiet_years()[400:]:
        day = found.day
        weekly = [day - timedelta(days=n) for n in range(28) if (day - timedelta(days=n)).weekday() == 6]
        assert [d for d in starts(found, 1, "full") if (day - d).days < 28] == sorted(weekly)
        firsts = [d for d in starts(found, 2, "full") if months_on(d, 12) > day]
        assert len(firsts) == 12 and {d.day for d in firsts} == {1}
        # Every one of the last seven days has its 00:00, and the base of the window is of the day before them.
        for back in range(8):
            one = day - timedelta(days=back)
            assert one in starts(found, 1, "full" if one.weekday() == 6 else "diff")
        oldest = min(h.backup.started for h in found.held if h.backup.repo == 1 and h.backup.type == "incr")
        assert oldest.date() == day - timedelta(days=8) or oldest.date() == day - timedelta(days=7)
        assert found.refusals == ()


@pytest.mark.parametrize(
    ("of", "tier", "gone"),
    [
        (date(2028, 2, 1), "monthly", date(2029, 2, 1)),
        (date(2031, 12, 1), "monthly", date(2032, 12, 1)),
        (START, "archive", date(2033, 11, 24)),
        (date(2027, 1, 1), "archive", date(2034, 1, 1)),
    ],
)
def test_r5_a_long_term_backup_goes_on_its_day_and_not_before(of: date, tier: str, gone: date) -> None:
    assert of in starts(state(quiet_years(), gone - timedelta(days=1)), 2, "full")
    assert of not in starts(state(quiet_years(), gone), 2, "full")
    assert [b.started.date() for b in state(quiet_years(), gone).expired if b.repo == 2] == [of]


def test_r5_a_weekly_full_backup_goes_after_four_weeks() -> None:
    days = quiet_years()
    sunday = date(2028, 2, 6)
    assert sunday in starts(state(days, sunday + timedelta(days=27)), 1, "full")
    assert sunday not in starts(state(days, sunday + timedelta(days=28)), 1, "full")


def test_the_point_in_time_window_is_seven_days_at_every_end_of_a_day() -> None:
    for found in quiet_years()[8:]:
        assert found.restorable_since is not None
        end = datetime.combine(found.day + timedelta(days=1), time(), UTC)
        assert timedelta(days=7) <= end - found.restorable_since < timedelta(days=7, hours=7)


class Luck:
    """Runs fail one time in six, a whole week of them in the summer; the scheduler is off for hours and for days."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def __call__(self, each: Due, at: datetime, number: int) -> bool:
        if (at.month, at.day) in [(2, 29), (7, 1), (7, 2), (7, 3), (7, 4), (7, 5), (7, 6), (7, 7)]:
            return False
        if each.repo == 2 and (at.year, at.month) == (2029, 5):
            return False  # a month that the long-term repository misses altogether
        return self.dice.random() > 1 / 6

    def off(self) -> Iterator[tuple[datetime, datetime]]:
        moment = datetime.combine(START, time(), UTC)
        end = moment + timedelta(days=DAYS)
        while moment < end:
            moment += timedelta(hours=self.dice.randrange(24, 24 * 40))
            length = timedelta(hours=self.dice.choice([1, 2, 7, 13, 30, 80]))
            yield moment, moment + length
            moment += length


@pytest.mark.parametrize("seed", [1, 2])
def test_r5_to_the_day_with_missed_and_failed_runs(seed: int) -> None:
    luck = Luck(seed)
    world = World(fate=luck, off=tuple(luck.off()))
    best: dict[tuple[str, date], Backup] = {}
    ever: dict[tuple[int, str], Backup] = {}
    failures = empty = 0
    for found in run(world, START, DAYS if seed == 1 else 800):
        failures += len(found.failed)
        empty += not found.made
        for backup in found.made:
            ever[backup.key] = backup
            for tier, repos in REPOS.items():
                if backup.repo not in repos:
                    continue
                place = (tier, period(tier, backup.started.date()))
                old = best.get(place)

                def rank(each: Backup, repos: tuple[int, ...] = repos) -> tuple[int, int, datetime]:
                    return repos.index(each.repo), RANK[each.type], each.started

                if old is None or rank(backup) < rank(old):
                    best[place] = backup
        held = {h.backup.key: h.backup for h in found.held}
        today = found.day
        standing = {
            backup.key: tier
            for (tier, _), backup in best.items()
            if term(tier, backup.started.date()) > today
        }
        # Whatever is promised is there, to its last day.
        assert set(standing) <= set(held), (today, set(standing) - set(held))
        # What depends on another one has it.
        for backup in held.values():
            assert not backup.prior or (backup.repo, backup.prior) in held
        # Whatever is there has a reason: a tier, the window, its base, being the newest, or being needed.
        if found.expired:
            reasons = set(standing) | _window(held, found)
            needed = {(b.repo, label) for key in reasons for b in [held[key]] for label in b.references}
            assert set(held) == reasons | needed, (today, set(held) - reasons - needed)
        assert found.refusals == ()
    assert failures > 100 and empty > 20, "the world was too kind to test anything"
    if seed == 1:
        # May 2029 has nothing in the long-term repository: repo1's full backup stood in for a year.
        assert best["monthly", date(2029, 5, 1)].repo == 1


def _window(held: dict[tuple[int, str], Backup], found: Day) -> set[tuple[int, str]]:
    """What the window, its base and being the newest keep at the time of that day's expiry or later."""
    mine = [b for b in held.values() if b.repo == 1]
    # Retention ran at some time of this day: what ended a week before the day's beginning is out for sure.
    begin = datetime.combine(found.day - timedelta(days=7), time(), UTC)
    within = {b.key for b in mine if b.stopped > begin}
    base = max((b for b in mine if b.stopped <= begin), key=lambda b: b.stopped, default=None)
    newest = {
        max((b for b in held.values() if b.repo == r), key=lambda b: b.stopped).key
        for r in {k[0] for k in held}
    }
    return within | newest | ({base.key} if base else set())
