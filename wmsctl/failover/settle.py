"""Finds out how an interrupted or failed operation ended, and says so: done, undone, or not known yet.

The journal tells what may have happened, the platform what did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from wmsctl.deadline import Deadline
from wmsctl.errors import Unreachable
from wmsctl.failover.proof import Proof
from wmsctl.failover.world import Lead

POLL_S = 0.1
CALM_S = 2.0
"""So long the old leader has to lead without a pending request before a switchover counts as not done."""


class Settling(Protocol):
    """What is needed of the platform; `world.World` is the real one."""

    def pending(self) -> bool: ...
    def lead(self) -> Lead | None: ...
    def prove(self, leader: str, operation: str, deadline: Deadline) -> list[Proof]: ...
    def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True)
class Settled:
    """How it ended. `moved`: somebody else than intended leads now."""

    result: Literal["done", "undone", "moved"]
    lead: Lead
    proofs: tuple[Proof, ...]


def switchover(world: Settling, plan: Any, operation: str, deadline: Deadline) -> Settled | None:
    """The end of a switchover whose request may have reached Patroni; None when it is not certain by the
    deadline.

    `plan` has leader, candidate and timeline, as attributes or keys. A write is proven through every way in
    before anything is called ended. Raises Failed when somebody leads and a write cannot be proven.
    """
    old, candidate, timeline = (_get(plan, key) for key in ("leader", "candidate", "timeline"))
    calm = 0.0
    while True:
        lead, pending = _look(world)
        if lead is not None and lead.timeline > timeline:
            proofs = tuple(world.prove(lead.name, operation, deadline))
            return Settled("done" if lead.name == candidate else "moved", lead, proofs)
        calm = calm + POLL_S if lead is not None and lead.name == old and not pending else 0.0
        if lead is not None and calm >= CALM_S:
            return Settled("undone", lead, tuple(world.prove(lead.name, operation, deadline)))
        if deadline.expired:
            return None
        world.sleep(POLL_S)


def _look(world: Settling) -> tuple[Lead | None, bool]:
    """(who leads, whether a request for a switchover is pending); an unreachable store means not certain."""
    try:
        return world.lead(), world.pending()
    except Unreachable:
        return None, True


def _get(plan: Any, key: str) -> Any:
    return plan[key] if isinstance(plan, dict) else getattr(plan, key)
