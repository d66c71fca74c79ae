"""Which backup is due when: pure (row R5).

Four runs a day, at 00:00, 06:00, 12:00 and 18:00 UTC. The daily one at 00:00 is the first full backup, then a full
one on the weekday of the week's start and a differential on the other days, so that tiers can expire exactly: a
differential needs the week's full backup and nothing else. The others are incremental. With the first daily run of a
month a full backup goes to the long-term repository, with the WAL that it needs (docs/adr/0023).

What is due follows from the backups that are there, not from a list of runs that were done: nothing is forgotten
while the scheduler is off, and a backup that turns out to be damaged is due again by itself. Of several missed runs
one is caught up, the most valuable: a full backup does for the differential and the incremental missed with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta

from wmsctl.backup import periods
from wmsctl.backup.catalogue import Backup, Type


@dataclass(frozen=True)
class Schedule:
    """When runs are due, in UTC. The defaults are row R5."""

    daily: time = time(0, 0)
    incremental: tuple[time, ...] = (time(6, 0), time(12, 0), time(18, 0))
    week_start: int = periods.SUNDAY
    """Weekday of the full backup; Monday is 0."""
    repo: int = 1
    long_term: int | None = 2
    """The repository of the monthly full backups; None: there is none."""
    grace_s: float = 1800.0
    """A run that has not ended well by so long after its time is told as missed, and alerts."""
    retry_s: float = 300.0
    """Between attempts that failed; doubled each time."""
    attempts: int = 3
    """Of one type before the next time of the schedule."""

    def __post_init__(self) -> None:
        """Raises ValueError for a time that is there twice, a weekday that is none, and no attempt at all."""
        if self.daily in self.incremental or len(set(self.incremental)) != len(self.incremental):
            raise ValueError("each time of the schedule is there once")
        if not 0 <= self.week_start <= 6 or self.attempts < 1 or self.retry_s <= 0:
            raise ValueError("weekdays are 0 to 6, and there is at least one attempt")

    def slots(self, day: date) -> list[datetime]:
        """All times of one day, in order."""
        midnight = periods.midnight(day)
        return sorted(
            midnight + timedelta(hours=at.hour, minutes=at.minute) for at in (self.daily, *self.incremental)
        )

    def slot(self, now: datetime) -> datetime:
        """The latest time of the schedule at or before `now`."""
        today = periods.day_of(now)
        known = [*self.slots(today - timedelta(days=1)), *self.slots(today)]
        return max(moment for moment in known if moment <= now)

    def next(self, now: datetime) -> datetime:
        """The first time of the schedule after `now`."""
        today = periods.day_of(now)
        coming = [*self.slots(today), *self.slots(today + timedelta(days=1))]
        return min(moment for moment in coming if moment > now)

    def latest(self, now: datetime, unit: periods.Unit) -> datetime:
        """When the daily run last was the first one of a day, week or month, at or before `now`."""
        offset = timedelta(hours=self.daily.hour, minutes=self.daily.minute)
        # Before today's run the day that counts is still the one before.
        day = periods.day_of(now - offset)
        return periods.midnight(periods.first_day(day, unit, self.week_start)) + offset


@dataclass(frozen=True, slots=True)
class Attempt:
    """A run that ended without a backup."""

    repo: int
    type: Type
    at: datetime


@dataclass(frozen=True, slots=True)
class Due:
    """A run that is owed."""

    repo: int
    type: Type
    slot: datetime
    """The time of the schedule that it is for."""
    reason: str
    self_contained: bool = False
    """The repository gets no WAL by itself: it has to be given what the backup needs, and then stands alone."""
    at: datetime = datetime.min
    """Not to be tried before: after a failure a while is waited."""

    def late_s(self, now: datetime) -> float:
        """Seconds since its time."""
        return (now - self.slot).total_seconds()


def owed(
    schedule: Schedule, backups: Sequence[Backup], sound: Mapping[tuple[int, str], bool], now: datetime
) -> tuple[Due, ...]:
    """Everything that the schedule asks for by `now` and that is not there, the most valuable first.

    `backups`: all there are; `sound`: those that count, by key (retention.soundness).
    """
    found = _daily(schedule, [b for b in backups if b.repo == schedule.repo], sound, now)
    if schedule.long_term is not None:
        slot = schedule.latest(now, "month")
        fulls = [b for b in backups if b.repo == schedule.long_term and b.type == "full" and sound[b.key]]
        if not any(backup.started >= slot for backup in fulls):
            word = f"the full backup of {slot:%Y-%m}" if fulls else "its first full backup"
            reason = f"repo{schedule.long_term} lacks {word}"
            found.append(Due(schedule.long_term, "full", slot, reason, self_contained=True))
    return tuple(found)


def due(
    schedule: Schedule,
    backups: Sequence[Backup],
    sound: Mapping[tuple[int, str], bool],
    now: datetime,
    failed: Sequence[Attempt] = (),
    *,
    running: bool = False,
) -> tuple[Due, ...]:
    """The runs to do, the first one first; at most one for each repository, and none while a backup is `running`.

    `failed`: the attempts that failed, in any order. A type that has failed as often as the schedule allows waits for
    its next time, and the next most valuable run takes its place: a full backup that fails again and again does not
    cost the day its differential.
    """
    if running:
        return ()
    chosen: dict[int, Due] = {}
    for each in owed(schedule, backups, sound, now):
        tried = _tried(schedule, each, now, failed)
        if each.repo in chosen or len(tried) >= schedule.attempts:
            continue
        at = each.slot
        if tried:
            at = max(tried) + timedelta(seconds=schedule.retry_s * 2 ** (len(tried) - 1))
        chosen[each.repo] = replace(each, at=at)
    return tuple(chosen.values())


def missed(schedule: Schedule, found: Iterable[Due], now: datetime) -> tuple[Due, ...]:
    """Those of the owed runs whose time is longer ago than the schedule's grace: they alert."""
    return tuple(each for each in found if each.late_s(now) > schedule.grace_s)


def _daily(
    schedule: Schedule, backups: Sequence[Backup], sound: Mapping[tuple[int, str], bool], now: datetime
) -> list[Due]:
    """What is owed to the repository of the daily schedule."""
    week, today, slot = schedule.latest(now, "week"), schedule.latest(now, "day"), schedule.slot(now)
    good = [backup for backup in backups if sound[backup.key]]
    newest = max(backups, key=lambda backup: backup.started, default=None)
    full = max((b for b in backups if b.type == "full"), key=lambda backup: backup.started, default=None)
    if full is None:
        return [Due(schedule.repo, "full", slot, "there is no full backup")]
    if not sound[full.key]:
        # What comes next would be based on it, and be as bad.
        return [Due(schedule.repo, "full", slot, f"the newest full backup {full.label} is damaged")]
    found: list[Due] = []
    if full.started < week:
        found.append(Due(schedule.repo, "full", week, f"the week of {week:%Y-%m-%d} lacks its full backup"))
    if not any(backup.started >= today and backup.type != "incr" for backup in good):
        found.append(Due(schedule.repo, "diff", today, f"{today:%Y-%m-%d} lacks its daily backup"))
    if not any(backup.started >= slot for backup in good):
        # An incremental is based on the newest backup of all, a differential on the full one.
        kind: Type = "incr" if newest is not None and sound[newest.key] else "diff"
        found.append(Due(schedule.repo, kind, slot, f"the run of {slot:%Y-%m-%d %H:%M} is owed"))
    return found


def _tried(schedule: Schedule, each: Due, now: datetime, failed: Sequence[Attempt]) -> list[datetime]:
    """When this run failed since the latest time of the schedule."""
    slot = schedule.slot(now)
    return [a.at for a in failed if (a.repo, a.type) == (each.repo, each.type) and slot <= a.at <= now]
