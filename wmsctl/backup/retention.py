"""Which backups stay, which go, and in which order: pure (row R5).

The words, exactly. All days are of UTC, and a backup belongs to the day that it *started* on.

- A backup is **sound** when pgBackRest copied no page with a wrong checksum, no verification found it damaged, and
  every backup that it needs is there and sound. Nothing else stands for a day.
- The **daily of day D** is the sound backup of D that ranks first: full before differential before incremental, then
  the earliest. The **weekly** of a week (it begins on the weekday of the full backup), the **monthly** of a month
  and the **archive** of a year are chosen alike. Where a tier has two repositories, a backup of the second stands in
  only while the first has none for that month or year.
- A tier's backup stays for its term from its own day: 7 days, 4 weeks, 12 months, 7 years. The daily of 24 November
  is due from 1 December 00:00 on. Where a month lacks the day (31 January and a month, 29 February and a year), the
  term ends on the first day of the month after it: never early.
- A day, week, month or year without a sound backup has none: a hole. Its neighbours do not stay longer for it.
- **Point in time**: every backup that ended within the last `point_in_time_days` times 24 hours stays, and the
  **base**, the newest proven one that ended before (while there is none, the newest sound one), with the WAL from
  there on. Older backups keep only the WAL that makes them consistent: they are points, not windows. While the base
  is not proven no WAL goes.
- What a kept backup needs stays. In each repository the newest sound backup stays whatever its age, and so does one
  that was proven by a verification. An annotation `hold` keeps a backup for as long as it is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from wmsctl.backup import periods
from wmsctl.backup.catalogue import Backup, ancestors, dependents
from wmsctl.backup.windows import Window, covered, lost, merged

HOLD = "hold"
"""The annotation that keeps a backup; its value says why."""

RANK = {"full": 0, "diff": 1, "incr": 2}
Key = tuple[int, str]


@dataclass(frozen=True)
class Tier:
    """One backup for each `unit`, for `count` units from its day, looked for in `repos` in this order."""

    name: str
    unit: periods.Unit
    count: int
    repos: tuple[int, ...]


@dataclass(frozen=True)
class Policy:
    """What is promised. The defaults are row R5."""

    point_in_time_days: int = 7
    point_in_time_repo: int = 1
    tiers: tuple[Tier, ...] = (
        Tier("daily", "day", 7, (1,)),
        Tier("weekly", "week", 4, (1,)),
        Tier("monthly", "month", 12, (2, 1)),
        Tier("archive", "year", 7, (2, 1)),
    )
    week_start: int = periods.SUNDAY

    def __post_init__(self) -> None:
        """Raises ValueError for a promise of nothing: it would delete everything."""
        if self.point_in_time_days < 1 or any(tier.count < 1 or not tier.repos for tier in self.tiers):
            raise ValueError("a tier keeps at least one, and point in time at least a day")
        if not self.tiers or len({tier.name for tier in self.tiers}) != len(self.tiers):
            raise ValueError("there is at least one tier, and each has a name of its own")


@dataclass(frozen=True, slots=True)
class Held:
    """A backup with what is known of it beside pgBackRest's word."""

    backup: Backup
    proven: datetime | None = None
    """When a verification last found it whole; None when none has."""
    bad: str = ""
    """What a verification found wrong with it."""
    reach: datetime | None = None
    """Until when WAL carries it without a gap; None: it is a point."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a backup stays. `until` is the first day that this reason does not hold on; None while nothing ends it."""

    kind: str
    """The tier's name, or point-in-time, base, newest, proven, needed, hold."""
    text: str
    until: date | None = None


@dataclass(frozen=True)
class Decision:
    held: Held
    sound: bool
    reasons: tuple[Reason, ...]

    @property
    def backup(self) -> Backup:
        return self.held.backup

    @property
    def keep(self) -> bool:
        return bool(self.reasons)

    @property
    def until(self) -> date | None:
        """The first day without any reason, as far as it is known today."""
        ends = [reason.until for reason in self.reasons]
        return None if not ends or None in ends else max(end for end in ends if end is not None)


@dataclass(frozen=True, slots=True)
class Hole:
    """A period within a tier's term that has no sound backup."""

    tier: str
    period: str


@dataclass(frozen=True, slots=True)
class Floor:
    """From which backup on a repository keeps its WAL unbroken."""

    repo: int
    label: str
    kept: int
    """How many backups, by label, are the same age or newer: what pgBackRest calls repo-retention-archive of type
    incr.
    """


@dataclass(frozen=True)
class Plan:
    now: datetime
    decisions: tuple[Decision, ...]
    expire: tuple[Backup, ...]
    """In this order: what depends on another one before it, so that a run that dies leaves no broken chain."""
    floors: tuple[Floor, ...]
    before: tuple[Window, ...]
    after: tuple[Window, ...]
    lost: tuple[Window, ...]
    """Moments that can be restored to now, from whichever repository, and no longer afterwards."""
    holes: tuple[Hole, ...]
    refusals: tuple[str, ...]

    def decision(self, key: Key) -> Decision:
        return next(decision for decision in self.decisions if decision.backup.key == key)


def soundness(held: Iterable[Held]) -> dict[Key, bool]:
    """Which backups are sound, by key."""
    every = {each.backup.key: each for each in held}
    result: dict[Key, bool] = {}
    # A backup begins after what it needs has ended; what does not is no chain.
    for key, each in sorted(every.items(), key=lambda item: item[1].backup.started):
        backup = each.backup
        needed = [] if backup.type == "full" else [backup.prior, *backup.references]
        result[key] = (
            not backup.damaged and not each.bad and all(result.get((backup.repo, label)) for label in needed)
        )
    return result


def representatives(
    held: Sequence[Held], tier: Tier, sound: Mapping[Key, bool], week_start: int
) -> dict[date, Backup]:
    """The backup that stands for each period of a tier, by the period's first day."""
    chosen: dict[date, Backup] = {}

    def rank(backup: Backup) -> tuple[int, int, datetime]:
        return tier.repos.index(backup.repo), RANK[backup.type], backup.started

    for each in held:
        backup = each.backup
        if backup.repo not in tier.repos or not sound[backup.key]:
            continue
        period = periods.first_day(periods.day_of(backup.started), tier.unit, week_start)
        best = chosen.get(period)
        if best is None or rank(backup) < rank(best):
            chosen[period] = backup
    return chosen


def plan(held: Sequence[Held], policy: Policy, now: datetime, requested: Iterable[Key] = ()) -> Plan:
    """Decide over every backup at `now`. `requested` ones are to go although a reason may keep them.

    Never raises for a state of affairs: what must not be done is in `refusals`, and then nothing is to be deleted.
    """
    every = {each.backup.key: each for each in held}
    backups = {key: each.backup for key, each in every.items()}
    sound = soundness(held)
    refusals: list[str] = []
    newest = max((backup.stopped for backup in backups.values()), default=now)
    if newest > now + timedelta(minutes=5):
        refusals.append(
            f"the newest backup ended at {newest:%Y-%m-%d %H:%M:%S} UTC, which is still to come: a clock is wrong"
        )
    reasons, holes = _reasons(held, policy, now, sound)
    asked = set(requested)
    for key in sorted(asked):
        refusals += _objections(key, backups, sound, reasons, asked)
    kept = {key for key, why in reasons.items() if why and key not in asked}
    expire = _ordered([backup for key, backup in backups.items() if key not in kept], backups)
    for repo in sorted({backup.repo for backup in expire}):
        if not any(k[0] == repo and sound[k] and every[k].proven for k in kept):
            refusals.append(
                f"repo{repo} would be left without a backup that was proven: verify it first (wmsctl backup verify)"
            )
    floors, carried = _floors(every, kept, sound, policy, now)
    before = merged(Window.of(each) for each in held if sound[each.backup.key])
    after = merged(
        Window.of(every[key] if key in carried else replace(every[key], reach=None))
        for key in kept
        if sound[key]
    )
    gone = lost(before, after)
    begin = now - timedelta(days=policy.point_in_time_days)
    promised = covered(gone, begin, now)
    if promised:
        refusals.append(
            f"the last {policy.point_in_time_days} days are promised to the moment, and would lose {promised[0]}"
        )
    return Plan(
        now=now,
        decisions=tuple(
            Decision(each, sound[each.backup.key], tuple(reasons[each.backup.key]) if key in kept else ())
            for key, each in every.items()
        ),
        expire=expire,
        floors=floors,
        before=before,
        after=after,
        lost=gone,
        holes=holes,
        refusals=tuple(refusals),
    )


def _reasons(
    held: Sequence[Held], policy: Policy, now: datetime, sound: Mapping[Key, bool]
) -> tuple[dict[Key, list[Reason]], tuple[Hole, ...]]:
    """Why each backup stays, and the holes."""
    today = periods.day_of(now)
    backups = {each.backup.key: each.backup for each in held}
    reasons: dict[Key, list[Reason]] = {key: [] for key in backups}
    holes: list[Hole] = []
    first = min((periods.day_of(b.started) for b in backups.values()), default=today)
    for tier in policy.tiers:
        chosen = representatives(held, tier, sound, policy.week_start)
        for period, backup in chosen.items():
            due = periods.later(periods.day_of(backup.started), tier.unit, tier.count)
            if due > today:
                title = f"{tier.name} of {periods.name(period, tier.unit)}"
                reasons[backup.key].append(Reason(tier.name, title, due))
        since = max(first, periods.later(today, tier.unit, -tier.count))
        holes += [
            Hole(tier.name, periods.name(period, tier.unit))
            for period in periods.periods(since, today, tier.unit, policy.week_start)
            if period not in chosen
            # It is over, and its term is not.
            and periods.later(period, tier.unit, 1) <= today < periods.later(period, tier.unit, tier.count)
        ]
    _point_in_time(held, policy, now, sound, reasons)
    for repo in {backup.repo for backup in backups.values()}:
        good = [b for key, b in backups.items() if b.repo == repo and sound[key]]
        if good:
            newest = max(good, key=lambda b: b.stopped)
            reasons[newest.key].append(Reason("newest", f"newest of repo{repo}"))
    for key, backup in backups.items():
        if HOLD in backup.annotations:
            reasons[key].append(Reason("hold", f"held: {backup.annotations[HOLD]}"))
    _needed(backups, reasons)
    # Last, because what is kept anyway may be proven.
    for repo in {backup.repo for backup in backups.values()}:
        proven = [h for h in held if h.backup.repo == repo and h.proven and sound[h.backup.key]]
        if proven and not any(reasons[h.backup.key] for h in proven):
            best = max(proven, key=lambda h: h.backup.stopped).backup
            reasons[best.key].append(Reason("proven", f"the newest of repo{repo} that was proven"))
            _needed(backups, reasons)
    return reasons, tuple(holes)


def _point_in_time(
    held: Sequence[Held],
    policy: Policy,
    now: datetime,
    sound: Mapping[Key, bool],
    reasons: dict[Key, list[Reason]],
) -> None:
    term = timedelta(days=policy.point_in_time_days)
    mine = [each.backup for each in held if each.backup.repo == policy.point_in_time_repo]
    for backup in mine:
        if backup.stopped > now - term:
            # The first whole day on which it is out of the window.
            until = periods.day_of(backup.stopped + term) + timedelta(days=1)
            word = "within the point-in-time window" if sound[backup.key] else "damaged: kept to look into"
            reasons[backup.key].append(Reason("point-in-time", word, until))
    base = _base(held, policy, now, sound)
    if base is not None:
        reasons[base.key].append(Reason("base", "base of the point-in-time window"))


def _base(
    held: Iterable[Held], policy: Policy, now: datetime, sound: Mapping[Key, bool], *, proven: bool = True
) -> Backup | None:
    """The newest sound backup that ended when the point-in-time window begins, or before.

    With `proven` one that was proven comes before all that were not: the window is not moved onto a backup of which
    nobody knows whether it is whole.
    """
    begin = now - timedelta(days=policy.point_in_time_days)
    older = [
        h
        for h in held
        if h.backup.repo == policy.point_in_time_repo and h.backup.stopped <= begin and sound[h.backup.key]
    ]
    best = max(older, key=lambda h: (proven and h.proven is not None, h.backup.stopped), default=None)
    return best.backup if best is not None else None


def carried_from(held: Sequence[Held], policy: Policy, now: datetime) -> dict[int, str]:
    """Repository → label of the backup from which on its WAL has to be unbroken: the base of the point-in-time window,
    and the oldest sound one while the window is younger than that. A long-term repository keeps no WAL to follow.
    """
    sound = soundness(held)
    mine = [h.backup for h in held if h.backup.repo == policy.point_in_time_repo and sound[h.backup.key]]
    base = _base(held, policy, now, sound, proven=False)
    first = base or min(mine, key=lambda backup: backup.started, default=None)
    return {policy.point_in_time_repo: first.label} if first is not None else {}


def _needed(backups: Mapping[Key, Backup], reasons: dict[Key, list[Reason]]) -> None:
    """What kept backups depend on stays; told once, with the first that needs it."""
    for key, backup in backups.items():
        if not reasons[key]:
            continue
        for parent in ancestors(backup, backups):
            if not any(reason.kind == "needed" for reason in reasons[parent.key]):
                reasons[parent.key].append(Reason("needed", f"{backup.label} needs it"))


def _objections(
    key: Key,
    backups: Mapping[Key, Backup],
    sound: Mapping[Key, bool],
    reasons: Mapping[Key, list[Reason]],
    asked: set[Key],
) -> list[str]:
    """Why a backup that was asked for by name must not go."""
    backup = backups.get(key)
    if backup is None:
        return [f"repo{key[0]} has no backup {key[1]}"]
    needing = [
        other.label
        for other in dependents(backup, backups)
        if other.key not in asked and any(reason.kind != "needed" for reason in reasons[other.key])
    ]
    if needing:
        return [f"{backup.name} is needed by {', '.join(needing)}: the chain would be broken"]
    kinds = {"point-in-time", "needed"} if sound[key] else {"point-in-time", "needed", "base"}
    strong = [reason.text for reason in reasons[key] if reason.kind not in kinds]
    return [f"{backup.name} stays: {strong[0]}"] if strong else []


def _ordered(going: Sequence[Backup], backups: Mapping[Key, Backup]) -> tuple[Backup, ...]:
    """Chain by chain from the oldest, and within a chain from its end."""

    def root(backup: Backup) -> Backup:
        return (backup, *ancestors(backup, backups))[-1]

    def place(backup: Backup) -> tuple[int, datetime, str, float]:
        top = root(backup)
        return backup.repo, top.started, top.label, -backup.started.timestamp()

    return tuple(sorted(going, key=place))


def _floors(
    every: Mapping[Key, Held], kept: set[Key], sound: Mapping[Key, bool], policy: Policy, now: datetime
) -> tuple[tuple[Floor, ...], set[Key]]:
    """The floor of each repository that may lose WAL, and the backups that stay windows."""
    floors: list[Floor] = []
    carried = set(kept)
    for repo in sorted({key[0] for key in kept}):
        mine = [every[key].backup for key in kept if key[0] == repo]
        if repo == policy.point_in_time_repo:
            floor = _base((every[key] for key in kept), policy, now, sound)
        else:
            floor = max((b for b in mine if sound[b.key]), key=lambda backup: backup.stopped, default=None)
        # What nobody has proven is nothing to rely on alone: then all WAL stays.
        if floor is not None and not every[floor.key].proven:
            floor = None
        if floor is None or not floor.wal_start:
            continue
        newer = [backup for backup in mine if backup.label >= floor.label]
        floors.append(Floor(repo, floor.label, len(newer)))
        carried -= {backup.key for backup in mine if backup.label < floor.label}
    return tuple(floors), carried
