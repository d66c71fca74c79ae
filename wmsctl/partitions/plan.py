"""What is to be done with partitions. Pure: a snapshot to steps, notes on what is left alone, or a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

from wmsctl.partitions.periods import Period, following, midnight, months_after, period_of
from wmsctl.partitions.snapshot import (
    Archive,
    IndexGap,
    Partition,
    Snapshot,
    Table,
    archived_until,
    current,
    kept_until,
    online_until,
)

MOVABLE = 5_000
"""Rows of one period that are brought home from a default partition at once: who writes to it waits so long
(docs/adr/0030)."""
STATISTICS = timedelta(days=7)
"""How old the statistics of a whole table may be; autovacuum never gathers those of a partitioned one."""
GRACE = timedelta(days=1)
"""A period is over for so long before it is archived: late clocks, transactions that still run."""

Action = Literal["finalize", "create", "index", "analyze", "drop", "expire"]


@dataclass(frozen=True)
class Step:
    """One change of `maintain`; each may be repeated."""

    action: Action
    table: str
    partition: str = ""
    period: Period | None = None
    rows: int = 0
    """Of the default partition, that come along."""
    gap: IndexGap | None = None
    archive: Archive | None = None

    @property
    def words(self) -> str:
        """What it does, for people."""
        if self.action == "finalize":
            return f"finish the interrupted detach of {self.partition}"
        if self.action == "create":
            moved = f", with {self.rows} rows of the default partition" if self.rows else ""
            return f"make {self.partition}{moved}"
        if self.action == "index":
            assert self.gap is not None
            does = {
                "missing": "build and attach",
                "unattached": "attach",
                "invalid": "build again and attach",
            }
            return f"{does[self.gap.state]} {self.gap.name} ({self.gap.index} of {self.partition})"
        if self.action == "analyze":
            return f"gather the statistics of {self.table}"
        assert self.archive is not None
        if self.action == "drop":
            return f"drop {self.partition}, archived as {self.archive.id}, after looking at its files again"
        return (
            f"delete the archive {self.archive.id} from the store: its time is over, or a newer one is there"
        )


@dataclass(frozen=True)
class Maintenance:
    """What `maintain` does, in order, and what it leaves alone and why."""

    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()
    """What keeps a declared table from being maintained at all."""


@dataclass(frozen=True)
class Refusal:
    """Why it is not safe, and what to do."""

    reason: str
    hint: str = ""


def missing_next(table: Table, now: datetime) -> tuple[Period, ...]:
    """The current and the next period, as far as no attached partition takes their rows."""
    if table.trouble:
        return ()
    return tuple(each for each in following(current(table, now), 1) if table.holding(each) is None)


def maintenance(snapshot: Snapshot) -> Maintenance:
    """What every declared table needs now. Making partitions comes first: nothing that follows can keep it."""
    steps: list[Step] = []
    notes: list[str] = []
    troubles = [table.trouble for table in snapshot.tables if table.trouble]
    well = [table for table in snapshot.tables if not table.trouble]
    for table in well:
        steps += [Step("finalize", table.name, each.name) for each in table.partitions if each.pending]
    for table in well:
        made, said = _creations(table, snapshot.now)
        steps += made
        notes += said
    for table in well:
        steps += [Step("index", table.name, gap.partition, gap=gap) for gap in table.gaps if not gap.unique]
        notes += [
            f"{gap.partition} lacks the unique index {gap.index}: build and attach it by hand"
            for gap in table.gaps
            if gap.unique
        ]
        if table.analyzed_at is None or snapshot.now - table.analyzed_at > STATISTICS:
            steps.append(Step("analyze", table.name))
    for table in well:
        steps += _retention(table, snapshot.now)
        attached = {each.name for each in table.partitions}
        notes += [
            f"{each.partition} is attached although {each.id} holds it: wmsctl partitions unarchive {each.partition}"
            for each in table.archives
            if each.state in ("proven", "dropped") and each.partition in attached
        ]
        if due := archivable(table, snapshot.now):
            notes.append(f"to be archived: {', '.join(due)} (wmsctl partitions archive)")
    return Maintenance(tuple(steps), tuple(notes), tuple(troubles))


def _creations(table: Table, now: datetime) -> tuple[list[Step], list[str]]:
    here = current(table, now)
    # The one before: a clock may be behind, an import late.
    wanted = dict.fromkeys((here.previous(), *following(here, table.spec.premake)), 0)
    notes = []
    for day, count in table.strays:
        period = period_of(day, table.spec.interval)
        if count > MOVABLE:
            notes.append(
                f"{table.default} holds {count} rows of {period.suffix}, too many to move at once ({MOVABLE}): "
                "move them by hand, in a quiet hour"
            )
            wanted.pop(period, None)
        else:
            wanted[period] = count
    steps = []
    for period, count in sorted(wanted.items()):
        if table.holding(period) is not None:
            continue
        if archive := table.archive_of(period):
            notes += (
                [f"{period.name(table.name)} is not made: its rows are archived as {archive.id}"]
                if count
                else []
            )
        elif (name := period.name(table.name)) in {
            *table.detached,
            *(p.name for p in table.partitions if p.pending),
        }:
            notes.append(f"{name} is not made: another table has its name; attach, rename or drop that")
        elif in_the_way := table.overlapping(period):
            notes.append(f"{period.name(table.name)} is not made: {in_the_way.name} takes a part of its rows")
        else:
            steps.append(Step("create", table.name, period.name(table.name), period=period, rows=count))
    # What rows are refused for now comes before what they are refused for later.
    return sorted(steps, key=lambda step: step.period != here), notes


def _retention(table: Table, now: datetime) -> Iterator[Step]:
    attached = {each.name for each in table.partitions}
    for each in reversed(table.archives):
        if each.state == "proven" and each.partition in attached:
            continue  # somebody attached it by hand: the notes say so
        if each.state == "proven" and each.proven_at and kept_until(table.spec, each.proven_at) <= now:
            yield Step("drop", table.name, each.partition, archive=each)
        elif each.manifest and each.state in ("dropped", "restored"):
            over = archived_until(table.spec, each.upper) <= now
            if over or (each.state == "restored" and _replaced(table, each)):
                yield Step("expire", table.name, each.partition, archive=each)


def _replaced(table: Table, archive: Archive) -> bool:
    """Whether the partition was brought back from this archive, and archived again since."""
    return any(
        each.partition == archive.partition and each.state in ("proven", "dropped") for each in table.archives
    )


def archivable(table: Table, now: datetime) -> tuple[str, ...]:
    """The partitions that are due for the archive, oldest first: those beyond online_months, and those whose archive
    was begun and not finished.
    """
    if not table.spec.archive or table.trouble:
        return ()
    begun = {each.partition: each.lower for each in table.archives if each.state == "open"}
    restored = {each.partition for each in table.archives if each.state == "restored"}
    due = {
        each.name: each.lower
        for each in table.partitions
        # One that was brought back stays until it is archived by name.
        if each.period and each.period.upper <= online_until(table.spec, now) and each.name not in restored
    }
    return tuple(sorted({**due, **begun}, key=lambda name: {**due, **begun}[name] or midnight(now.date())))


@dataclass(frozen=True)
class Archiving:
    """The archive of one partition: what is left to be done of freeze, carry, detach, export, prove."""

    table: str
    partition: str
    key: str
    period: Period
    archive: Archive | None
    """The one that was begun before."""
    steps: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        said = {
            "freeze": f"refuse further changes of {self.partition}",
            "carry": f"write the balances that {self.partition} leaves behind",
            "detach": f"detach {self.partition} beside the traffic",
            "export": f"export {self.partition} to the store, with a manifest",
            "prove": f"read {self.partition} back, load it into a scratch table, compare",
        }
        return tuple(said[step] for step in self.steps)


def archiving(
    snapshot: Snapshot, table_name: str, name: str, *, early: bool = False
) -> Archiving | Refusal | Archive:
    """How to archive the partition `name`; the Archive when that is done already."""
    table = snapshot.table(table_name)
    if table is None or table.trouble:
        return Refusal(table.trouble if table else f"{table_name} is not declared as partitioned")
    part = next((each for each in table.partitions if each.name == name), None)
    known = next((each for each in table.archives if each.partition == name), None)
    if known and (known.state == "restored" or (known.state == "expired" and part)):
        known = None  # that one is over: this is the next
    if known and known.state != "open":
        if part is None:
            return known
        return Refusal(
            f"{name} is attached although {known.id} holds it",
            f"set that right: wmsctl partitions unarchive {name}",
        )
    if part is None and known is None:
        return Refusal(f"{table_name} has no partition {name}", "see: wmsctl partitions status")
    period = part.period if part else period_of(known.lower, table.spec.interval) if known else None
    if period is None or (part and not part.plain):
        return Refusal(f"{name} does not hold exactly one {table.spec.interval} of UTC in a plain table")
    if refusal := _unfit(table, part, period, snapshot.now, early):
        return refusal
    steps = ["export", "prove"]
    if part is not None:
        steps = ["freeze", *(["carry"] if table.spec.carry and not part.pending else []), "detach", *steps]
    elif known and known.manifest:
        steps = ["prove"]
    return Archiving(table_name, name, table.key, period, known, tuple(steps))


def _unfit(
    table: Table, part: Partition | None, period: Period, now: datetime, early: bool
) -> Refusal | None:
    if not table.spec.archive:
        return Refusal(
            f"{table.name} is not to be archived",
            "declare it: partitions.tables[].archive in the stack's spec",
        )
    if table.foreign_keys:
        return Refusal(
            f"other tables refer to {table.name}: {', '.join(table.foreign_keys)}",
            "drop these constraints: their rows would point at what is not there any more",
        )
    if part is None:
        return None  # it is detached: what follows changes nothing that is attached
    if table.default:
        return Refusal(
            f"{table.name} has the default partition {table.default}: PostgreSQL detaches nothing beside the traffic",
            "empty and detach it: see docs/partitions.md",
        )
    if period.upper + GRACE > now:
        return Refusal(f"{part.name} is not over for a day yet", "archive it later")
    if period.upper > online_until(table.spec, now) and not early:
        return Refusal(
            f"{part.name} belongs to the {table.spec.online_months} months that stay online",
            "to archive it all the same: --early",
        )
    return None


@dataclass(frozen=True)
class Restoring:
    """How a partition comes back: from the store, or, while its table is still there, by attaching that."""

    table: str
    partition: str
    period: Period
    archive: Archive
    source: Literal["store", "table"]

    @property
    def words(self) -> tuple[str, ...]:
        if self.source == "table":
            return (f"compare {self.partition} with its archive", f"attach {self.partition}")
        return (
            f"look at every file of {self.archive.id}",
            f"load {self.partition} and build its indexes",
            "compare it with the manifest, byte for byte",
            f"attach {self.partition}",
        )


def restoring(snapshot: Snapshot, table_name: str, name: str) -> Restoring | Refusal | Partition:
    """How to bring the partition `name` back; the Partition when it is attached."""
    table = snapshot.table(table_name)
    if table is None or table.trouble:
        return Refusal(table.trouble if table else f"{table_name} is not declared as partitioned")
    part = next((each for each in table.partitions if each.name == name), None)
    known = next((each for each in table.archives if each.partition == name), None)
    if part and part.pending:
        return Refusal(
            f"the detach of {name} was interrupted", f"finish it first: wmsctl partitions archive {name}"
        )
    if part and known and known.state == "open":
        return Refusal(
            f"the archive of {name} was begun and not finished",
            f"finish it: wmsctl partitions archive {name}",
        )
    if part:
        return part
    if known is None:
        return Refusal(f"there is no archive of {name}", "see: wmsctl partitions status")
    period = period_of(known.lower, table.spec.interval)
    if in_the_way := table.overlapping(period):
        return Refusal(f"{in_the_way.name} takes the rows of {name}", f"detach {in_the_way.name} first")
    if known.present:
        return Restoring(table_name, name, period, known, "table")
    if known.state == "expired" or not known.manifest:
        return Refusal(f"the archive {known.id} is {known.state}: there is nothing left to bring back")
    return Restoring(table_name, name, period, known, "store")


def table_of(snapshot: Snapshot, name: str) -> str:
    """The declared table that a partition belongs to by its name; empty when it is none's."""
    candidates = [
        each.name
        for each in snapshot.tables
        if name in {part.name for part in each.partitions} | {archive.partition for archive in each.archives}
    ]
    return candidates[0] if candidates else ""


@dataclass(frozen=True)
class Event:
    """What will be done on a day to come."""

    at: datetime
    action: Literal["create", "archive", "drop", "expire"]
    table: str
    partition: str


def forecast(snapshot: Snapshot, months: int) -> tuple[Event, ...]:
    """What daily maintenance and archiving will do from now until so many months later, in the order of time."""
    until = midnight(months_after(snapshot.now.date(), months))
    return tuple(
        sorted(
            (
                event
                for table in snapshot.tables
                if not table.trouble
                for event in _future(table, snapshot.now, until)
            ),
            key=lambda event: (event.at, event.table, event.partition, event.action),
        )
    )


def _future(table: Table, now: datetime, until: datetime) -> Iterator[Event]:
    spec, here = table.spec, current(table, now)
    period = here.previous()
    last = here
    while last.lower <= until:
        last = last.next()
    for _ in range(spec.premake):
        last = last.next()
    attached = {each.period: each for each in table.partitions if each.period}
    made: list[Period] = [each for each in attached if each is not None]
    lead = list(following(here, spec.premake))[-1]
    while period < last:
        if period not in attached and table.archive_of(period) is None:
            # It comes when the period `premake` before it begins, or now if that has begun.
            at = now
            if period > lead:
                ahead = period
                for _ in range(spec.premake):
                    ahead = ahead.previous()
                at = ahead.lower
            if at <= until:
                made.append(period)
                yield Event(at, "create", table.name, period.name(table.name))
        period = period.next()
    if not spec.archive:
        return
    ends = [(each, each.state, each.proven_at) for each in table.archives]
    for period in sorted(made):
        at = max(now, midnight(months_after(_month_after(period.upper), spec.online_months)))
        if at > until:
            continue
        yield Event(at, "archive", table.name, period.name(table.name))
        yield from _end(table, period.name(table.name), period.upper, at, now, until)
    for archive, state, proven_at in ends:
        if state == "restored" and archive.manifest and _replaced(table, archive):
            yield Event(now, "expire", table.name, archive.partition)
        elif state == "proven" and proven_at:
            yield from _end(table, archive.partition, archive.upper, proven_at, now, until)
        elif archive.manifest and state in ("dropped", "restored"):
            at = max(now, archived_until(spec, archive.upper))
            if at <= until:
                yield Event(at, "expire", table.name, archive.partition)


def _end(
    table: Table, partition: str, upper: datetime, proven_at: datetime, now: datetime, until: datetime
) -> Iterator[Event]:
    dropped = max(now, kept_until(table.spec, proven_at))
    if dropped <= until:
        yield Event(dropped, "drop", table.name, partition)
    expired = max(dropped, archived_until(table.spec, upper))
    if expired <= until:
        yield Event(expired, "expire", table.name, partition)


def _month_after(upper: datetime) -> date:
    """The first day of the first month that begins at `upper` or later."""
    first = upper.date().replace(day=1)
    return first if midnight(first) >= upper else months_after(first, 1)
