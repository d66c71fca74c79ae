"""The status of partitioned tables as a document, and how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from wmsctl.output import Cell, Printer, Styled, size
from wmsctl.partitions import plan
from wmsctl.partitions.snapshot import Archive, Partition, Snapshot, Table, current, kept_until

if TYPE_CHECKING:
    from wmsctl.partitions.run import Verified

STYLES = {"missing": "bad", "detaching": "bad", "due": "warn", "current": "good", "archiving": "warn"}


@dataclass(frozen=True)
class Row:
    """One partition: attached, missing, or archived."""

    partition: str
    lower: str | None
    upper: str | None
    state: str
    """current, future, past, due (for the archive), missing, irregular (its bounds are no period), detaching,
    archiving, kept (archived, its table still there), archived, or restored."""
    attached: bool
    frozen: bool
    rows: int | None
    """Of an archived one as counted, else as the statistics estimate."""
    bytes: int | None
    """In the database."""
    archive: str = ""
    archive_bytes: int | None = None
    kept_until: str | None = None


@dataclass(frozen=True)
class TableStatus:
    """One declared table."""

    table: str
    trouble: str
    interval: str
    key: str
    premake: int
    online_months: int
    archived: bool
    """Old partitions are to be archived."""
    missing: tuple[str, ...]
    """The current or the next partition, when it is not there."""
    covered_until: str | None
    """From now on without a gap; null when nothing takes the rows of now, or when there is no end."""
    default_partition: str
    default_rows: int
    due: tuple[str, ...]
    """To be archived next, the oldest first."""
    foreign_keys: tuple[str, ...]
    index_gaps: tuple[str, ...]
    analyzed_at: str | None
    partitions: tuple[Row, ...]


@dataclass(frozen=True)
class Status:
    """All declared tables."""

    at: str
    server: str
    tables: tuple[TableStatus, ...]

    @property
    def missing(self) -> list[str]:
        return [name for table in self.tables for name in table.missing]


def moment(value: datetime | None) -> str | None:
    """A moment as documents show it: UTC ISO 8601 to the second."""
    return None if value is None else value.strftime("%Y-%m-%dT%H:%M:%SZ")


def status(snapshot: Snapshot) -> Status:
    """The document of `wmsctl partitions status`."""
    return Status(
        moment(snapshot.now) or "",
        snapshot.server,
        tuple(_table(table, snapshot.now) for table in snapshot.tables),
    )


def _table(table: Table, now: datetime) -> TableStatus:
    spec = table.spec
    due = plan.archivable(table, now)
    rows = [_attached(table, part, due, now) for part in table.partitions]
    names = {row.partition for row in rows}
    rows += [_archived(table, each) for each in table.archives if each.partition not in names]
    missing = plan.missing_next(table, now)
    rows += [
        Row(
            each.name(table.name), moment(each.lower), moment(each.upper), "missing", False, False, None, None
        )
        for each in missing
    ]
    return TableStatus(
        table=table.name,
        trouble=table.trouble,
        interval=spec.interval,
        key=table.key,
        premake=spec.premake,
        online_months=spec.online_months,
        archived=spec.archive,
        missing=tuple(each.name(table.name) for each in missing),
        covered_until=_covered(table, now),
        default_partition=table.default,
        default_rows=sum(count for _, count in table.strays),
        due=due,
        foreign_keys=table.foreign_keys,
        index_gaps=tuple(f"{gap.partition}: {gap.index} is {gap.state}" for gap in table.gaps),
        analyzed_at=moment(table.analyzed_at),
        partitions=tuple(sorted(rows, key=lambda row: (row.lower or "", row.partition))),
    )


def _attached(table: Table, part: Partition, due: tuple[str, ...], now: datetime) -> Row:
    known = next((each for each in table.archives if each.partition == part.name), None)
    if part.pending:
        state = "detaching"
    elif known and known.state == "open":
        state = "archiving"
    elif part.period is None:
        state = "irregular"
    elif part.period == current(table, now):
        state = "current"
    elif part.period.lower > now:
        state = "future"
    elif known and known.state == "restored":
        state = "restored"
    else:
        state = "due" if part.name in due else "past"
    return Row(
        part.name, moment(part.lower), moment(part.upper), state, not part.pending, part.frozen, part.rows, part.bytes,
        known.id if known and state in ("detaching", "archiving", "restored") else "",
    )  # fmt: skip


def _archived(table: Table, known: Archive) -> Row:
    state = {"open": "archiving", "proven": "kept", "dropped": "archived"}.get(known.state, known.state)
    kept = kept_until(table.spec, known.proven_at) if known.state == "proven" and known.proven_at else None
    return Row(
        known.partition, moment(known.lower), moment(known.upper), state, False, known.present, known.rows, None,
        known.id, known.bytes, moment(kept),
    )  # fmt: skip


def _covered(table: Table, now: datetime) -> str | None:
    if table.trouble:
        return None
    until, period = None, current(table, now)
    while part := table.holding(period):
        if part.upper is None:
            return None
        until, period = period.upper, period.next()
    return moment(until)


def draw(printer: Printer, found: Status) -> None:
    """The tables of `wmsctl partitions status`."""
    for each in found.tables:
        printer.text(f"{each.table}: by {each.interval}, on {found.server}", "bold")
        if each.trouble:
            printer.text(f"  {each.trouble}", "bad")
            continue
        rows: list[list[Cell]] = [
            [
                row.partition, (row.lower or "-")[:10], (row.upper or "-")[:10], _state(row), row.rows,
                size(row.bytes), size(row.archive_bytes), (row.kept_until or "-")[:10],
            ]
            for row in each.partitions
        ]  # fmt: skip
        printer.table(
            ["PARTITION", "FROM", "TO", "STATE", "ROWS", "SIZE", "ARCHIVE", "KEPT UNTIL"], rows, indent=2
        )
        if each.missing:
            printer.text(f"  missing: {', '.join(each.missing)}; run: wmsctl partitions maintain", "bad")
        else:
            printer.text(f"  rows are taken until {(each.covered_until or 'for ever')[:10]}")
        if each.default_partition:
            style = "warn" if each.default_rows else ""
            printer.text(
                f"  {each.default_rows} rows in the default partition {each.default_partition}", style
            )
        for gap in each.index_gaps:
            printer.text(f"  {gap}", "warn")
        if each.foreign_keys:
            printer.text(f"  foreign keys from outside: {', '.join(each.foreign_keys)}", "warn")
        if each.due:
            printer.text(f"  next to archive: {', '.join(each.due)}")


@dataclass(frozen=True)
class Planned:
    """One line of `wmsctl partitions plan`."""

    at: str
    action: str
    """create, archive, drop or expire."""
    table: str
    partition: str


def planned(events: tuple[plan.Event, ...]) -> list[Planned]:
    """The document of `wmsctl partitions plan`."""
    return [Planned(moment(each.at) or "", each.action, each.table, each.partition) for each in events]


def draw_planned(printer: Printer, found: list[Planned]) -> None:
    words = {
        "create": "make it",
        "archive": "detach it and archive it",
        "drop": "drop its kept table",
        "expire": "delete its archive from the store",
    }
    if not found:
        printer.text("nothing")
        return
    printer.table(
        ["ON", "PARTITION", "WHAT"], [[each.at[:10], each.partition, words[each.action]] for each in found]
    )


def draw_verified(printer: Printer, found: Verified) -> None:
    """The tables of `wmsctl partitions verify`."""
    rows: list[list[Cell]] = [
        [
            each.partition, each.state, Styled("whole", "good") if each.whole else Styled("damaged", "bad"), each.rows,
            each.files, size(each.bytes), each.loaded, each.archive,
        ]
        for each in found.archives
    ]  # fmt: skip
    if rows:
        printer.table(["PARTITION", "STATE", "ARCHIVE", "ROWS", "FILES", "SIZE", "LOADED", "ID"], rows)
    else:
        printer.text("nothing is archived")
    for each in found.archives:
        for trouble in each.troubles:
            printer.text(f"  {trouble}", "bad")
    for name in found.strangers:
        printer.text(f"  {name} is in the store, and no record tells of it", "warn")


def _state(row: Row) -> Cell:
    word = f"{row.state}, frozen" if row.frozen and row.state in ("past", "due", "restored") else row.state
    return Styled(word, STYLES[row.state]) if row.state in STYLES else word
