"""What was found in the database about partitioned tables, as plain values that plans are made from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

from wmsctl.inventory import PartitionedTable
from wmsctl.partitions.periods import Period, midnight, months_after, period_of

State = Literal["open", "proven", "dropped", "restored", "expired"]
LIVE: tuple[State, ...] = ("open", "proven", "dropped")
"""States in which the archive, and not an attached partition, holds the rows or is about to."""


@dataclass(frozen=True)
class Partition:
    """One partition by range, attached or about to be detached."""

    name: str
    lower: datetime | None
    """None: MINVALUE."""
    upper: datetime | None
    """None: MAXVALUE."""
    period: Period | None = None
    """None: its bounds are no period of the declared interval."""
    pending: bool = False
    """A concurrent detach of it was interrupted."""
    frozen: bool = False
    """It takes no changes any more."""
    rows: int | None = None
    """As the statistics estimate; None when it was never looked at."""
    bytes: int | None = None
    """With its indexes; None when it was not asked for."""
    plain: bool = True
    """An ordinary table: no partitions of its own, no foreign table."""


@dataclass(frozen=True)
class Archive:
    """One archive as ops.partition_archives tells of it."""

    id: str
    table: str
    partition: str
    lower: datetime
    upper: datetime
    state: State
    manifest: str = ""
    """Key in the store; empty while nothing is exported."""
    manifest_sha256: str = ""
    rows: int | None = None
    bytes: int | None = None
    """In the store."""
    proven_at: datetime | None = None
    present: bool = False
    """A table of the partition's name is in the database."""


@dataclass(frozen=True)
class IndexGap:
    """A partition that lacks an index of its table, and what is there instead."""

    partition: str
    index: str
    """The table's index."""
    name: str
    """The name of the partition's own."""
    state: Literal["missing", "unattached", "invalid"]
    unique: bool
    definition: str
    """From USING on."""


@dataclass(frozen=True)
class Table:
    """A declared table."""

    spec: PartitionedTable
    trouble: str = ""
    """Why nothing can be done with it; empty when all is as declared."""
    key: str = ""
    """The column it is partitioned by."""
    partitions: tuple[Partition, ...] = ()
    """By their lower bound, the default partition excluded."""
    default: str = ""
    """The default partition; empty: there is none."""
    strays: tuple[tuple[date, int], ...] = ()
    """Rows in the default partition: (first day of their period, number)."""
    detached: tuple[str, ...] = ()
    """Relations with the name of a partition that are none."""
    foreign_keys: tuple[str, ...] = ()
    """Constraints of other tables that point here, as table.constraint."""
    gaps: tuple[IndexGap, ...] = ()
    analyzed_at: datetime | None = None
    """When the statistics of the whole were gathered last."""
    archives: tuple[Archive, ...] = ()
    """The newest of each partition first."""

    @property
    def name(self) -> str:
        return self.spec.table

    def holding(self, period: Period) -> Partition | None:
        """The attached partition that takes the rows of `period`, whatever else it takes."""
        for each in self.partitions:
            after = each.lower is None or each.lower <= period.lower
            before = each.upper is None or each.upper >= period.upper
            if after and before and not each.pending:
                return each
        return None

    def overlapping(self, period: Period) -> Partition | None:
        """An attached partition that takes some of the rows of `period`; one whose detach is pending takes none."""
        for each in self.partitions:
            if each.pending:
                continue
            begins = each.lower is None or each.lower < period.upper
            ends = each.upper is None or each.upper > period.lower
            if begins and ends:
                return each
        return None

    def archive_of(self, period: Period) -> Archive | None:
        """The archive that holds the rows of `period`, or is about to."""
        for each in self.archives:
            if each.state in LIVE and each.lower < period.upper and period.lower < each.upper:
                return each
        return None


@dataclass(frozen=True)
class Snapshot:
    """The declared tables at one moment of the server's clock."""

    now: datetime
    tables: tuple[Table, ...]
    server: str = ""
    """The member that was asked."""

    def table(self, name: str) -> Table | None:
        return next((each for each in self.tables if each.name == name), None)


def current(table: Table, now: datetime) -> Period:
    """The period that rows of this moment belong to."""
    return period_of(now, table.spec.interval)


def online_until(spec: PartitionedTable, now: datetime) -> datetime:
    """Partitions that end here or before are due for the archive."""
    return midnight(months_after(now.date().replace(day=1), -spec.online_months))


def kept_until(spec: PartitionedTable, proven_at: datetime) -> datetime:
    """When a detached partition may be dropped whose archive was proven then."""
    return proven_at + timedelta(days=spec.keep_days)


def archived_until(spec: PartitionedTable, upper: datetime) -> datetime:
    """When the archive of a partition that ends at `upper` may be deleted."""
    return midnight(months_after(upper.date(), spec.archive_months))
