"""Applies a promotion plan: fence, end the lease, wait for the new leader, prove.

The lease is ended early only on the proof that its holder is dead and stays so, and only if the store still
holds exactly the lock that was seen: then Patroni's own quorum race decides who leads, as it would have after
the lease had run out.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Protocol

from wmsctl.clients.patroni import Answer
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Unknown, Unreachable, WmsctlError
from wmsctl.failover.plan import PromotePlan
from wmsctl.failover.proof import Proof
from wmsctl.failover.world import Lead
from wmsctl.hosts import Evidence
from wmsctl.steps import Steps

FENCE_S = 15.0
PROVE_AFTER_LOSS_S = 10.0
POLL_S = 0.02


class Promotable(Protocol):
    """What the steps need of the platform; `world.World` is the real one."""

    def fence(self, node: str, reason: str, deadline: Deadline) -> Evidence: ...
    def delete_leader(self, holder: str, revision: int) -> bool: ...
    def failover(self, candidate: str) -> Answer: ...
    def lead(self) -> Lead | None: ...
    def prove(self, leader: str, operation: str, deadline: Deadline) -> list[Proof]: ...
    def sleep(self, seconds: float) -> None: ...


@dataclass
class Outcome:
    """What a promotion did, as far as it came. Times in ms since its first step."""

    fenced_ms: float | None = None
    released_ms: float | None = None
    """The lease was ended by us."""
    leader: str = ""
    timeline: int | None = None
    leader_ms: float | None = None
    proven_ms: float | None = None
    proofs: tuple[Proof, ...] = ()
    recovered: bool = False
    """The old primary came back by itself before its lease ran out: nobody was promoted."""


def apply(
    plan: PromotePlan, world: Promotable, steps: Steps, outcome: Outcome, *, deadline: Deadline
) -> None:
    """Run the steps and fill in `outcome`.

    Raises Failed when the node cannot be proven dead (its lease is then left alone) or when Patroni declines,
    Unknown when there is no new leader by the deadline. Each step may be run again.
    """
    started = time.monotonic()
    if plan.fence:
        _fence(plan, world, steps, outcome, started, deadline)
    asked = _ask(plan, world, steps) if plan.manual else None
    with steps.step("await-leader", f"waiting for a new leader ({plan.expected} is expected)") as facts:
        lead = _await(plan, world, asked, deadline)
        outcome.leader, outcome.timeline = lead.name, lead.timeline
        outcome.recovered = lead.timeline <= plan.timeline
        outcome.leader_ms = _since(started)
        facts.update(leader=lead.name, timeline=lead.timeline, ms=outcome.leader_ms)
    with steps.step(
        "prove", f"{lead.name} leads on timeline {lead.timeline}; proving a write through every way in"
    ) as facts:
        outcome.proofs = _prove(plan, lead, world, steps, deadline)
        _check(outcome)
        outcome.proven_ms = facts["ms"] = _since(started)


def _prove(
    plan: PromotePlan, lead: Lead, world: Promotable, steps: Steps, deadline: Deadline
) -> tuple[Proof, ...]:
    """Prove writes. After a promotion past Patroni's checks a standby may be missing, and without one nothing is
    acknowledged: that is told soon, with what helps.
    """
    if plan.loss is None:
        return tuple(world.prove(lead.name, steps.record.id, deadline))
    try:
        return tuple(world.prove(lead.name, steps.record.id, deadline.within(PROVE_AFTER_LOSS_S)))
    except Failed as error:
        raise Failed(
            f"{lead.name} leads on timeline {lead.timeline}, and writes are not acknowledged yet: {error.message}",
            hint="a commit wants a synchronous standby: bring a member back (wmsctl node power-on NODE, then"
            " wmsctl failover rejoin NODE), then wmsctl failover resume",
        ) from error


def _fence(
    plan: PromotePlan, world: Promotable, steps: Steps, outcome: Outcome, started: float, deadline: Deadline
) -> None:
    with steps.step("fence", f"fencing {plan.dead}", node=plan.dead) as facts:
        evidence = world.fence(plan.dead, f"promotion {steps.record.id}", deadline.within(FENCE_S))
        facts["evidence"] = evidence
        if not evidence.dead:
            raise Failed(
                f"{plan.dead} is not proven dead: {'; '.join(evidence.doubts)}; its lease was left alone",
                hint="without --fence the promotion waits for the lease to run out",
            )
        outcome.fenced_ms = facts["ms"] = _since(started)
    if plan.revision is None:
        return
    with steps.step("end-lease", f"ending the lease of {plan.dead}", revision=plan.revision) as facts:
        try:
            facts["deleted"] = world.delete_leader(plan.dead, plan.revision)
        except Unreachable as error:
            # Deleted or not, the race starts at the latest when the lease runs out: go on and look.
            facts["unknown"] = error.message
        else:
            outcome.released_ms = _since(started) if facts["deleted"] else None


class _Asked:
    """A manual failover asked for in the background: Patroni answers seconds after the deed."""

    def __init__(self, world: Promotable, candidate: str) -> None:
        self.refused = ""
        threading.Thread(target=self._run, args=(world, candidate), daemon=True).start()

    def _run(self, world: Promotable, candidate: str) -> None:
        try:
            answer = world.failover(candidate)
        except WmsctlError as error:
            self.refused = error.message
            return
        if not answer.accepted:
            self.refused = answer.text


def _ask(plan: PromotePlan, world: Promotable, steps: Steps) -> _Asked:
    with steps.step("manual-failover", f"asking Patroni for {plan.expected} by name", loss=str(plan.loss)):
        return _Asked(world, plan.expected)


def _await(plan: PromotePlan, world: Promotable, asked: _Asked | None, deadline: Deadline) -> Lead:
    trouble = ""
    while True:
        try:
            lead = world.lead()
        except Unreachable as error:
            lead, trouble = None, f" ({error.message})"
        # The same timeline under the old name is the old primary, alive after all.
        if lead is not None and (lead.timeline > plan.timeline or lead.name == plan.dead):
            return lead
        if asked is not None and asked.refused:
            raise Failed(
                f"Patroni did not fail over to {plan.expected}: {asked.refused}", hint="see: wmsctl status"
            )
        if deadline.expired:
            raise Unknown(
                f"no new leader in time{trouble}",
                hint="look at it (wmsctl status), then: wmsctl failover resume",
            )
        world.sleep(min(POLL_S, deadline.remaining()))


def _check(outcome: Outcome) -> None:
    wrong = [p for p in outcome.proofs if p.timeline != outcome.timeline]
    if wrong:
        raise Failed(
            f"the write through {wrong[0].via} landed on timeline {wrong[0].timeline}, expected"
            f" {outcome.timeline}",
            hint="see who leads: wmsctl status",
        )


def _since(moment: float) -> float:
    return round((time.monotonic() - moment) * 1000, 1)
