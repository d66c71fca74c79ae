"""Schedule and retention played forward, day by day, for years: pure.

Every time of the schedule comes, runs take their while or fail, and once a day what retention lets go is removed.
The same `schedule.due` and `retention.plan` decide as for real, so what is seen here is what will be done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta

from wmsctl.backup import periods, retention
from wmsctl.backup.catalogue import Backup, Type
from wmsctl.backup.retention import Held, Policy
from wmsctl.backup.schedule import Attempt, Due, Schedule, due

Fate = Callable[[Due, datetime, int], bool]
"""(run, its beginning, the how manieth attempt of the simulation) → whether it ends well."""


def well(run: Due, at: datetime, number: int) -> bool:
    """Nothing fails."""
    return True


@dataclass(frozen=True)
class World:
    """What is assumed."""

    schedule: Schedule = field(default_factory=Schedule)
    policy: Policy = field(default_factory=Policy)
    minutes: dict[Type, int] = field(default_factory=lambda: {"full": 40, "diff": 10, "incr": 3})
    """How long a run takes."""
    fate: Fate = well
    off: tuple[tuple[datetime, datetime], ...] = ()
    """When the scheduler does not run at all."""


@dataclass(frozen=True)
class Day:
    """The state at the end of one UTC day."""

    day: date
    held: tuple[Held, ...]
    made: tuple[Backup, ...]
    failed: tuple[Attempt, ...]
    expired: tuple[Backup, ...]
    refusals: tuple[str, ...]
    """Why retention removed nothing that day, if it declined."""
    restorable_since: datetime | None
    """The beginning of the point-in-time window; None while there is no backup."""


def run(
    world: World, start: date, days: int, held: Iterable[Held] = (), begin: datetime | None = None
) -> Iterator[Day]:
    """Play `days` days from `start` on, beginning with the backups `held`; one Day for each.

    The first day begins at 00:00 UTC, or at its moment `begin`.
    """
    state = _State(world, list(held))
    now = begin or periods.midnight(start)
    for number in range(days):
        end = periods.midnight(start + timedelta(days=number + 1))
        state.begin_day()
        while now < end:
            now = state.turn(now, end)
        yield state.day(start + timedelta(days=number), end)


class _State:
    def __init__(self, world: World, held: list[Held]) -> None:
        self.world, self.held = world, held
        self.sound = retention.soundness(held)
        self.failed: list[Attempt] = []
        self.attempts = 0
        self.cleaned: date | None = None
        self.begin_day()

    def begin_day(self) -> None:
        self.made: list[Backup] = []
        self.lost: list[Backup] = []
        self.tried: list[Attempt] = []
        self.refusals: tuple[str, ...] = ()

    def turn(self, now: datetime, end: datetime) -> datetime:
        """What happens at `now`; the next moment at which anything may."""
        world = self.world
        asleep = [until for since, until in world.off if since <= now < until]
        if asleep:
            return min(max(asleep), end)
        runs = due(world.schedule, [h.backup for h in self.held], self.sound, now, self.failed)
        for each in runs:
            if each.at <= now:
                return self._run(each, now)
        if self.cleaned != periods.day_of(now):
            self.cleaned = periods.day_of(now)
            self._expire(now)
        return min([world.schedule.next(now), end, *(each.at for each in runs)])

    def day(self, day: date, end: datetime) -> Day:
        """The day that has just ended."""
        sound = retention.soundness(self.held)
        begin = end - timedelta(days=self.world.policy.point_in_time_days)
        mine = [
            h.backup.stopped
            for h in self.held
            if sound[h.backup.key]
            and h.reach is not None
            and h.backup.repo == self.world.policy.point_in_time_repo
        ]
        base = max((moment for moment in mine if moment <= begin), default=min(mine, default=None))
        return Day(
            day, tuple(self.held), tuple(self.made), tuple(self.tried), tuple(self.lost), self.refusals, base
        )

    def _run(self, each: Due, now: datetime) -> datetime:
        """One run to its end; when it has ended. A scheduler that is switched off meanwhile ends it in failure."""
        world = self.world
        over = now + timedelta(minutes=world.minutes[each.type])
        cut = [since for since, until in world.off if now < since < over]
        self.attempts += 1
        if cut or not world.fate(each, now, self.attempts):
            failed = Attempt(each.repo, each.type, now)
            self.failed = [a for a in self.failed if a.at > now - timedelta(days=1)] + [failed]
            self.tried.append(failed)
            return min([*cut, over])
        backup = self._backup(each, now, over)
        self.made.append(backup)
        self.sound[backup.key] = True
        # WAL goes on from every new backup; what a verification would find is assumed to be well.
        self.held.append(Held(backup, proven=over, reach=datetime.max.replace(tzinfo=UTC)))
        return over

    def _backup(self, each: Due, started: datetime, stopped: datetime) -> Backup:
        mine = [h.backup for h in self.held if h.backup.repo == each.repo]
        prior = _prior(each.type, mine)
        return made(each.repo, each.type, started, stopped, prior, len(self.held))

    def _expire(self, now: datetime) -> None:
        plan = retention.plan([replace(h, reach=_until(h, now)) for h in self.held], self.world.policy, now)
        self.refusals = plan.refusals if plan.expire else ()
        if self.refusals:
            return
        self.lost += plan.expire
        gone = {backup.key for backup in plan.expire}
        floors = {floor.repo: floor.label for floor in plan.floors}
        self.held = [
            replace(h, reach=None) if h.backup.label < floors.get(h.backup.repo, "") else h
            for h in self.held
            if h.backup.key not in gone
        ]


def made(
    repo: int, kind: Type, started: datetime, stopped: datetime, prior: Backup | None, number: int
) -> Backup:
    """A backup as pgBackRest would have made it."""
    stamp = f"{started:%Y%m%d-%H%M%S}"
    full = prior.label[:16] if prior is not None and kind != "full" else ""
    references = (*prior.references, prior.label) if prior is not None and kind != "full" else ()
    wal = f"{1:08X}{number >> 8 & 0xFFFFFFFF:08X}{number & 0xFF:08X}"
    return Backup(
        repo=repo,
        label=f"{full}_{stamp}{kind[0].upper()}" if full else f"{stamp}F",
        type=kind,
        prior=prior.label if prior is not None and kind != "full" else "",
        references=tuple(dict.fromkeys(references)),
        started=started,
        stopped=stopped,
        lsn_start=number << 24,
        lsn_stop=(number << 24) + 1,
        wal_start=wal,
        wal_stop=wal,
        archive="15-1",
        size=0,
        delta=0,
        stored=None,
        stored_delta=0,
        damaged=False,
    )


def _prior(kind: Type, mine: list[Backup]) -> Backup | None:
    """What pgBackRest bases a backup on: the newest full one, or the newest of all."""
    if kind == "full":
        return None
    return max((b for b in mine if kind == "incr" or b.type == "full"), key=lambda b: b.stopped)


def _until(held: Held, now: datetime) -> datetime | None:
    return now if held.reach is not None else None
