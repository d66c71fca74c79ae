"""Runs the operations: observe → plan → confirm → apply → verify, one run at a time in the whole cluster.

The lock is PostgreSQL's (`database.alone`), not the journal's: a scheduler and an operator may sit on two machines, and
an archive that takes an hour must not keep a failover from being run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from wmsctl.audit import Audit
from wmsctl.clients.connect import Clients
from wmsctl.clients.postgres import Server
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Refused, Unreachable, Usage, WmsctlError
from wmsctl.inventory import Inventory
from wmsctl.journal import Journal, Record
from wmsctl.output import Printer
from wmsctl.partitions import archive as archiving
from wmsctl.partitions import check, database, ddl, observe, plan, records, restore
from wmsctl.partitions.archive import Work
from wmsctl.partitions.check import Finding
from wmsctl.partitions.plan import Archiving, Event, Refusal, Restoring, Step
from wmsctl.partitions.snapshot import Archive, Partition, Snapshot
from wmsctl.steps import Steps

KIND = "partitions."


@dataclass(frozen=True)
class Done:
    """One thing that was done, or would be."""

    action: str
    table: str
    partition: str
    result: str
    """planned, done or failed."""
    detail: str = ""


@dataclass(frozen=True)
class Archived:
    """One archive that was proven in this run."""

    archive: str
    table: str
    partition: str
    manifest: str
    """Key in the store."""
    rows: int
    raw_bytes: int
    bytes: int
    parts: int
    carried: int | None


@dataclass(frozen=True)
class Verified:
    """What `verify` found."""

    whole: bool
    archives: tuple[Finding, ...]
    strangers: tuple[str, ...]
    """Archives in the store that no record tells of."""


@dataclass(frozen=True)
class Result:
    """The result of one operation, as documented for `-o json`."""

    operation: str
    """Id in the journal, empty when nothing was started."""
    result: str
    """planned, already, or done."""
    server: str
    steps: tuple[Done, ...] = ()
    notes: tuple[str, ...] = ()
    archives: tuple[Archived, ...] = ()
    """Of `archive`: what is in the store now."""
    measured: dict[str, float] = field(default_factory=dict)
    """Seconds by name."""


class Runner:
    """The operations on one platform. `yes` answers every question beforehand."""

    def __init__(
        self,
        inventory: Inventory,
        clients: Clients,
        journal: Journal,
        audit: Audit,
        printer: Printer,
        command: str,
        *,
        yes: bool = False,
    ) -> None:
        self.inventory = inventory
        self.clients = clients
        self.journal = journal
        self.audit = audit
        self.printer = printer
        self.command = command
        self.yes = yes
        self.partitions = database.declared(inventory)

    def look(self, deadline: Deadline, *, sizes: bool = False) -> Snapshot:
        """The declared tables now."""
        name, server = database.primary(self.clients, self.partitions, deadline)
        with database.session(server, self.partitions.owner, deadline, "partitions") as connection:
            return observe.snapshot(connection, self.partitions.tables, server=name, sizes=sizes)

    def maintain(self, deadline: Deadline, *, dry_run: bool) -> Result:
        """Do what every declared table needs. See `wmsctl partitions maintain`."""
        if dry_run:
            found = self.look(deadline)
            made = plan.maintenance(found)
            self._tell(made.notes)
            _raise_troubles(made.troubles)
            return Result(
                "", "planned", found.server, tuple(_done(step, "planned") for step in made.steps), made.notes
            )
        with self._alone(deadline, "partitions maintain") as (name, server, connection):
            snapshot = observe.snapshot(connection, self.partitions.tables, server=name)
            made = plan.maintenance(snapshot)
            self._tell(made.notes)
            if not made.steps:
                _raise_troubles(made.troubles)
                return Result("", "already", name, notes=made.notes)
            self._ask(tuple(step.words for step in made.steps))
            with self._begun("maintain", made) as record:
                steps = Steps(record, self.printer.progress)
                work = self._work(connection, name, server, deadline, steps)
                return self._maintain(work, snapshot, made, record)

    def _maintain(self, work: Work, snapshot: Snapshot, made: plan.Maintenance, record: Record) -> Result:
        """Apply the steps. One that fails keeps none of the others: each stands for itself."""
        connection = work.connection
        done: list[Done] = []
        failures: list[WmsctlError] = []
        for step in made.steps:
            try:
                with (
                    work.step(step.action, step.words, table=step.table, partition=step.partition) as facts,
                    translated(),
                ):
                    _apply(work, snapshot, step, facts)
                done.append(_done(step, "done"))
            except WmsctlError as error:
                if connection.broken:
                    raise
                self.printer.warn(f"{step.words}: {error.message}")
                failures.append(error)
                done.append(_done(step, "failed", error.message))
        after = observe.snapshot(connection, self.partitions.tables)
        missing = [
            period.name(table.name)
            for table in after.tables
            for period in plan.missing_next(table, after.now)
        ]
        wrong = [f"{error.message}" for error in failures] + [f"{name} is still missing" for name in missing]
        wrong += made.troubles
        if wrong:
            record.finish("failed", failures=wrong)
            raise Failed(
                "; ".join(wrong), hint=failures[0].hint if failures else "see: wmsctl partitions status"
            )
        record.finish("done")
        return Result(record.id, "done", snapshot.server, tuple(done), made.notes)

    def archive(
        self, names: tuple[str, ...], deadline: Deadline, *, early: bool, part_bytes: int, dry_run: bool
    ) -> Result:
        """Archive partitions, those that are due unless some are named. See `wmsctl partitions archive`."""
        if dry_run:
            found = self.look(deadline)
            made, notes = self._archivings(found, names, early)
            steps = tuple(
                Done(step, each.table, each.partition, "planned", words)
                for each in made
                for step, words in zip(each.steps, each.words, strict=True)
            )
            return Result("", "planned" if made else "already", found.server, steps, notes)
        store = self.clients.object_store()
        archiving.ready(store, self.partitions.prefix)
        with self._alone(deadline, "partitions archive") as (name, server, connection):
            snapshot = observe.snapshot(connection, self.partitions.tables, server=name)
            made, notes = self._archivings(snapshot, names, early)
            if not made:
                return Result("", "already", name, notes=notes)
            self._ask(tuple(words for each in made for words in each.words))
            with self._begun(
                "archive", made, partitions=[each.partition for each in made], early=early
            ) as record:
                work = self._work(connection, name, server, deadline, Steps(record, self.printer.progress))
                work.part_bytes = part_bytes
                return self._archive(work, snapshot, made, notes, record)

    def _archivings(
        self, snapshot: Snapshot, names: tuple[str, ...], early: bool
    ) -> tuple[tuple[Archiving, ...], tuple[str, ...]]:
        """(what is to be archived, what is not and why). Raises Refused for a named one that may not be."""
        wanted = [
            (table.name, name) for table in snapshot.tables for name in plan.archivable(table, snapshot.now)
        ]
        if names:
            wanted = [(plan.table_of(snapshot, name), name) for name in names]
        made, notes = [], []
        for table, name in wanted:
            found = plan.archiving(snapshot, table, name, early=early) if table else Refusal(
                f"no declared table has a partition {name}", "see: wmsctl partitions status"
            )  # fmt: skip
            if isinstance(found, Archiving):
                made.append(found)
            elif isinstance(found, Archive):
                notes.append(f"{name} is archived as {found.id} ({found.state})")
            elif names:
                raise refused(found)
            else:
                notes.append(f"{name} is not archived: {found.reason}")
        self._tell(tuple(notes))
        return tuple(made), tuple(notes)

    def _archive(
        self,
        work: Work,
        snapshot: Snapshot,
        made: tuple[Archiving, ...],
        notes: tuple[str, ...],
        record: Record,
    ) -> Result:
        done: list[Done] = []
        archives: list[Archived] = []
        failures: list[WmsctlError] = []
        for each in made:
            table = snapshot.table(each.table)
            assert table is not None
            try:
                with translated():
                    manifest = archiving.apply(work, each, table)
            except WmsctlError as error:
                record.note(partition=each.partition, failed=error.message)
                # One damaged month keeps no other from its archive; a server that is away keeps all.
                if work.connection.broken or isinstance(error, Unreachable):
                    record.finish("failed", reason=error.message)
                    raise
                self.printer.warn(f"{each.partition}: {error.message}")
                failures.append(error)
                done.append(Done("archive", each.table, each.partition, "failed", error.message))
                continue
            key = f"{work.folder(each.table, each.partition, manifest.archive)}manifest.json"
            archives.append(
                Archived(
                    manifest.archive,
                    each.table,
                    each.partition,
                    key,
                    manifest.rows,
                    sum(part.raw_bytes for part in manifest.parts),
                    manifest.bytes,
                    len(manifest.parts),
                    manifest.carried,
                )
            )
            words = f"{each.partition}: {manifest.rows} rows archived and proven as {manifest.archive}"
            done.append(Done("archive", each.table, each.partition, "done", words))
        if failures:
            record.finish("failed", failures=[error.message for error in failures])
            raise _together(failures)
        record.finish("done", archives=[each.archive for each in archives])
        return Result(record.id, "done", work.name, tuple(done), notes, tuple(archives), work.measured)

    def unarchive(self, name: str, deadline: Deadline, *, dry_run: bool) -> Result:
        """Bring a partition back. See `wmsctl partitions unarchive`."""
        if dry_run:
            found = self.look(deadline)
            made = self._restoring(found, name)
            if isinstance(made, Partition):
                return Result("", "already", found.server)
            steps = tuple(Done(made.source, made.table, name, "planned", words) for words in made.words)
            return Result("", "planned", found.server, steps)
        with self._alone(deadline, "partitions unarchive") as (member, server, connection):
            snapshot = observe.snapshot(connection, self.partitions.tables, server=member)
            made = self._restoring(snapshot, name)
            if isinstance(made, Partition):
                self._set_right(connection, snapshot, name)
                return Result("", "already", member, notes=(f"{name} is attached",))
            self._ask(made.words)
            with self._begun("unarchive", made, partition=name) as record:
                work = self._work(connection, member, server, deadline, Steps(record, self.printer.progress))
                table = snapshot.table(made.table)
                assert table is not None
                try:
                    with translated():
                        count = restore.apply(work, made, table.key)
                        ddl.analyze(connection, name)
                except WmsctlError as error:
                    record.finish("failed", reason=error.message)
                    raise
                record.finish("done", rows=count)
        words = f"{name}: {count} rows are back from the {made.source}, attached, and take no changes"
        return Result(
            record.id,
            "done",
            member,
            (Done("unarchive", made.table, name, "done", words),),
            measured=work.measured,
        )

    def _restoring(self, snapshot: Snapshot, name: str) -> Restoring | Partition:
        table = plan.table_of(snapshot, name)
        found = plan.restoring(snapshot, table, name) if table else Refusal(
            f"no declared table has a partition {name}", "see: wmsctl partitions status"
        )  # fmt: skip
        if isinstance(found, Refusal):
            raise refused(found)
        return found

    def _set_right(self, connection: Any, snapshot: Snapshot, name: str) -> None:
        """A partition that somebody attached by hand: its record says so from now on."""
        for table in snapshot.tables:
            for each in table.archives:
                if each.partition == name and each.state in ("proven", "dropped"):
                    with (
                        self.audit.mutation("partitions unarchive", partition=name, archive=each.id),
                        translated(),
                    ):
                        records.restored(connection, each.id)

    def verify(self, name: str, deadline: Deadline, *, load: bool) -> Verified:
        """Look at archives in the store; changes nothing. See `wmsctl partitions verify`."""
        member, server = database.primary(self.clients, self.partitions, deadline)
        with database.session(server, self.partitions.owner, deadline, "partitions verify") as connection:
            snapshot = observe.snapshot(connection, self.partitions.tables, server=member)
            wanted = check.chosen(snapshot, name)
            if name and not wanted:
                raise Usage(f"there is no archive of {name}", hint="see: wmsctl partitions status")
            work = self._work(connection, member, server, deadline, None)
            found = tuple(check.verify(work, each, load=load) for each in wanted)
            strange = () if name else check.strangers(work, snapshot)
        return Verified(all(each.whole for each in found), found, strange)

    def forecast(self, months: int, deadline: Deadline) -> tuple[Event, ...]:
        """What will be done by itself in the months to come. See `wmsctl partitions plan`."""
        return plan.forecast(self.look(deadline), months)

    # What all operations share

    @contextmanager
    def _alone(self, deadline: Deadline, what: str) -> Iterator[tuple[str, Server, Any]]:
        name, server = database.primary(self.clients, self.partitions, deadline)
        with database.alone(server, self.partitions.owner, deadline, what) as connection:
            yield name, server, connection

    def _work(
        self, connection: Any, name: str, server: Server, deadline: Deadline, steps: Steps | None
    ) -> Work:
        return Work(
            connection, name, server, self.inventory, self.partitions, self.clients.object_store, steps,
            self.printer.progress, deadline,
        )  # fmt: skip

    @contextmanager
    def _begun(self, kind: str, made: Any, **arguments: Any) -> Iterator[Record]:
        """An operation in the journal and the audit log; the lock is held. Earlier ones that were killed are closed:
        what they left is in the plan.
        """
        with self.audit.mutation(f"partitions {kind}", **arguments) as facts:
            interrupted = self.journal.unfinished(kind=KIND)
            record = self.journal.begin(f"{KIND}{kind}", made, arguments)
            for op in interrupted:
                self.journal.reopen(op).finish("failed", reason=f"interrupted; continued by {record.id}")
            facts["operation"] = record.id
            yield record

    def _ask(self, steps: tuple[str, ...]) -> None:
        for number, step in enumerate(steps, 1):
            self.printer.progress(f"  {number}. {step}")
        self.printer.confirm("Go on?", yes=self.yes)

    def _tell(self, notes: tuple[str, ...]) -> None:
        for note in notes:
            self.printer.progress(f"note: {note}")


def _apply(work: Work, snapshot: Snapshot, step: Step, facts: dict[str, Any]) -> None:
    """One step of `maintain`."""
    if step.action == "finalize":
        ddl.finalize(work.connection, step.table, step.partition, work.deadline)
    elif step.action == "create":
        table = snapshot.table(step.table)
        assert table is not None and step.period is not None
        facts["moved"] = ddl.create(work.connection, table, step.period, work.deadline)
    elif step.action == "index":
        assert step.gap is not None
        ddl.mend_index(work.connection, step.gap, work.deadline)
    elif step.action == "analyze":
        ddl.analyze(work.connection, step.table)
    else:
        known = step.archive
        assert known is not None
        if step.action == "drop":
            archiving.drop(work, known)
        else:
            facts["objects"] = archiving.expire(work, known)


@contextmanager
def translated() -> Iterator[None]:
    """psycopg's errors of a statement as ours, so that the next step may be tried."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        text = " ".join(str(error).split())[:300]
        if isinstance(error, psycopg.OperationalError) and not error.sqlstate:
            raise Unreachable(
                f"the connection to PostgreSQL broke: {text}", hint="see: wmsctl status"
            ) from error
        raise Failed(text, hint="see PostgreSQL's log") from error


def _together(failures: list[WmsctlError]) -> Failed:
    error = Failed("; ".join(each.message for each in failures), hint=failures[0].hint)
    for each in failures:
        for note in getattr(each, "__notes__", ()):
            error.add_note(note)
    return error


def refused(refusal: Refusal) -> Refused:
    return Refused(refusal.reason, hint=refusal.hint)


def _done(step: Step, result: str, detail: str = "") -> Done:
    return Done(step.action, step.table, step.partition, result, detail or step.words)


def _raise_troubles(troubles: tuple[str, ...]) -> None:
    if troubles:
        raise Failed("; ".join(troubles), hint="the declaration is wrong, or the service's schema is missing")
