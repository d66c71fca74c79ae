"""Applies a switchover plan: checkpoint, guard, pause, switch, prove, resume, verify.

Whatever happens between PAUSE and RESUME, the poolers are resumed: here, or by the guard when this process
cannot.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from wmsctl.deadline import Deadline, wait_until
from wmsctl.errors import Failed, Unknown
from wmsctl.failover.guard import Guard
from wmsctl.failover.plan import SwitchoverPlan
from wmsctl.failover.proof import Proof
from wmsctl.steps import Steps

STALL_LIMIT_S = 15.0
"""Longest time inside the pause before the poolers are resumed whatever the state: clients of the pooler wait
22 s (query_wait_timeout of the platform) before they see an error.
"""

GUARD_MARGIN_S = 2.0
SLOW_CHECKPOINT_S = 1.0
"""After a checkpoint that took longer, much may be dirty again: a second one is short and makes the stop
quick.
"""

POLL_S = 0.01
READS_S = 5.0
"""How long reads stay paused at most until every HAProxy has noticed that the candidate is no replica any
more.
"""


class Rigged(Protocol):
    """What the steps need of the platform; `rig.Rig` is the real one."""

    def checkpoint(self) -> float: ...
    def arm(self, timer: float) -> Guard: ...
    def pause(self, limit: float) -> None: ...
    def request(self) -> None: ...
    def refused(self) -> str: ...
    def promoted(self) -> int | None: ...
    def prove_proxies(self, deadline: Deadline) -> list[Proof]: ...
    def resume(self, *databases: str) -> list[str]: ...
    def reads_settled(self, deadline: Deadline) -> bool: ...
    def prove_poolers(self, deadline: Deadline) -> list[Proof]: ...
    def streams(self, member: str) -> bool: ...


@dataclass
class Outcome:
    """What a switchover did, as far as it came. Times in ms."""

    timeline: int | None = None
    switch_ms: float | None = None
    """From the request to the candidate out of recovery."""
    proxies_ms: float | None = None
    """From there to a write proven through every proxy."""
    proofs: tuple[Proof, ...] = ()
    guard_acted: bool = False
    not_resumed: tuple[str, ...] = ()
    old_leader_streams: bool = False
    old_leader_ms: float | None = None
    """From the request to the old leader streaming from the new one."""


def apply(
    plan: SwitchoverPlan,
    rig: Rigged,
    steps: Steps,
    outcome: Outcome,
    *,
    pause_s: float,
    deadline: Deadline,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Run the steps and fill in `outcome`.

    Raises PauseFailed when the poolers did not come to rest (nothing was changed), Failed or Unknown when a
    later step did not end well: the caller then looks who leads. `deadline` bounds the part after the pause
    began; the switch itself has at most STALL_LIMIT_S of it.
    """
    with steps.step("checkpoint", f"checkpoint on {plan.leader}") as facts:
        facts["seconds"] = [round(rig.checkpoint(), 3)]
        if facts["seconds"][0] > SLOW_CHECKPOINT_S:
            facts["seconds"].append(round(rig.checkpoint(), 3))
    with steps.step("guard", "starting the guard of the pause") as facts:
        guard = rig.arm(pause_s + STALL_LIMIT_S + READS_S + GUARD_MARGIN_S)
        facts["pid"] = guard.pid
    started = _inside(plan, rig, steps, outcome, guard, pause_s=pause_s, deadline=deadline, sleep=sleep)
    with steps.step("prove-poolers", "proving a write through every pooler") as facts:
        proofs = rig.prove_poolers(deadline.within(10.0))
        outcome.proofs += tuple(proofs)
        facts["proofs"] = [p.via for p in proofs]
    with steps.step("verify", f"waiting until {plan.leader} streams again") as facts:
        wait_until(
            lambda: rig.streams(plan.leader),
            deadline,
            0.1,
            f"{plan.leader} to stream from {plan.candidate}",
            hint=f"the switchover itself is done; bring it back: wmsctl failover rejoin {plan.leader}",
            sleep=sleep,
        )
        outcome.old_leader_streams = True
        outcome.old_leader_ms = facts["ms"] = _since(started)


def _inside(
    plan: SwitchoverPlan,
    rig: Rigged,
    steps: Steps,
    outcome: Outcome,
    guard: Guard,
    *,
    pause_s: float,
    deadline: Deadline,
    sleep: Callable[[float], None],
) -> float:
    """Everything between the start of the guard and its end; the monotonic time of the request."""
    resumed = False
    started = time.monotonic()
    try:
        try:
            with steps.step("pause", f"pausing {', '.join(plan.poolers)}", poolers=list(plan.poolers)):
                rig.pause(pause_s)
            limit = deadline.within(STALL_LIMIT_S)
            with steps.step("switch", f"switching over from {plan.leader} to {plan.candidate}") as facts:
                started = time.monotonic()
                rig.request()
                outcome.timeline = facts["timeline"] = _await(plan, rig, limit, sleep)
                outcome.switch_ms = facts["ms"] = _since(started)
            promoted = time.monotonic()
            with steps.step("prove-proxies", f"proving a write through {', '.join(plan.proxies)}") as facts:
                outcome.proofs = tuple(rig.prove_proxies(limit))
                outcome.proxies_ms = facts["ms"] = _since(promoted)
                _on_timeline(outcome)
        except BaseException:
            with steps.certain("resume", "resuming every pooler"):
                outcome.not_resumed = tuple(rig.resume())
                resumed = not outcome.not_resumed
            raise
        reads = {name for databases in plan.poolers.values() for name in databases} - {plan.write_database}
        with steps.certain("resume", "resuming the poolers"):
            troubles = rig.resume(plan.write_database)
            if reads:
                rig.reads_settled(deadline.within(READS_S))
                troubles += rig.resume(*sorted(reads))
            outcome.not_resumed = tuple(troubles)
            resumed = not troubles
    finally:
        if resumed:
            outcome.guard_acted = not guard.disarm()
        else:
            guard.release()
    if outcome.not_resumed:
        raise Unknown(
            f"not every pooler was seen running again: {'; '.join(outcome.not_resumed)}",
            hint=f"the guard (pid {guard.pid}) goes on trying; then finish: wmsctl failover resume",
        )
    return started


def _await(plan: SwitchoverPlan, rig: Rigged, limit: Deadline, sleep: Callable[[float], None]) -> int:
    """The candidate's new timeline. Raises Failed when Patroni declines, Unknown when time is up."""
    while True:
        timeline = rig.promoted()
        if timeline is not None and timeline > plan.timeline:
            return timeline
        refused = rig.refused()
        if refused:
            raise Failed(f"Patroni did not switch over: {refused}")
        if limit.expired:
            raise Unknown(f"{plan.candidate} was not promoted in time")
        sleep(POLL_S)


def _on_timeline(outcome: Outcome) -> None:
    """Raise Failed unless every proof was written on the candidate's new timeline."""
    wrong = [p for p in outcome.proofs if p.timeline != outcome.timeline]
    if wrong:
        raise Failed(
            f"the write through {wrong[0].via} landed on timeline {wrong[0].timeline}, expected"
            f" {outcome.timeline}",
            hint="see who leads: wmsctl status",
        )


def _since(moment: float) -> float:
    return round((time.monotonic() - moment) * 1000, 1)
