"""Runs the operations: observe → plan → confirm → apply → verify, under the lock, with journal and audit.

Each method returns the result to print, or raises the error that says how it ended; the journal says the
same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from wmsctl.audit import Audit
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Refused, Unknown, WmsctlError
from wmsctl.failover import history as timeline_history
from wmsctl.failover import plan as planning
from wmsctl.failover import promotion, rejoining, settle
from wmsctl.failover import switchover as switching
from wmsctl.failover.observe import KIND
from wmsctl.failover.plan import AlreadySo, PromotePlan, Refusal, RejoinPlan, SwitchoverPlan
from wmsctl.failover.poolers import Pause, PauseFailed
from wmsctl.failover.proof import Proof
from wmsctl.failover.snapshot import Snapshot
from wmsctl.journal import Journal, Operation, Record
from wmsctl.output import Printer
from wmsctl.steps import Steps

SUPERSEDE_S = 3.0
"""How long a promotion tries to lift the pause of an interrupted switchover: the guard has done it long before."""

SETTLE_S = 20.0
"""How long a failed switchover is looked at before its end counts as unknown."""


@dataclass(frozen=True)
class Result:
    """The result of one operation, as documented for `-o json`."""

    operation: str
    """Id in the journal, empty when nothing was started."""
    kind: str
    result: str
    """planned, already, done, undone or moved."""
    summary: str
    leader: str = ""
    timeline: int | None = None
    old_leader: str = ""
    steps: tuple[str, ...] = ()
    """What a dry run would do."""
    proofs: tuple[Proof, ...] = ()
    measured: dict[str, float] = field(default_factory=dict)
    """Milliseconds by name."""
    loss: planning.Loss | None = None
    """What may have been lost at most; only with --allow-data-loss."""


class RigLike(switching.Rigged, Protocol):
    """A switchover's connections with their beginning and end."""

    pause_of_all: Pause

    def prepare(self) -> None: ...
    def blockers(self, pids: list[int]) -> list[str]: ...
    def close(self) -> None: ...


class WorldLike(promotion.Promotable, rejoining.Rejoinable, settle.Settling, Protocol):
    """The platform; `world.World` is the real one."""

    def observe(self, *, heartbeats: bool = False, power: str = "") -> Snapshot: ...
    def rig(self, plan: SwitchoverPlan, record: Record) -> Any: ...
    def resume_poolers(self, seconds: float) -> tuple[dict[str, list[str]], list[str]]: ...
    def history(self) -> tuple[Any, ...]: ...


class Runner:
    """The operations on one platform. `yes` answers every question beforehand."""

    def __init__(
        self,
        world: WorldLike,
        journal: Journal,
        audit: Audit,
        printer: Printer,
        command: str,
        *,
        yes: bool = False,
    ) -> None:
        self.world = world
        self.journal = journal
        self.audit = audit
        self.printer = printer
        self.command = command
        self.yes = yes

    def switchover(self, to: str, *, pause_s: float, deadline_s: float, dry_run: bool) -> Result:
        """Hand the leadership over. See `wmsctl failover switchover`."""
        if dry_run:
            return self._look(planning.switchover(self.world.observe(), to), "switchover")
        with self.journal.lock(self.command):
            plan = planning.switchover(self.world.observe(), to)
            if isinstance(plan, Refusal):
                raise refused(plan)
            if isinstance(plan, AlreadySo):
                return self.already(plan, "switchover")
            if self._ask(f"switch over from {plan.leader} to {plan.candidate}?", plan.steps):
                plan = self._again(plan, planning.switchover(self.world.observe(), plan.candidate))
            with self._begun(
                "switchover", plan, {"to": to, "pause_s": pause_s, "deadline_s": deadline_s}
            ) as record:
                return self._switch(plan, record, pause_s, deadline_s)

    def promote(
        self, to: str, *, fence: bool, allow_data_loss: bool, deadline_s: float, dry_run: bool
    ) -> Result:
        """Promote after the loss of the primary. See `wmsctl failover promote`."""

        def decide() -> PromotePlan | AlreadySo | Refusal:
            snapshot = self.world.observe(heartbeats=allow_data_loss)
            return planning.promote(snapshot, to, fence=fence, allow_data_loss=allow_data_loss)

        if dry_run:
            return self._look(decide(), "promote")
        with self.journal.lock(self.command):
            plan = decide()
            if isinstance(plan, Refusal):
                raise refused(plan)
            if isinstance(plan, AlreadySo):
                return self.proven(plan, "promote", deadline_s)
            if plan.loss is not None:
                self.printer.warn(f"commits may be lost: {plan.loss}")
            if self._ask(
                f"promote {plan.expected} in place of {plan.dead or 'the lost primary'}?", plan.steps
            ):
                plan = decide()
                if isinstance(plan, Refusal):
                    raise refused(plan)
                if isinstance(plan, AlreadySo):
                    return self.proven(plan, "promote", deadline_s)
            arguments = {
                "to": to,
                "fence": fence,
                "allow_data_loss": allow_data_loss,
                "deadline_s": deadline_s,
            }
            with self._begun("promote", plan, arguments) as record:
                self._supersede(record)
                return self.apply_promotion(plan, record, deadline_s)

    def rejoin(self, node: str, *, rebuild: bool, deadline_s: float, dry_run: bool) -> Result:
        """Bring a member back. See `wmsctl failover rejoin`."""
        if dry_run:
            return self._look(
                planning.rejoin(self.world.observe(power=node), node, rebuild=rebuild), "rejoin"
            )
        with self.journal.lock(self.command):
            plan = planning.rejoin(self.world.observe(power=node), node, rebuild=rebuild)
            if isinstance(plan, Refusal):
                raise refused(plan)
            if isinstance(plan, AlreadySo):
                return self.already(plan, "rejoin")
            question = f"discard the data of {node} and copy it anew from {plan.leader}?"
            self._ask(question if rebuild else f"bring {node} back?", plan.steps, needed=rebuild)
            with self._begun("rejoin", plan, {"rebuild": rebuild, "deadline_s": deadline_s}) as record:
                return self.apply_rejoin(plan, record, deadline_s)

    def resume(self, *, deadline_s: float, dry_run: bool) -> list[Result]:
        """Finish or undo what the journal holds open, oldest first. See `wmsctl failover resume`."""
        if dry_run:
            return [
                Result(op.id, op.kind.removeprefix(KIND), "planned", f"to be settled: {where(op)}")
                for op in reversed(self.journal.unfinished(kind=KIND))
            ]
        from wmsctl.failover.resume import Resumption

        with self.journal.lock(self.command):
            resumption = Resumption(self, deadline_s)
            return [resumption.settle(op) for op in reversed(self.journal.unfinished(kind=KIND))]

    def history(self, limit: int) -> list[timeline_history.Event]:
        """Patroni's changes of the timeline and our own operations, newest first."""
        try:
            entries = self.world.history()
        except WmsctlError as error:
            self.printer.warn(f"Patroni's part of the history is missing: {error.message}")
            entries = ()
        return timeline_history.merge(entries, self.journal.history(kind=KIND), limit)

    # How each operation is applied

    def _switch(self, plan: SwitchoverPlan, record: Record, pause_s: float, deadline_s: float) -> Result:
        rig: RigLike = self.world.rig(plan, record)
        outcome = switching.Outcome()
        steps = Steps(record, self.printer.progress)
        trouble: WmsctlError | None = None
        try:
            rig.prepare()
            deadline = Deadline.after(deadline_s + pause_s)
            try:
                switching.apply(plan, rig, steps, outcome, pause_s=pause_s, deadline=deadline)
            except PauseFailed as error:
                trouble = self._not_paused(plan, rig, error)
        except WmsctlError as error:
            trouble = error
        finally:
            rig.close()
        measured = _measured(outcome, rig)
        if trouble is None:
            record.finish("done", leader=plan.candidate, timeline=outcome.timeline, **measured)
            stall = measured.get("write_stall", 0.0)
            return Result(
                record.id,
                "switchover",
                "done",
                f"{plan.candidate} leads on timeline {outcome.timeline}; writes waited {stall:.0f} ms",
                plan.candidate,
                outcome.timeline,
                plan.leader,
                proofs=outcome.proofs,
                measured=measured,
            )
        raise self._switch_failed(plan, record, trouble, measured, bool(outcome.not_resumed))

    def _switch_failed(
        self,
        plan: SwitchoverPlan,
        record: Record,
        trouble: WmsctlError,
        measured: Mapping[str, float],
        still_paused: bool,
    ) -> WmsctlError:
        """The error that tells the state as it is; closes the operation when its end is certain."""
        operation = self.journal.get(record.id)
        if still_paused:
            return trouble
        if not operation.reached("switch"):
            record.finish(
                "refused" if isinstance(trouble, Refused) else "failed", reason=trouble.message, **measured
            )
            trouble.add_note(f"nothing was switched: {plan.leader} leads, the poolers run")
            return trouble
        if operation.completed("prove-poolers"):  # only the old leader is missing
            record.finish("done", leader=plan.candidate, reason=trouble.message, **measured)
            trouble.add_note(
                f"the switchover is done: {plan.candidate} leads, a write was proven through every pooler"
            )
            return trouble
        self.printer.progress(f"{trouble.message}; looking who leads")
        try:
            settled = settle.switchover(self.world, plan, record.id, Deadline.after(SETTLE_S))
        except WmsctlError as error:
            settled = None
            trouble.add_note(error.message)
        if settled is None:
            return Unknown(
                f"the switchover to {plan.candidate} was started and its end is not known: {trouble.message}",
                hint="the poolers run; look at it (wmsctl status), then: wmsctl failover resume",
            )
        close(record, settled, reason=trouble.message, **measured)
        if settled.result == "done":
            return Failed(
                f"{plan.candidate} leads on timeline {settled.lead.timeline} and writes work, but"
                " not as planned:"
                f" {trouble.message}",
                hint="clients may have seen errors; nothing is left to do",
            )
        return Failed(
            f"the switchover to {plan.candidate} failed: {trouble.message}",
            hint=(
                f"{settled.lead.name} leads on timeline {settled.lead.timeline}, writes work, the poolers run"
            ),
        )

    def _not_paused(self, plan: SwitchoverPlan, rig: RigLike, error: PauseFailed) -> Refused:
        """PAUSE ran out of time: nothing was switched. Says who held it up."""
        try:
            blockers = rig.blockers(error.busy) if error.busy else []
        except WmsctlError:
            blockers = []
        refusal = Refused(
            f"the poolers did not come to rest: {error.message}",
            hint="wait for these transactions to end, or end them; or allow more: --pause-deadline SECONDS",
        )
        for blocker in blockers:
            refusal.add_note(f"in the way on {plan.leader}: {blocker}")
        return refusal

    def apply_promotion(self, plan: PromotePlan, record: Record, deadline_s: float) -> Result:
        outcome = promotion.Outcome()
        steps = Steps(record, self.printer.progress)
        try:
            promotion.apply(plan, self.world, steps, outcome, deadline=Deadline.after(deadline_s))
        except Failed as error:
            # Before anything was asked of the store the end is certain; later only a look tells.
            if not any(self.journal.get(record.id).reached(name) for name in ("end-lease", "await-leader")):
                record.finish("failed", reason=error.message)
            raise
        measured = {
            name: value
            for name, value in (
                ("fenced", outcome.fenced_ms),
                ("lease_ended", outcome.released_ms),
                ("new_leader", outcome.leader_ms),
                ("write_proven", outcome.proven_ms),
            )
            if value is not None
        }
        result = "undone" if outcome.recovered else "done"
        record.finish(
            "undone" if outcome.recovered else "done",
            leader=outcome.leader,
            timeline=outcome.timeline,
            **measured,
        )
        summary = (
            f"{outcome.leader} came back by itself and leads on timeline {outcome.timeline}; nobody"
            " was promoted"
            if outcome.recovered
            else f"{outcome.leader} leads on timeline {outcome.timeline};"
            f" a write was proven {(outcome.proven_ms or 0) / 1000:.1f} s after the start"
        )
        return Result(
            record.id,
            "promote",
            result,
            summary,
            outcome.leader,
            outcome.timeline,
            plan.dead,
            proofs=outcome.proofs,
            measured=measured,
            loss=plan.loss,
        )

    def apply_rejoin(self, plan: RejoinPlan, record: Record, deadline_s: float) -> Result:
        outcome = rejoining.Outcome()
        steps = Steps(record, self.printer.progress)
        deadline = Deadline.after(deadline_s)
        try:
            try:
                rejoining.apply(plan, self.world, steps, outcome, deadline=deadline)
            except rejoining.Broken as error:
                self.printer.warn(error.message)
                self._repair(plan, steps, outcome, deadline_s)
        except WmsctlError as error:
            # Also when it may still come: nothing of a rejoin needs to be finished or undone later.
            record.finish("failed", reason=error.message)
            raise
        measured = {"streaming": outcome.streaming_ms or 0.0}
        record.finish(
            "done", leader=outcome.leader, timeline=outcome.timeline, rebuilt=outcome.rebuilt, **measured
        )
        return Result(
            record.id,
            "rejoin",
            "done",
            f"{plan.node} leads on timeline {outcome.timeline}"
            if outcome.leader == plan.node
            else f"{plan.node} streams from {outcome.leader} on timeline {outcome.timeline}"
            " and counts for commits" + _how(outcome),
            outcome.leader,
            outcome.timeline,
            plan.node,
            measured=measured,
        )

    def _repair(self, plan: RejoinPlan, steps: Steps, outcome: rejoining.Outcome, deadline_s: float) -> None:
        """A member that does not start: a power cycle first, which loses nothing, then a rebuild, which asks."""
        waiting = replace(plan, power_on=False, rebuild=False)
        if plan.power_control and not plan.power_on:
            rejoining.power_cycle(plan, self.world, steps, outcome, deadline=Deadline.after(deadline_s))
            try:
                rejoining.apply(waiting, self.world, steps, outcome, deadline=Deadline.after(deadline_s))
            except rejoining.Broken as error:
                self.printer.warn(error.message)
            else:
                return
        question = f"discard the data of {plan.node} and copy it anew from {plan.leader}?"
        self.printer.confirm(question, yes=self.yes)
        deadline = Deadline.after(deadline_s)
        rejoining.rebuild(plan, self.world, steps, outcome, deadline=deadline)
        rejoining.apply(waiting, self.world, steps, outcome, deadline=deadline)

    # The frame around each operation

    def _supersede(self, record: Record) -> None:
        """Close what an interrupted wmsctl left open, and lift its pause: with the primary lost it cannot end any
        more.
        """
        for op in self.journal.unfinished(kind=KIND):
            if op.id == record.id:
                continue
            if op.reached("pause"):
                _, away = self.world.resume_poolers(SUPERSEDE_S)
                for name in away:
                    self.printer.warn(f"the pooler on {name} does not answer and may be paused")
            self.journal.reopen(op).finish("failed", reason=f"superseded by {record.id}")

    @contextmanager
    def _begun(self, kind: str, plan: Any, arguments: Mapping[str, Any]) -> Iterator[Record]:
        """Audit and journal around the body. An interrupted operation stays open; `resume` settles it."""
        with self.audit.mutation(f"failover {kind}", **arguments) as facts:
            record = self.journal.begin(KIND + kind, plan, arguments)
            facts["operation"] = record.id
            yield record

    def _ask(self, question: str, steps: tuple[str, ...], *, needed: bool = True) -> bool:
        """Show the steps and ask; whether somebody had to think, so that the snapshot may be old."""
        self.printer.progress(
            "\n".join(["this will:", *(f"  {n}. {step}" for n, step in enumerate(steps, 1))])
        )
        if not needed or self.yes:
            return False
        started = time.monotonic()
        self.printer.confirm(question, yes=False)
        return time.monotonic() - started > 0.5

    def _again(
        self, before: SwitchoverPlan, decision: SwitchoverPlan | AlreadySo | Refusal
    ) -> SwitchoverPlan:
        if isinstance(decision, Refusal):
            raise refused(decision)
        if not isinstance(decision, SwitchoverPlan) or decision.leader != before.leader:
            raise Refused(
                "the platform changed while the question was open",
                hint="look again: wmsctl failover switchover",
            )
        return decision

    @staticmethod
    def _look(decision: SwitchoverPlan | PromotePlan | RejoinPlan | AlreadySo | Refusal, kind: str) -> Result:
        if isinstance(decision, Refusal):
            raise refused(decision)
        if isinstance(decision, AlreadySo):
            return Result("", kind, "already", decision.message, decision.leader)
        loss = decision.loss if isinstance(decision, PromotePlan) else None
        return Result("", kind, "planned", "nothing was changed (dry run)", steps=decision.steps, loss=loss)

    @staticmethod
    def already(plan: AlreadySo, kind: str) -> Result:
        return Result("", kind, "already", plan.message, plan.leader)

    def proven(self, plan: AlreadySo, kind: str, deadline_s: float) -> Result:
        """Somebody leads already; that writes work is proven nevertheless."""
        proofs = tuple(self.world.prove(plan.leader, "", Deadline.after(deadline_s)))
        return Result(
            "",
            kind,
            "already",
            plan.message,
            plan.leader,
            proofs[0].timeline if proofs else None,
            proofs=proofs,
        )


def _how(outcome: rejoining.Outcome) -> str:
    if outcome.rebuilt:
        return " (rebuilt)"
    return " (after a power cycle)" if outcome.power_cycled else ""


def refused(refusal: Refusal) -> Refused:
    return Refused(refusal.reason, hint=refusal.hint)


def _measured(outcome: switching.Outcome, rig: RigLike) -> dict[str, float]:
    pause = getattr(rig, "pause_of_all", None)
    found = {
        "write_stall": pause.write_stall_ms if pause else None,
        "longest_stall": pause.longest_ms if pause and pause.begun else None,
        "switch": outcome.switch_ms,
        "proxies": outcome.proxies_ms,
        "old_leader_streams": outcome.old_leader_ms,
    }
    return {name: value for name, value in found.items() if value is not None}


def close(record: Record, settled: settle.Settled, **detail: Any) -> None:
    result = "failed" if settled.result == "moved" else settled.result
    record.finish(result, leader=settled.lead.name, timeline=settled.lead.timeline, **detail)


def where(op: Operation) -> str:
    """How far an operation came."""
    if not op.steps:
        return "it ended before its first step"
    last = op.steps[-1]
    return f"it ended {'after' if last.state == 'done' else 'in'} step {last.name}"
