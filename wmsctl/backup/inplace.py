"""Restores in place: the cluster is stopped, one member restored and promoted, the cluster formed anew around it.

One replica is restored; the others, the old primary among them, keep their data until it leads. Up to the step `reset`
there is a way back (abandon); from there on only forward. Each step is in the journal before it begins, and may be done
again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from wmsctl.audit import Audit
from wmsctl.backup import recovery
from wmsctl.backup.restore import Progress, Request, Result, Runner, World, arrived, facts_of, follow
from wmsctl.backup.restore_plan import RestorePlan, target
from wmsctl.backup.scratch import Place
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Refused, WmsctlError
from wmsctl.failover.proof import Proof
from wmsctl.journal import Journal, Operation, Record
from wmsctl.output import Printer, duration
from wmsctl.steps import Steps

KIND = "backup.in-place"
FOLDER = "in-place"
"""Beside the scratch instances: what the restored server is started with until Patroni takes it over."""
TARGETS = (
    "restore_command",
    "archive_mode",
    "recovery_target",
    "recovery_target_time",
    "recovery_target_lsn",
    "recovery_target_xid",
    "recovery_target_name",
    "recovery_target_action",
    "recovery_target_timeline",
    "recovery_target_inclusive",
)
"""What pgBackRest leaves in postgresql.auto.conf. A standby would obey it."""


class GroundLike(Protocol):
    """What the steps need of the cluster; `ground.Ground` is the real one."""

    @property
    def members(self) -> tuple[str, ...]: ...
    def leader(self) -> str: ...
    def paused(self) -> bool: ...
    def stop(self, node: str, deadline: Deadline) -> None: ...
    def start(self, node: str) -> None: ...
    def forget(self) -> tuple[str, ...]: ...
    def led_by(self, node: str, deadline: Deadline) -> int: ...
    def follow(self, leader: str, deadline: Deadline) -> tuple[str, ...]: ...
    def prove(self, operation: str, deadline: Deadline) -> tuple[Proof, ...]: ...


class InPlaceWorld(World, Protocol):
    def member_place(self, node: str, name: str) -> Place: ...
    def archive_command(self, node: str) -> str: ...


@dataclass(frozen=True)
class Terms:
    """How it may be done."""

    full: bool = False
    """Remove the member's data first, instead of completing them by checksums."""
    allow_data_loss: bool = False
    yes: bool = False


class InPlace:
    """Restores one platform in place."""

    def __init__(
        self, world: InPlaceWorld, ground: GroundLike, journal: Journal, audit: Audit, printer: Printer
    ) -> None:
        self.world, self.ground = world, ground
        self.journal, self.audit, self.printer = journal, audit, printer
        self._restores = Runner(world, journal, audit, printer)

    def run(
        self, to: str, request: Request, terms: Terms, *, deadline_s: float, dry_run: bool = False
    ) -> Result:
        """Restore in place, or finish the restore that was interrupted. See `wmsctl backup restore --in-place`."""
        deadline = Deadline.after(deadline_s)
        with self.journal.lock("backup restore --in-place"):
            operation = self._unfinished()
            if operation is not None:
                return self._resume(operation, to, terms, deadline, dry_run=dry_run)
            leader = self.ground.leader()
            self._allowed(request, terms, leader)
            node = self._node(request.node, leader)
            with self._restores.exclusively() if not dry_run else _nothing():
                self._restores.bring_wal(request.target, deadline, dry_run=dry_run)
                chosen = self._restores.choose(request, self._restores.look(deadline))
            planned = self._planned(chosen, node, leader, terms)
            if dry_run:
                return planned
            self.printer.confirm(
                f"Stop the cluster and bring back {request.target}? {_loss(request)}.", yes=terms.yes
            )
            arguments = {
                "to": to,
                "node": node,
                "leader": leader,
                "full": terms.full,
                "timeline": request.timeline,
                "repo": request.repo,
                "label": request.label,
                "allow_data_loss": terms.allow_data_loss,
            }
            with self.audit.mutation("backup restore --in-place", **arguments) as facts:
                record = self.journal.begin(KIND, planned, arguments)
                result = self._go(record, None, arguments, request, planned, deadline)
                facts["reached"] = result.reached
                return result

    def abandon(self, *, deadline_s: float, yes: bool) -> Result:
        """Bring the cluster back as it was before an interrupted restore in place.

        Raises Refused when there is none, or when the restored member may lead already.
        """
        deadline = Deadline.after(deadline_s)
        with self.journal.lock("backup restore --abandon"):
            operation = self._unfinished()
            if operation is None:
                raise Refused("no restore in place was interrupted here", hint="see: wmsctl status")
            if operation.reached("reset"):
                raise Refused(
                    "there is no way back: the store was cleared for the restored member",
                    hint="finish it: the same command again",
                )
            arguments = operation.arguments
            node, leader = arguments["node"], arguments["leader"]
            self.printer.confirm(f"Bring the cluster back as it was, and copy {node} anew?", yes=yes)
            with self.audit.mutation("backup restore --abandon", operation=operation.id):
                record = self.journal.reopen(operation)
                steps = Steps(record, self.printer.progress)
                place = self.world.member_place(node, FOLDER)
                with steps.step(
                    "undo", f"starting the cluster with the data that it had; {node} is copied anew"
                ):
                    self.ground.stop(node, deadline)
                    if operation.reached("restore"):
                        place.stop(deadline)
                        place.empty(deadline)
                    others = [each for each in self.ground.members if each != node]
                    for each in sorted(others, key=lambda each: each != leader):
                        self.ground.start(each)
                    now = self._led(deadline)
                    self.ground.start(node)
                    self.ground.follow(now, deadline)
                    place.discard(deadline)
                record.finish("undone")
            return Result(
                "undone",
                f"the cluster is as it was, led by {now}",
                arguments["to"],
                "",
                node,
                "",
                0,
                "",
                0,
                0,
                {},
                operation.id,
            )

    def _led(self, deadline: Deadline) -> str:
        from wmsctl.deadline import wait_until

        return wait_until(
            self.ground.leader, deadline.within(120), 0.25, "a leader", hint="see: wmsctl status"
        )

    def _unfinished(self) -> Operation | None:
        found = self.journal.unfinished(kind=KIND)
        return found[0] if found else None

    def _allowed(self, request: Request, terms: Terms, leader: str) -> None:
        if self.ground.paused():
            raise Refused(
                "Patroni is in maintenance mode", hint="end it first: wmsctl failover maintenance off"
            )
        if terms.allow_data_loss or (request.target.kind == "latest" and leader):
            return
        raise Refused(
            f"{_loss(request)}",
            hint="bring it back beside what runs (without --in-place), or accept it: --allow-data-loss",
        )

    def _node(self, asked: str, leader: str) -> str:
        """The member that is restored: not the primary, whose data are the way back."""
        if asked and asked == leader:
            raise Refused(
                f"{asked} leads: its data are the way back", hint="name a replica (--on), or leave --on out"
            )
        if asked:
            return self.world.where(asked)
        for node in reversed(self.ground.members):
            if node != leader:
                try:
                    return self.world.where(node)
                except Refused:
                    continue
        raise Refused("no replica's node is on", hint="see: wmsctl node list")

    def _planned(self, chosen: RestorePlan, node: str, leader: str, terms: Terms) -> Result:
        how = "all of it anew" if terms.full else "what differs"
        planned = self._restores.planned(chosen, self.world.member_place(node, FOLDER))
        return replace(
            planned,
            name="",
            socket="",
            in_place=True,
            summary=f"{chosen.target} from {chosen.backup.name} in place, on {node}: {chosen.forecast},"
            " and the replicas",
            steps=(
                f"stop the cluster: the replicas, then {leader or 'whoever leads'}",
                f"restore {chosen.backup.name} on {node}, {how}",
                f"replay WAL along timeline {chosen.timeline} to {chosen.target}, promote, prove where it ended",
                "clear the store of the old state (from here on there is no way back)",
                f"let {node} lead, rewind or copy the other members",
                "prove a write through every pooler",
            ),
        )

    def _resume(
        self, operation: Operation, to: str, terms: Terms, deadline: Deadline, *, dry_run: bool
    ) -> Result:
        arguments = operation.arguments
        if to != arguments["to"]:
            raise Refused(
                f"a restore in place to {arguments['to']} was interrupted ({operation.id})",
                hint=f"finish it: wmsctl backup restore --in-place --to {arguments['to']}; or go back: --abandon",
            )
        request = Request(
            target(to),
            node=arguments["node"],
            timeline=arguments["timeline"],
            repo=arguments["repo"],
            label=arguments["label"],
        )
        planned = Result(**{**operation.plan, "steps": (), "notes": (), "passed_over": (), "proofs": ()})
        if dry_run:
            left = [
                s
                for s in ("stop", "restore", "replay", "reset", "lead", "prove")
                if not operation.completed(s)
            ]
            return replace(planned, operation=operation.id, steps=tuple(left))
        self.printer.progress(f"going on with {operation.id}")
        with self.audit.mutation("backup restore --in-place", **arguments, resumed=operation.id):
            record = self.journal.reopen(operation)
            return self._go(record, operation, arguments, request, planned, deadline)

    def _go(
        self,
        record: Record,
        before: Operation | None,
        arguments: Mapping[str, Any],
        request: Request,
        planned: Result,
        deadline: Deadline,
    ) -> Result:
        """All steps but those that `before` tells to be done. What fails stays open, to be resumed or abandoned."""
        started = time.monotonic()
        steps = Steps(record, self.printer.progress)
        node, leader = arguments["node"], arguments["leader"]
        place = self.world.member_place(node, FOLDER)
        done = before is not None and before.completed("settle")
        reached: dict[str, Any] | None = _settled(before) if done else None
        if not done:
            with steps.step("stop", "stopping the cluster"):
                for each in sorted(self.ground.members, key=lambda each: each == leader):
                    self.ground.stop(each, deadline)
            if request.target.kind == "latest" and not arguments["allow_data_loss"]:
                self._all_archived(leader, steps, record, deadline)
            reached = self._restore(arguments, request, place, steps, deadline)
        if before is None or not before.completed("reset"):
            with steps.step("reset", "clearing the store of the old state") as facts:
                facts["removed"] = self.ground.forget()
        with steps.step("lead", f"letting {node} lead") as facts:
            self.ground.start(node)
            facts["timeline"] = timeline = self.ground.led_by(node, deadline)
        with steps.step("rebuild", "the other members follow") as facts:
            for each in self.ground.members:
                self.ground.start(each)
            facts["rebuilt"] = self.ground.follow(node, deadline)
        with steps.step("prove", "proving a write through every pooler"):
            proofs = self.ground.prove(record.id, deadline)
            wrong = [each.via for each in proofs if each.timeline != timeline]
            if wrong:
                raise Failed(f"writes through {', '.join(wrong)} are not on timeline {timeline}")
        place.discard(deadline)
        record.finish("done", timeline=timeline)
        took = time.monotonic() - started
        return replace(
            planned,
            result="done",
            summary=f"the cluster is at {planned.target}, led by {node} on timeline {timeline}, in {duration(took)};"
            " back it up now: wmsctl backup run --type full",
            operation=record.id,
            steps=(),
            reached=reached,
            seconds={"all": round(took, 3)},
            proofs=proofs,
        )

    def _restore(
        self,
        arguments: Mapping[str, Any],
        request: Request,
        place: Place,
        steps: Steps,
        deadline: Deadline,
    ) -> dict[str, Any]:
        """Restore, replay, promote, prove and stop the member; where recovery ended."""
        node = place.node
        with steps.step("restore", f"restoring {node}") as facts:
            # Looked at again: with the cluster stopped nothing comes after it.
            chosen = self._restores.choose(request, self._restores.look(deadline))
            facts.update(backup=chosen.backup.name, timeline=chosen.timeline)
            place.folders(deadline)
            place.stop(deadline)
            if arguments["full"] or not place.usable(deadline):
                place.empty(deadline)
            self.world.tool(node).restore(
                chosen.options,
                repo=chosen.backup.repo,
                work=place.folder,
                told=Progress(self.printer.progress, chosen.forecast, "copy").copied,
                deadline=deadline,
            )
        with steps.step("replay", f"replaying WAL to {chosen.target}, and promoting"):
            segment_bytes = place.configure(deadline)
            # It archives as a primary does: its timeline begins here.
            overrides = {
                **recovery.ISOLATION,
                "archive_mode": "on",
                "archive_command": self.world.archive_command(node),
            }
            follow(place, chosen, self.printer.progress, deadline, overrides)
        with steps.step("settle", "proving where recovery ended, and stopping it for Patroni") as facts:
            found = arrived(place)
            recovery.prove(chosen, found, segment_bytes)
            for setting in TARGETS:
                place.query(f"ALTER SYSTEM RESET {setting}")
            place.query("CHECKPOINT", timeout=300)
            place.stop(deadline, "fast")
            facts["reached"] = facts_of(found)
        return facts_of(found)

    def _all_archived(self, leader: str, steps: Steps, record: Record, deadline: Deadline) -> None:
        """Raises Refused, with the cluster started again, when the old primary has WAL that is in no archive."""
        left = self.world.member_place(leader, FOLDER).unarchived(deadline)
        if not left:
            return
        with steps.step("undo", "starting the cluster again"):
            for each in sorted(self.ground.members, key=lambda each: each != leader):
                self.ground.start(each)
            self.ground.follow(self._led(deadline), deadline)
        reason = f"{len(left)} WAL files of {leader}, from {left[0]} on, are in no archive: their commits would be lost"
        record.finish("refused", reason=reason)
        raise Refused(
            f"{reason}. The cluster was started again",
            hint="see why archiving is behind (wmsctl status), or accept it: --allow-data-loss",
        )


def _settled(operation: Operation | None) -> dict[str, Any] | None:
    if operation is None:
        return None
    for step in reversed(operation.steps):
        if step.name == "settle" and step.state == "done":
            found: dict[str, Any] = step.detail["reached"]
            return found
    return None


def _loss(request: Request) -> str:
    wanted = request.target
    if wanted.at is not None:
        ago = (datetime.now(UTC) - wanted.at).total_seconds()
        return f"everything that was committed since {wanted}, {duration(max(0.0, ago))} ago, will be lost"
    if wanted.kind == "latest":
        return "what is in no archive will be lost"
    return f"everything that was committed after {wanted} will be lost"


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


__all__ = ["InPlace", "Terms", "WmsctlError"]
