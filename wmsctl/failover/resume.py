"""Settles what an interrupted wmsctl left open in the journal: finished, undone, or still not known.

Idempotent: every step may be run again, and an operation is closed only when its end is certain and a write
is proven.
"""

from __future__ import annotations

from dataclasses import replace

from wmsctl.deadline import Deadline
from wmsctl.errors import Unknown
from wmsctl.failover import plan as planning
from wmsctl.failover import settle
from wmsctl.failover.observe import KIND
from wmsctl.failover.plan import AlreadySo, Refusal
from wmsctl.failover.run import Result, Runner, close, refused, where
from wmsctl.failover.snapshot import Snapshot
from wmsctl.journal import Operation, Record
from wmsctl.steps import Steps

RESUME_POOLERS_S = 30.0


class Resumption:
    """Settles operations, `limit` seconds for each. The caller holds the journal's lock."""

    def __init__(self, runner: Runner, limit: float) -> None:
        self._runner = runner
        self._limit = limit

    def settle(self, op: Operation) -> Result:
        kind = op.kind.removeprefix(KIND)
        record = self._runner.journal.reopen(op)
        steps = Steps(record, self._runner.printer.progress)
        self._runner.printer.progress(f"settling {kind} of {op.started} by {op.operator}: {where(op)}")
        with self._runner.audit.mutation(f"failover resume {kind}", operation=op.id) as facts:
            if kind == "switchover":
                result = self._switchover(op, record, steps)
            elif kind == "promote":
                result = self._promotion(op, record)
            else:
                result = self._rejoin(op, record)
            facts["result"] = result.result
        return result

    def _switchover(self, op: Operation, record: Record, steps: Steps) -> Result:
        if op.reached("pause"):
            with steps.certain("resume", "resuming every pooler") as facts:
                resumed, away = self._runner.world.resume_poolers(min(RESUME_POOLERS_S, self._limit))
                facts.update(resumed=resumed, away=away)
            if away:
                raise Unknown(
                    f"the pooler on {', '.join(away)} does not answer, so it may still be paused",
                    hint=(
                        "bring it back (a restarted pooler is not paused), then again: wmsctl failover resume"
                    ),
                )
        if not op.reached("switch"):
            record.finish("undone", reason="interrupted before anything was switched")
            leader = str(op.plan["leader"])
            return Result(
                op.id, "switchover", "undone", f"nothing was switched: {leader} keeps the lead", leader
            )
        settled = settle.switchover(self._runner.world, op.plan, record.id, Deadline.after(self._limit))
        if settled is None:
            raise Unknown(
                f"the end of the switchover of {op.started} is not certain yet",
                hint="look at it (wmsctl status), then again: wmsctl failover resume",
            )
        close(record, settled, reason="settled by resume")
        lead = settled.lead
        return Result(
            op.id,
            "switchover",
            settled.result,
            f"{lead.name} leads on timeline {lead.timeline} and writes work",
            lead.name,
            lead.timeline,
            str(op.plan["leader"]),
            proofs=settled.proofs,
        )

    def _promotion(self, op: Operation, record: Record) -> Result:
        lead = self._runner.world.lead()
        if lead is not None:
            proofs = tuple(self._runner.world.prove(lead.name, record.id, Deadline.after(self._limit)))
            promoted = lead.timeline > int(op.plan["timeline"])
            record.finish("done" if promoted else "undone", leader=lead.name, timeline=lead.timeline)
            return Result(
                op.id,
                "promote",
                "done" if promoted else "undone",
                f"{lead.name} leads on timeline {lead.timeline} and writes work",
                lead.name,
                lead.timeline,
                str(op.plan["dead"]),
                proofs=proofs,
            )
        if not (op.reached("fence") or op.reached("manual-failover") or op.reached("await-leader")):
            record.finish("undone", reason="interrupted before anything was changed")
            return Result(
                op.id, "promote", "undone", "nothing was changed; there is no leader: wmsctl failover promote"
            )
        # The operator confirmed it then; each step may be run again. The rules are asked anew.
        snapshot = _without(
            self._runner.world.observe(heartbeats=bool(op.arguments["allow_data_loss"])), op.id
        )
        plan = planning.promote(
            snapshot,
            str(op.arguments["to"]),
            fence=bool(op.arguments["fence"]),
            allow_data_loss=bool(op.arguments["allow_data_loss"]),
        )
        if isinstance(plan, Refusal):
            raise refused(plan)
        if isinstance(plan, AlreadySo):
            record.finish("done", leader=plan.leader, reason="settled by resume")
            return self._runner.proven(plan, "promote", self._limit)
        return self._runner.apply_promotion(plan, record, self._limit)

    def _rejoin(self, op: Operation, record: Record) -> Result:
        node = str(op.plan["node"])
        snapshot = _without(self._runner.world.observe(power=node), op.id)
        # A rebuild that was asked for before is under way or done: it is not begun again.
        plan = planning.rejoin(snapshot, node)
        if isinstance(plan, Refusal):
            record.finish("failed", reason=plan.reason)
            raise refused(plan)
        if isinstance(plan, AlreadySo):
            if op.arguments.get("rebuild") and not op.completed("rebuild"):
                record.finish("undone", leader=plan.leader, reason="the rebuild was not begun for certain")
                again = (
                    f"{plan.message}; if it is still to be rebuilt: wmsctl failover rejoin {node} --rebuild"
                )
                return Result(op.id, "rejoin", "undone", again, plan.leader)
            record.finish("done", leader=plan.leader, reason="settled by resume")
            return self._runner.already(plan, "rejoin")
        return self._runner.apply_rejoin(plan, record, self._limit)


def _without(snapshot: Snapshot, operation: str) -> Snapshot:
    """The snapshot with this operation not counted as unfinished: it is the one that goes on."""
    return replace(snapshot, unfinished=tuple(u for u in snapshot.unfinished if u.id != operation))
