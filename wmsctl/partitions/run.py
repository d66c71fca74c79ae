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
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Refused, WmsctlError
from wmsctl.inventory import Inventory
from wmsctl.journal import Journal, Record
from wmsctl.output import Printer
from wmsctl.partitions import database, ddl, observe, plan
from wmsctl.partitions.plan import Refusal, Step
from wmsctl.partitions.snapshot import Snapshot
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
class Result:
    """The result of one operation, as documented for `-o json`."""

    operation: str
    """Id in the journal, empty when nothing was started."""
    result: str
    """planned, already, or done."""
    server: str
    steps: tuple[Done, ...] = ()
    notes: tuple[str, ...] = ()
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
        with self._alone(deadline, "partitions maintain") as (name, connection):
            snapshot = observe.snapshot(connection, self.partitions.tables, server=name)
            made = plan.maintenance(snapshot)
            self._tell(made.notes)
            if not made.steps:
                _raise_troubles(made.troubles)
                return Result("", "already", name, notes=made.notes)
            self._ask(tuple(step.words for step in made.steps))
            with self._begun("maintain", made) as record:
                return self._maintain(connection, snapshot, made, record, deadline)

    def _maintain(
        self, connection: Any, snapshot: Snapshot, made: plan.Maintenance, record: Record, deadline: Deadline
    ) -> Result:
        """Apply the steps. One that fails keeps none of the others: each stands for itself."""
        steps = Steps(record, self.printer.progress)
        done: list[Done] = []
        failures: list[WmsctlError] = []
        for step in made.steps:
            try:
                with (
                    steps.step(step.action, step.words, table=step.table, partition=step.partition) as facts,
                    self._translated(),
                ):
                    self._apply(connection, snapshot, step, facts, deadline)
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

    def _apply(
        self, connection: Any, snapshot: Snapshot, step: Step, facts: dict[str, Any], deadline: Deadline
    ) -> None:
        if step.action == "finalize":
            ddl.finalize(connection, step.table, step.partition, deadline)
        elif step.action == "create":
            table = snapshot.table(step.table)
            assert table is not None and step.period is not None
            facts["moved"] = ddl.create(connection, table, step.period, deadline)
        elif step.action == "index":
            assert step.gap is not None
            ddl.mend_index(connection, step.gap, deadline)
        elif step.action == "analyze":
            ddl.analyze(connection, step.table)
        else:
            raise Failed(f"{step.action} is not known")

    # What all operations share

    @contextmanager
    def _alone(self, deadline: Deadline, what: str) -> Iterator[tuple[str, Any]]:
        name, server = database.primary(self.clients, self.partitions, deadline)
        with database.alone(server, self.partitions.owner, deadline, what) as connection:
            yield name, connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """psycopg's errors of one statement as ours, so that the next step may be tried."""
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise Failed(" ".join(str(error).split())[:300], hint="see PostgreSQL's log") from error

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


def refused(refusal: Refusal) -> Refused:
    return Refused(refusal.reason, hint=refusal.hint)


def _done(step: Step, result: str, detail: str = "") -> Done:
    return Done(step.action, step.table, step.partition, result, detail or step.words)


def _raise_troubles(troubles: tuple[str, ...]) -> None:
    if troubles:
        raise Failed("; ".join(troubles), hint="the declaration is wrong, or the service's schema is missing")
