"""Makes backups: observe → decide → back up → prove, one at a time, with journal and audit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from wmsctl.audit import Audit
from wmsctl.backup import schedule as scheduling
from wmsctl.backup import verification
from wmsctl.backup.catalogue import Backup, Catalogue, Type
from wmsctl.backup.engine import Engine
from wmsctl.backup.retention import Held, soundness
from wmsctl.backup.schedule import Attempt, Due, Schedule
from wmsctl.backup.source import Source
from wmsctl.backup.wal import Segment, segment
from wmsctl.clients.pgbackrest import BackupLog, Copied
from wmsctl.deadline import Deadline, wait_until
from wmsctl.errors import Failed, WmsctlError
from wmsctl.journal import Journal, Operation, Record
from wmsctl.output import Printer, size
from wmsctl.steps import Steps

KIND = "backup.run"
TELL_S = 5.0
"""Between two lines of progress."""
POLL_S = 0.5


@dataclass(frozen=True)
class Result:
    """One backup, as documented for `-o json` (wmsctl.backup.run/v1)."""

    result: str
    """planned, already or done."""
    summary: str
    repo: int = 0
    type: str = ""
    reason: str = ""
    """Why it was due, or that it was asked for."""
    operation: str = ""
    """Id in the journal, empty when nothing was started."""
    label: str = ""
    node: str = ""
    """Whose data were copied."""
    primary: str = ""
    steps: tuple[str, ...] = ()
    """What a dry run would do."""
    seconds: float | None = None
    size: int | None = None
    """Of the database, in bytes."""
    copied: int | None = None
    """By this backup, before compression."""
    stored: int | None = None
    """By this backup, in the repository."""
    wal: tuple[str, ...] = ()
    """The segments that make it consistent, each found in the archive."""
    warnings: tuple[str, ...] = ()


class Tool(Protocol):
    """pgBackRest on one node."""

    def backup(
        self,
        repo: int,
        kind: str,
        *,
        primary: str,
        annotations: Mapping[str, str],
        told: Callable[[Copied], None],
        deadline: Deadline,
    ) -> BackupLog: ...
    def copy_wal(self, segments: Sequence[str], deadline: Deadline) -> None: ...


class World(Protocol):
    """The platform; `world.World` is the real one."""

    schedule: Schedule
    long_term: frozenset[int]
    """Numbers of the repositories that PostgreSQL sends no WAL to."""
    wal_wait_s: float

    def engine(self, deadline: Deadline) -> Engine: ...
    def source(self, node: str) -> Source: ...
    def tool(self, node: str) -> Tool: ...
    def alone(self, primary: str) -> Any: ...
    def segment_bytes(self, primary: str) -> int: ...


@dataclass(frozen=True)
class Wanted:
    """A backup to make."""

    repo: int
    type: Type
    reason: str

    @property
    def tier(self) -> str:
        """What it is made for, as an annotation; which tiers it stands for in the end is decided from all there are."""
        return {"full": "weekly", "diff": "daily", "incr": "intraday"}[self.type]


@dataclass
class Progress:
    """Tells how far a backup is, now and then."""

    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    started: float | None = field(default=None, init=False)
    """When the first file was copied: what comes before says nothing of the rate."""
    told: float = field(default=0.0, init=False)

    def __call__(self, copied: Copied) -> None:
        now = self.clock()
        if self.started is None:
            self.started = self.told = now
        if now - self.told < TELL_S:
            return
        self.told = now
        took = now - self.started
        left = took * (100 - copied.percent) / copied.percent if copied.percent > 0 else 0.0
        rate = size(round(copied.size / took))
        self.say(f"{copied.percent:.0f} % copied, {size(copied.size)} at {rate}/s, about {left:.0f} s left")


class Runner:
    """Makes backups on one platform. `yes` answers every question beforehand."""

    def __init__(
        self, world: World, journal: Journal, audit: Audit, printer: Printer, *, yes: bool = False
    ) -> None:
        self.world, self.journal, self.audit, self.printer, self.yes = world, journal, audit, printer, yes

    def run(
        self, kind: Type | None, repo: int, node: str, *, deadline_s: float, dry_run: bool
    ) -> list[Result]:
        """Make the backup of `kind` in `repo`, or with None everything that the schedule owes now.

        See `wmsctl backup run`.
        """
        deadline = Deadline.after(deadline_s)
        engine = self.world.engine(deadline)
        wanted = self._wanted(kind, repo, engine.catalogue())
        source = self.world.source(node)
        if dry_run or not wanted:
            return [self._planned(each, source) for each in wanted] or [self._nothing()]
        for why in source.passed_over:
            self.printer.warn(f"not taken: {why}")
        if not source.standby and not node:
            self.printer.warn(
                f"no replica can be backed up: {source.node}, the primary, has to carry the load"
            )
            self.printer.confirm("Go on?", yes=self.yes)
        with self.world.alone(source.primary):
            self._close_interrupted()
            # Decided again under the lock: another run may have made it meanwhile.
            wanted = self._wanted(kind, repo, engine.catalogue())
            return [self._make(each, source, engine, deadline) for each in wanted] or [self._nothing()]

    def failed(self) -> list[Attempt]:
        """The attempts that ended without a backup, as the journal tells."""
        return [
            Attempt(int(op.arguments["repo"]), op.arguments["type"], datetime.fromisoformat(op.started))
            for op in self.journal.history(kind=KIND, limit=50)
            if op.result == "failed" and "repo" in op.arguments
        ]

    def _wanted(self, kind: Type | None, repo: int, found: Catalogue) -> list[Wanted]:
        found.require(repo)
        now = datetime.now(UTC)
        if kind is None:
            held = [known(backup) for backup in found.backups]
            due = scheduling.due(self.world.schedule, found.backups, soundness(held), now, self.failed())
            return [Wanted(each.repo, each.type, each.reason) for each in self._readable(due, found)]
        fulls = [backup for backup in found.of(repo) if backup.type == "full"]
        if kind != "full" and not fulls:
            return [
                Wanted(
                    repo,
                    "full",
                    f"asked for; there is no full backup yet that a {kind} one could be based on",
                )
            ]
        return [Wanted(repo, kind, "asked for")]

    def _readable(self, due: Sequence[Due], found: Catalogue) -> list[Due]:
        """What is due in repositories that can be used; the others are told, and do not hold these up."""
        usable = []
        for each in due:
            try:
                found.require(each.repo)
                usable.append(each)
            except WmsctlError as error:
                self.printer.warn(error.message)
        if due and not usable:
            found.require(due[0].repo)
        return usable

    def _planned(self, wanted: Wanted, source: Source) -> Result:
        where = f"of {source.node}, {'a replica' if source.standby else 'the primary'}"
        steps = [f"back up {where}: {wanted.type} into repo{wanted.repo}"]
        if wanted.repo in self.world.long_term:
            steps.append("copy the WAL that it needs into the same repository")
        steps.append(
            "prove it: it is in the catalogue, no page was damaged, and all its WAL is in the archive"
        )
        return Result(
            "planned",
            f"{wanted.type} backup {where} into repo{wanted.repo}",
            wanted.repo,
            wanted.type,
            wanted.reason,
            node=source.node,
            primary=source.primary,
            steps=tuple(steps),
        )

    def _nothing(self) -> Result:
        coming = self.world.schedule.next(datetime.now(UTC))
        return Result("already", f"nothing is due before {coming:%Y-%m-%d %H:%M} UTC")

    def _close_interrupted(self) -> None:
        """What the journal holds open while nobody else has the lock was killed: pgBackRest takes care of the rest."""
        for operation in self.journal.unfinished(kind=KIND):
            self.journal.reopen(operation).finish("failed", reason="it was interrupted")
            self.printer.warn(
                f"{_what(operation)} was interrupted; what it left is used or removed by this one"
            )

    def _make(self, wanted: Wanted, source: Source, engine: Engine, deadline: Deadline) -> Result:
        arguments = {"repo": wanted.repo, "type": wanted.type, "node": source.node, "reason": wanted.reason}
        with self.audit.mutation("backup run", **arguments) as facts:
            record = self.journal.begin(KIND, self._planned(wanted, source), arguments)
            try:
                result = self._steps(wanted, source, engine, record, deadline)
            except WmsctlError as error:
                record.finish("failed", reason=error.message)
                raise
            facts["label"] = result.label
            record.finish("done", label=result.label)
            return result

    def _steps(
        self, wanted: Wanted, source: Source, engine: Engine, record: Record, deadline: Deadline
    ) -> Result:
        started = time.monotonic()
        steps = Steps(record, self.printer.progress)
        tool = self.world.tool(source.node)
        long_term = wanted.repo in self.world.long_term
        text = f"{wanted.type} backup of {source.node} into repo{wanted.repo}: {wanted.reason}"
        with steps.step("backup", text) as facts:
            log = tool.backup(
                wanted.repo,
                wanted.type,
                primary=source.primary,
                annotations={"tier": "monthly" if long_term else wanted.tier, "source": source.node},
                told=Progress(self.printer.progress),
                deadline=deadline,
            )
            facts["label"] = log.label
        made = engine.catalogue().get(wanted.repo, log.label)
        segments = _segments(made, self.world.segment_bytes(source.primary))
        waiting = deadline.within(self.world.wal_wait_s)
        if long_term:
            with steps.step(
                "wal", f"copying {len(segments)} WAL segments that it needs into repo{wanted.repo}"
            ):
                self._archived(engine, self.world.schedule.repo, made, segments, waiting)
                tool.copy_wal(segments, deadline)
        with steps.step("prove", "proving it: catalogue, checksums of pages, WAL"):
            self._archived(engine, wanted.repo, made, segments, waiting)
            _sound(made, log)
        for warning in log.warnings:
            self.printer.warn(warning)
        took = time.monotonic() - started
        return Result(
            "done",
            f"{made.name}: {size(made.size)} in {took:.1f} s, {size(made.stored_delta)} stored;"
            f" restorable from {made.stopped:%Y-%m-%d %H:%M:%S} UTC on",
            made.repo,
            made.type,
            wanted.reason,
            record.id,
            made.label,
            source.node,
            source.primary,
            seconds=round(took, 3),
            size=made.size,
            copied=made.delta,
            stored=made.stored_delta,
            wal=segments,
            warnings=tuple(log.warnings),
        )

    def _archived(
        self, engine: Engine, repo: int, made: Backup, segments: Sequence[str], waiting: Deadline
    ) -> None:
        """Wait until every segment is in the archive of `repo`. Raises Failed naming those that are not."""
        missing: list[str] = list(segments)

        def none_missing() -> bool:
            there = engine.archive(repo, made.archive)
            missing[:] = [
                name for name in segments if segment(name, there.segment_bytes) not in there.segments
            ]
            return not missing

        try:
            wait_until(none_missing, waiting, POLL_S, "its WAL", error=_NotThere)
        except _NotThere:
            raise Failed(
                f"{made.name} cannot be restored yet: its WAL is not in repo{repo}: {', '.join(missing)}",
                hint="see why archiving is behind: wmsctl status, and PostgreSQL's log on the primary",
            ) from None


class _NotThere(Failed):
    """The wait for WAL is over."""


def known(backup: Backup) -> Held:
    """A backup with what a verification remembered of it."""
    proof = verification.recall(backup.annotations)
    return Held(backup, bad=proof.detail if proof is not None and not proof.whole else "")


def _segments(made: Backup, segment_bytes: int) -> tuple[str, ...]:
    """Names of the segments that make a backup consistent."""
    if not made.wal_start:
        return ()
    first, last = segment(made.wal_start, segment_bytes), segment(made.wal_stop, segment_bytes)
    return tuple(
        Segment(first.timeline, number).name(segment_bytes) for number in range(first.number, last.number + 1)
    )


def _sound(made: Backup, log: BackupLog) -> None:
    """Raises Failed when pages with a wrong checksum were copied: pgBackRest only warns, and calls the backup good."""
    if not made.damaged and not log.damaged:
        return
    where = "; ".join(log.damaged[:3]) or "pgBackRest did not say where"
    raise Failed(
        f"{made.name} holds damaged pages of the database, so nothing counts on it: {where}",
        hint="the replica or the primary has them, too: find them with pg_amcheck, and rebuild the member"
        " (wmsctl failover rejoin NODE --rebuild) or restore; then back up again",
    )


def _what(operation: Operation) -> str:
    return f"the {operation.arguments.get('type', '')} backup of {operation.started} by {operation.operator}"
