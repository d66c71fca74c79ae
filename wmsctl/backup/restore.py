"""Restores into a scratch instance: observe → decide → copy → replay → prove, with journal and audit.

Killed at any point, the same command takes it up again: whatever is in the folder is completed by checksums.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from wmsctl.audit import Audit
from wmsctl.backup import observe, recovery, wal
from wmsctl.backup.engine import Engine
from wmsctl.backup.forecast import Forecast, Sample, remaining
from wmsctl.backup.observe import Seen
from wmsctl.backup.recovery import Log, Reached
from wmsctl.backup.restore_plan import Kind, Refusal, RestorePlan, Situation, Target, plan
from wmsctl.backup.retention import soundness
from wmsctl.backup.scratch import Place, Scratch
from wmsctl.backup.wal import SEGMENT_BYTES
from wmsctl.backup.windows import Window, merged
from wmsctl.clients.pgbackrest import Copied
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Refused, Unknown, Unreachable, WmsctlError
from wmsctl.journal import Journal, Record
from wmsctl.output import Printer, duration, size
from wmsctl.steps import Steps

KIND = "backup.restore"
TELL_S = 5.0
POLL_S = 0.25
RECENT = timedelta(minutes=10)
"""A time so close may lie in WAL that the primary has not sent yet: it is asked to."""
BEGIN_S = 10.0
"""By when a server has written the first line of its log."""
LEAST_S = 0.2
"""What took less says nothing of a rate."""
GROWTH = 1.05
"""A restored database beside the size that the catalogue tells: the files of the server itself."""
WAL_KEPT = 1 << 30
"""Bytes of WAL that recovery keeps at most: max_wal_size of the scratch instance, twice."""


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    target: Target
    name: str = ""
    node: str = ""
    timeline: int | None = None
    repo: int | None = None
    label: str = ""
    check: bool = False
    reserve: int = 0
    """Bytes that have to stay free on the node's disk."""


@dataclass(frozen=True)
class Result:
    """One restore, as documented for `-o json` (wmsctl.backup.restore/v1)."""

    result: str
    """planned or done."""
    summary: str
    target: str
    name: str
    node: str
    socket: str
    """Folder of the instance's socket; libpq takes it as host."""
    repo: int
    label: str
    timeline: int
    segments: int
    """WAL segments to replay at most."""
    forecast: dict[str, Any]
    """Seconds: usual, least, most, and the basis: measured or assumed."""
    operation: str = ""
    steps: tuple[str, ...] = ()
    reached: dict[str, Any] | None = None
    """Where recovery ended: lsn, time, timeline, new_timeline, reason."""
    seconds: dict[str, float] | None = None
    """By phase: copy, replay, start, check."""
    checked: bool = False
    """pg_amcheck found nothing."""
    notes: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()


class Tool(Protocol):
    """pgBackRest on one node."""

    def restore(
        self,
        options: Sequence[str],
        *,
        repo: int,
        work: str,
        data: str = "",
        told: Callable[[Copied], None],
        deadline: Deadline,
    ) -> None: ...


class World(Protocol):
    """The platform; `world.World` is the real one."""

    def engine(self, deadline: Deadline) -> Engine: ...
    def tool(self, node: str) -> Tool: ...
    def where(self, node: str) -> str: ...
    def place(self, node: str, name: str) -> Place: ...
    def scratches(self, deadline: Deadline) -> list[Scratch]: ...
    def primary(self) -> str: ...
    def alone(self, primary: str, what: str = ...) -> AbstractContextManager[None]: ...
    def segment_bytes(self, primary: str) -> int: ...
    def switch_wal(self, primary: str, deadline: Deadline) -> None: ...
    def processes(self) -> int: ...


def named(target: Target) -> str:
    """The name of the instance for a target, unless another is given: the same again takes up what was interrupted."""
    if target.at is not None:
        return f"time-{target.at:%Y%m%dt%H%M%S}"
    text = f"{target.lsn:x}" if target.lsn is not None else target.text
    safe = "".join(c if c.isalnum() and c.isascii() else "-" for c in text.lower()).strip("-")
    return (f"{target.kind}-{safe}" if safe else target.kind)[:40].rstrip("-")


def samples(journal: Journal) -> list[Sample]:
    """What earlier restores took, newest first."""
    found = []
    for operation in journal.history(kind=KIND, limit=50):
        if operation.result == "done":
            found += [
                Sample(each["phase"], each["bytes"], each["seconds"]) for each in operation.detail["samples"]
            ]
    return found


def situation(world: World, journal: Journal, seen: Seen) -> Situation:
    return Situation(
        seen.held, seen.chains, seen.archives, datetime.now(UTC), samples(journal), world.processes()
    )


def windows(seen: Seen) -> tuple[Window, ...]:
    """The moments that can be restored to."""
    sound = soundness(seen.held)
    return merged(Window.of(held) for held in seen.held if sound[held.backup.key])


def refusal(found: Refusal, seen: Seen) -> Refused:
    """The error of a restore that cannot be, naming what can."""
    there = "; ".join(str(window) for window in windows(seen)) or "nothing"
    return Refused(f"{found.reason}. What can be restored: {there}", hint=found.hint)


class Progress:
    """Tells how far a phase is, and how long all of it will still take."""

    def __init__(
        self, say: Callable[[str], None], forecast: Forecast, phase: str, *, told_s: float = TELL_S
    ) -> None:
        self._say, self._forecast, self._phase, self._every = say, forecast, phase, told_s
        self._started = self._told = time.monotonic()

    def __call__(self, share: float, what: str) -> None:
        """`share` (0 to 1) of the phase is done."""
        now = time.monotonic()
        if now - self._told < self._every:
            return
        self._told = now
        left = remaining(self._forecast, self._phase, share, now - self._started)
        bar = "#" * round(20 * min(1.0, share))
        self._say(f"[{bar:<20}] {100 * share:3.0f} % {what}, about {duration(left)} left in all")

    def copied(self, copied: Copied) -> None:
        self(copied.percent / 100, f"copied, {size(copied.size)}")


class Runner:
    """Restores on one platform."""

    def __init__(self, world: World, journal: Journal, audit: Audit, printer: Printer) -> None:
        self.world, self.journal, self.audit, self.printer = world, journal, audit, printer

    def run(self, request: Request, *, deadline_s: float, dry_run: bool = False) -> Result:
        """Restore into a scratch instance and prove it. See `wmsctl backup restore`."""
        deadline = Deadline.after(deadline_s)
        node = self.world.where(request.node)
        name = request.name or named(request.target)
        place = self.world.place(node, name)
        with nullcontext() if dry_run else self.exclusively():
            self.bring_wal(request.target, deadline, dry_run=dry_run)
            seen = self.look(deadline)
            chosen = self.choose(request, seen)
            planned = self.planned(chosen, place)
            again = self._taken_up(place, request.target, deadline)
            self._room(chosen, place, request.reserve, deadline)
            if dry_run:
                return planned
            return self._make(request, chosen, planned, place, deadline, again=again)

    def drop(self, name: str, *, deadline_s: float, dry_run: bool = False) -> Scratch:
        """Remove a scratch instance. Raises Refused when there is none of this name."""
        deadline = Deadline.after(deadline_s)
        found = [each for each in self.world.scratches(deadline) if each.name == name]
        if len(found) != 1:
            there = (
                ", ".join(f"{each.name} on {each.node}" for each in self.world.scratches(deadline)) or "none"
            )
            raise Refused(f"there is no single scratch instance {name}; there are: {there}")
        if not dry_run:
            with self.audit.mutation("backup scratch drop", name=name, node=found[0].node):
                self.world.place(found[0].node, name).drop(deadline)
        return found[0]

    def exclusively(self) -> AbstractContextManager[None]:
        """No expiry meanwhile. Without a primary there is none anyway: a restore must not need one."""
        try:
            return self.world.alone(self.world.primary(), "backup restore")
        except Unreachable as error:
            self.printer.warn(f"{error.message}: the restore goes on without the lock of the backups")
            return nullcontext()

    def bring_wal(self, target: Target, deadline: Deadline, *, dry_run: bool) -> None:
        """Have the primary send the WAL that it is writing, where the target may be in it."""
        recent = target.at is not None and datetime.now(UTC) - target.at < RECENT
        if dry_run or not (recent or target.kind in ("latest", "lsn", "xid", "name")):
            return
        try:
            self.world.switch_wal(self.world.primary(), deadline)
        except WmsctlError as error:
            self.printer.warn(f"the newest WAL was not brought into the archive: {error.message}")

    def look(self, deadline: Deadline) -> Seen:
        try:
            segment_bytes = self.world.segment_bytes(self.world.primary())
        except WmsctlError:
            segment_bytes = SEGMENT_BYTES
        seen = observe.look(self.world.engine(deadline), segment_bytes=segment_bytes)
        for trouble in seen.troubles:
            self.printer.warn(trouble)
        return seen

    def choose(self, request: Request, seen: Seen) -> RestorePlan:
        found = plan(
            situation(self.world, self.journal, seen),
            request.target,
            timeline=request.timeline,
            repo=request.repo,
            label=request.label,
        )
        if isinstance(found, Refusal):
            raise refusal(found, seen)
        return found

    def _taken_up(self, place: Place, target: Target, deadline: Deadline) -> bool:
        """Whether an interrupted restore is there. Raises Refused when something else has the name."""
        state = place.state(deadline)
        if state is None:
            return False
        if state["state"] == "ready":
            raise Refused(
                f"the scratch instance {place.name} on {place.node} is there already",
                hint=f"drop it (wmsctl backup scratch drop {place.name}), or give this one another --name",
            )
        if state.get("target", str(target)) != str(target):
            raise Refused(
                f"{place.name} on {place.node} holds the beginning of another restore, to {state['target']}",
                hint=f"drop it (wmsctl backup scratch drop {place.name}), or give this one another --name",
            )
        return True

    def _room(self, chosen: RestorePlan, place: Place, reserve: int, deadline: Deadline) -> None:
        """Raises Refused when the disk is too small."""
        needed = round(chosen.backup.size * GROWTH) + min(WAL_KEPT, (chosen.segments + 3) * SEGMENT_BYTES)
        free = place.free(deadline)
        have = free + place.used(deadline)
        if have < needed + reserve:
            raise Refused(
                f"the disk of {place.node} is too small: {size(needed)} are needed and {size(reserve)} have to stay"
                f" free, {size(free)} are free; nothing was written",
                hint="restore on another node (--on), free space, or keep less free (--reserve)",
            )

    def planned(self, chosen: RestorePlan, place: Place) -> Result:
        backup, ahead = chosen.backup, chosen.forecast
        steps = (
            f"copy {size(backup.size)} of {backup.name} to {place.folder} on {place.node}",
            f"replay up to {chosen.segments} WAL segments along timeline {chosen.timeline}, to {chosen.target}",
            "prove where recovery ended",
        )
        return Result(
            "planned",
            f"{chosen.target} from {backup.name} into the scratch instance {place.name} on {place.node}: {ahead}",
            str(chosen.target),
            place.name,
            place.node,
            place.folder,
            backup.repo,
            backup.label,
            chosen.timeline,
            chosen.segments,
            {
                "usual": round(ahead.usual, 1),
                "least": round(ahead.least, 1),
                "most": round(ahead.most, 1),
                "basis": ahead.basis,
            },
            steps=steps,
            notes=chosen.notes,
            passed_over=chosen.passed_over,
        )

    def _make(
        self,
        request: Request,
        chosen: RestorePlan,
        planned: Result,
        place: Place,
        deadline: Deadline,
        *,
        again: bool,
    ) -> Result:
        arguments = {"target": str(request.target), "name": place.name, "node": place.node}
        with self.audit.mutation("backup restore", **arguments) as facts:
            self._close_interrupted()
            record = self.journal.begin(KIND, planned, arguments)
            try:
                result, taken = self._steps(request, chosen, planned, place, record, deadline, again=again)
            except WmsctlError as error:
                record.finish("failed", reason=error.message)
                raise
            facts["reached"] = result.reached
            record.finish("done", samples=taken)
            return result

    def _close_interrupted(self) -> None:
        """What the journal holds open was killed: its instance is taken up, or listed."""
        for operation in self.journal.unfinished(kind=KIND):
            self.journal.reopen(operation).finish("failed", reason="it was interrupted")

    def _steps(
        self,
        request: Request,
        chosen: RestorePlan,
        planned: Result,
        place: Place,
        record: Record,
        deadline: Deadline,
        *,
        again: bool,
    ) -> tuple[Result, list[Sample]]:
        steps = Steps(record, self.printer.progress)
        state = {
            "name": place.name,
            "state": "restoring",
            "target": str(chosen.target),
            "backup": chosen.backup.name,
            "timeline": chosen.timeline,
            "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "operator": getpass.getuser(),
            "operation": record.id,
        }
        self.printer.progress(f"forecast: {chosen.forecast}")
        with steps.step(
            "copy", f"{'completing' if again else 'copying'} {chosen.backup.name} to {place.node}"
        ):
            took_copy = self._copy(chosen, place, state, deadline, again=again)
        with steps.step("replay", f"replaying WAL to {chosen.target}"):
            segment_bytes = place.configure(deadline)
            took_replay, took_start = follow(place, chosen, self.printer.progress, deadline)
        with steps.step("prove", "proving where recovery ended") as facts:
            found = arrived(place)
            facts["reached"] = found
            recovery.prove(chosen, found, segment_bytes)
        seconds = {"copy": took_copy, "replay": took_replay, "start": took_start}
        if request.check:
            with steps.step("check", "checking tables and indexes (pg_amcheck)"):
                seconds["check"] = check(place, deadline)
        place.write("state.json", _json({**state, "state": "ready", "reached": facts_of(found)}), deadline)
        replayed = wal.position(found.lsn) - chosen.backup.lsn_start
        taken = [
            # What was there already was not copied: its time says nothing.
            *([] if again else [Sample("copy", chosen.backup.size, took_copy)]),
            *([Sample("replay", replayed, took_replay)] if took_replay >= LEAST_S else []),
            Sample("start", 0, took_start),
        ]
        at = f"{found.time:%Y-%m-%d %H:%M:%S} UTC" if found.time else "its backup's end"
        result = replace(
            planned,
            result="done",
            summary=f"{chosen.target} is in the scratch instance {place.name} on {place.node}, last commit of {at},"
            f" in {duration(sum(seconds.values()))} (forecast {duration(chosen.forecast.usual)})",
            operation=record.id,
            steps=(),
            reached=facts_of(found),
            seconds={phase: round(took, 3) for phase, took in seconds.items()},
            checked=request.check,
        )
        return result, taken

    def _copy(
        self, chosen: RestorePlan, place: Place, state: dict[str, Any], deadline: Deadline, *, again: bool
    ) -> float:
        place.prepare(state, deadline)
        if again:
            place.stop(deadline)
            if not place.usable(deadline):
                place.empty(deadline)
        started = time.monotonic()
        self.world.tool(place.node).restore(
            [*chosen.options, "--archive-mode=off"],
            repo=chosen.backup.repo,
            work=place.folder,
            data=place.data,
            told=Progress(self.printer.progress, chosen.forecast, "copy").copied,
            deadline=deadline,
        )
        return time.monotonic() - started


def follow(
    place: Place,
    chosen: RestorePlan,
    say: Callable[[str], None],
    deadline: Deadline,
    overrides: Mapping[str, str] = recovery.ISOLATION,
) -> tuple[float, float]:
    """Start the server and wait until recovery has ended; seconds of replay, and of all around it.

    Raises Failed when the server ends, Unknown at the deadline; then the server is stopped.
    """
    log, offset = Log(), 0
    told = Progress(say, chosen.forecast, "replay")
    started = time.monotonic()
    place.start(deadline, overrides)
    redo: float | None = None
    try:
        while not log.ready:
            added = place.log(offset, deadline)
            offset += len(added)
            log.read(added.decode(errors="replace"))
            if log.redo and redo is None:
                redo = time.monotonic()
            if log.ready:
                break
            # It has begun when it has said something; before that it has no process to be found by.
            begun = offset > 0 or time.monotonic() - started > BEGIN_S
            if begun and not added and not place.running(deadline):
                log.read(place.log(offset, deadline).decode(errors="replace") + "\n")
                if not log.ready:
                    raise recovery.meaning(log, chosen)
            told(min(1.0, log.restored / max(1, chosen.segments)), f"replayed, segment {log.segment or '-'}")
            if deadline.expired:
                raise Unknown(
                    f"recovery did not end in time; it was at segment {log.segment or '-'}",
                    hint="run it again with a longer --deadline",
                )
            time.sleep(min(POLL_S, deadline.remaining()))
    except WmsctlError:
        place.stop(Deadline.after(60))
        raise
    ended = time.monotonic()
    replay = ended - redo if redo is not None else 0.0
    return replay, ended - started - replay


def arrived(place: Place) -> Reached:
    """Where recovery ended, by the server's own word."""
    ((replayed, committed, timeline),) = place.query(
        "SELECT pg_last_wal_replay_lsn()::text, pg_last_xact_replay_timestamp(),"
        " ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int"
    )
    ((history,),) = place.query(f"SELECT pg_read_file('pg_wal/{timeline:08X}.history')")
    at = committed.astimezone(UTC) if committed is not None else None
    return recovery.reached(history or "", replayed or "", at, timeline)


def check(place: Place, deadline: Deadline) -> float:
    """Check every table and index; seconds. Raises Failed with what pg_amcheck found."""
    started = time.monotonic()
    command = [
        f"{place.binaries}/pg_amcheck",
        *("--host", place.folder, "--username", "postgres", "--all", "--install-missing"),
        *("--heapallindexed", "--parent-check"),
    ]
    ended = place.run(command, deadline, codes=(0, 1, 2))
    if ended.code != 0:
        text = " ".join((ended.output.decode(errors="replace") + ended.log).split())
        raise Failed(
            f"pg_amcheck found damage in what was restored: {text[:600]}",
            hint="restore another backup: --set; see wmsctl backup list",
        )
    return time.monotonic() - started


def facts_of(found: Reached) -> dict[str, Any]:
    return {
        "lsn": found.lsn,
        "time": found.time.isoformat() if found.time else None,
        "timeline": found.timeline,
        "new_timeline": found.new_timeline,
        "reason": found.reason,
    }


def _json(value: Any) -> str:
    import json

    return json.dumps(value)


__all__ = ["Kind", "Request", "Result", "Runner"]
