"""Applies a rejoin plan: power on, rebuild when asked or needed, wait until the member counts again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from wmsctl.clients.patroni import Answer, MemberStatus
from wmsctl.deadline import Deadline, wait_until
from wmsctl.errors import Failed, Unknown, Unreachable
from wmsctl.failover.plan import RejoinPlan
from wmsctl.failover.world import Lead
from wmsctl.hosts import Evidence
from wmsctl.steps import Steps

POLL_S = 0.25
BROKEN_S = 10.0
"""A member whose start fails again and again for so long does not come back by itself (Patroni rewinds at once)."""

WELL = ("running", "streaming", "in archive recovery", "creating replica")
"""States that end a series of failed starts; starting and stopped come in between."""

CYCLE_S = 15.0
AGENT_S = 30.0


class Rejoinable(Protocol):
    """What the steps need of the platform; `world.World` is the real one."""

    def fence(self, node: str, reason: str, deadline: Deadline) -> Evidence: ...
    def power_on(self, node: str, deadline: Deadline) -> tuple[str, ...]: ...
    def member(self, node: str) -> MemberStatus | None: ...
    def reinitialize(self, node: str) -> Answer: ...
    def lead(self) -> Lead | None: ...
    def streaming(self, leader: str) -> frozenset[str]: ...
    def sleep(self, seconds: float) -> None: ...


class Broken(Failed):
    """The member's PostgreSQL does not start."""


@dataclass
class Outcome:
    powered_on: bool = False
    power_cycled: bool = False
    rebuilt: bool = False
    leader: str = ""
    timeline: int | None = None
    streaming_ms: float | None = None
    """From the first step to streaming and counted for commits."""


def apply(
    plan: RejoinPlan,
    world: Rejoinable,
    steps: Steps,
    outcome: Outcome,
    *,
    deadline: Deadline,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run the steps and fill in `outcome`.

    Raises Broken when the member's PostgreSQL does not start with its data, Unknown when it does not
    stream by the deadline. Each step may be run again.
    """
    started = clock()
    if plan.power_on:
        with steps.step("power-on", f"powering on {plan.node}", node=plan.node) as facts:
            facts["programs"] = world.power_on(plan.node, deadline.within(AGENT_S))
            outcome.powered_on = True
    if plan.rebuild:
        rebuild(plan, world, steps, outcome, deadline=deadline)
    with steps.step("await-streaming", f"waiting until {plan.node} streams from {plan.leader}") as facts:
        lead = _await(plan, world, deadline, clock)
        outcome.leader, outcome.timeline = lead.name, lead.timeline
        facts.update(leader=lead.name, timeline=lead.timeline)
        outcome.streaming_ms = facts["ms"] = round((clock() - started) * 1000, 1)


def rebuild(
    plan: RejoinPlan, world: Rejoinable, steps: Steps, outcome: Outcome, *, deadline: Deadline
) -> None:
    """Have Patroni throw the member's data away and copy the leader's. Raises Failed when it declines."""
    with steps.step("rebuild", f"rebuilding {plan.node} from {plan.leader}", node=plan.node):
        wait_until(
            lambda: world.member(plan.node),
            deadline.within(AGENT_S),
            POLL_S,
            f"the agent on {plan.node}",
            error=Failed,
            hint=f"see its log, and: wmsctl node power-on {plan.node}",
            sleep=world.sleep,
        )
        answer = world.reinitialize(plan.node)
        if not answer.accepted:
            raise Failed(f"Patroni does not rebuild {plan.node}: {answer.text}", hint="see: wmsctl status")
        outcome.rebuilt = True


def power_cycle(
    plan: RejoinPlan, world: Rejoinable, steps: Steps, outcome: Outcome, *, deadline: Deadline
) -> None:
    """Kill every process of the node and start them again.

    For a start that fails because of what an earlier life left behind, such as a backend that outlived its
    postmaster and still holds the shared memory. The node does not lead and its PostgreSQL does not run: nothing
    is lost by it.
    """
    with steps.step("power-cycle", f"power-cycling {plan.node}", node=plan.node) as facts:
        world.fence(plan.node, f"power cycle of {steps.record.id}", deadline.within(CYCLE_S))
        facts["programs"] = world.power_on(plan.node, deadline.within(AGENT_S))
        outcome.power_cycled = True


def _await(plan: RejoinPlan, world: Rejoinable, deadline: Deadline, clock: Callable[[], float]) -> Lead:
    """Who the member streams from at last; the leader may have changed meanwhile, even to the member itself."""
    broken_since: float | None = None
    while True:
        lead = _lead(world)
        if lead is not None and lead.name == plan.node:
            return lead
        status = world.member(plan.node)
        # A member may not say its timeline; one that it says has to be the leader's.
        follows = lead is not None and status is not None and status.timeline in (None, lead.timeline)
        if lead is not None and follows and plan.node in world.streaming(lead.name):
            return lead
        if status is not None and (status.state == "crashed" or status.state.endswith("failed")):
            broken_since = clock() if broken_since is None else broken_since
        elif status is not None and status.state in WELL:
            broken_since = None
        if broken_since is not None and clock() - broken_since >= BROKEN_S:
            assert status is not None
            raise Broken(
                f"PostgreSQL on {plan.node} does not start with its data ({status.state})",
                hint=f"discard that data and copy it anew: wmsctl failover rejoin {plan.node} --rebuild",
            )
        if deadline.expired:
            state = "its agent does not answer" if status is None else f"PostgreSQL is {status.state}"
            raise Unknown(
                f"{plan.node} does not stream from {lead.name if lead else 'any leader'} yet ({state})",
                hint="watch it (wmsctl status --watch); a hopeless one:"
                f" wmsctl failover rejoin {plan.node} --rebuild",
            )
        world.sleep(POLL_S)


def _lead(world: Rejoinable) -> Lead | None:
    try:
        return world.lead()
    except Unreachable:
        return None
