"""Partitioned tables in memory: builders for snapshots, and a model that steps change as they change PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from wmsctl.inventory import PartitionedTable
from wmsctl.partitions import plan
from wmsctl.partitions.periods import Interval, Period, following, period_of
from wmsctl.partitions.snapshot import Archive, Partition, Snapshot, Table

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)


def declared(interval: Interval = "month", **changes: Any) -> PartitionedTable:
    """A declared table `moves`: two periods ahead, three months online, a week kept, archives for a year."""
    values: dict[str, Any] = {
        "table": "moves", "interval": interval, "premake": 2, "online_months": 3, "archive": True, "keep_days": 7,
        "archive_months": 12, "carry": "carry_forward",
    }  # fmt: skip
    return PartitionedTable(**{**values, **changes})


def part(period: Period, table: str = "moves", **changes: Any) -> Partition:
    """An attached partition of one period."""
    base = Partition(period.name(table), period.lower, period.upper, period, rows=1000, bytes=1_000_000)
    return replace(base, **changes)


def month(text: str) -> Period:
    """The month 2026-01."""
    return period_of(datetime.fromisoformat(f"{text}-01").replace(tzinfo=UTC), "month")


def archive(period: Period, state: Any = "proven", table: str = "moves", **changes: Any) -> Archive:
    """An archive of one period, proven at noon."""
    base = Archive(
        f"{period.name(table)}-20260315T120000Z", table, period.name(table), period.lower, period.upper, state,
        "partitions/manifest.json", "0" * 64, 1000, 100_000, NOON, present=state in ("open", "proven"),
    )  # fmt: skip
    return replace(base, **changes)


def table(spec: PartitionedTable | None = None, now: datetime = NOON, past: int = 2, **changes: Any) -> Table:
    """A table in order: `past` periods back, premake ahead."""
    spec = spec or declared()
    first = period_of(now, spec.interval)
    for _ in range(past):
        first = first.previous()
    partitions = tuple(part(each, spec.table) for each in following(first, past + spec.premake))
    base = Table(spec, key="created_at", partitions=partitions, analyzed_at=now)
    return replace(base, **changes)


def snapshot(*tables: Table, now: datetime = NOON) -> Snapshot:
    return Snapshot(now, tables, "pg-1")


class Model:
    """One table and its archives, changed by steps as the real thing is, with a clock of its own."""

    def __init__(self, found: Table, now: datetime) -> None:
        self.table, self.now = found, now
        self.done: list[tuple[datetime, str, str]] = []

    def snapshot(self) -> Snapshot:
        return snapshot(self.table, now=self.now)

    def maintain(self) -> plan.Maintenance:
        """One run of `maintain`."""
        made = plan.maintenance(self.snapshot())
        for step in made.steps:
            self.apply(step)
        return made

    def apply(self, step: plan.Step) -> None:
        if step.action != "analyze":
            self.done.append((self.now, step.action, step.partition))
        if step.action == "create":
            assert step.period is not None
            assert self.table.overlapping(step.period) is None, "partition would overlap"
            assert step.partition not in self.table.detached, "relation already exists"
            self._put((*self.table.partitions, part(step.period, self.table.name)))
            left = tuple(each for each in self.table.strays if each[0] != step.period.start)
            self.table = replace(self.table, strays=left)
        elif step.action == "finalize":
            self._put(tuple(each for each in self.table.partitions if each.name != step.partition))
            self.table = replace(self.table, detached=(*self.table.detached, step.partition))
        elif step.action == "analyze":
            self.table = replace(self.table, analyzed_at=self.now)
        elif step.action == "index":
            self.table = replace(self.table, gaps=tuple(g for g in self.table.gaps if g != step.gap))
        else:
            assert step.archive is not None
            state: Any = "dropped" if step.action == "drop" else "expired"
            self._archive(replace(step.archive, state=state, present=False))

    def archive(self) -> None:
        """One run of `archive`."""
        for name in plan.archivable(self.table, self.now):
            made = plan.archiving(self.snapshot(), self.table.name, name)
            assert isinstance(made, plan.Archiving), made
            self.done.append((self.now, "archive", name))
            self._put(tuple(each for each in self.table.partitions if each.name != name))
            self._archive(archive(made.period, "proven", self.table.name, proven_at=self.now))

    def day(self) -> None:
        """Midnight of the next day."""
        self.now = self.now.replace(hour=0) + timedelta(days=1)

    def _put(self, partitions: tuple[Partition, ...]) -> None:
        least = datetime.min.replace(tzinfo=UTC)
        ordered = sorted(partitions, key=lambda each: each.lower or least)
        self.table = replace(self.table, partitions=tuple(ordered))

    def _archive(self, changed: Archive) -> None:
        others = tuple(each for each in self.table.archives if each.id != changed.id)
        self.table = replace(self.table, archives=(changed, *others))
