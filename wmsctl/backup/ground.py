"""The cluster under a restore in place: its agents stopped and started, its store cleared of what is no longer true."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from wmsctl.clients.supervisor import Supervisor
from wmsctl.deadline import Deadline, wait_until
from wmsctl.errors import Failed, Unreachable, Usage, WmsctlError
from wmsctl.failover import proof

if TYPE_CHECKING:
    from wmsctl.clients.connect import Clients

AGENT = "patroni"
"""Process of a node that runs PostgreSQL."""
STALE = ("sync", "status", "failover", "leader")
"""Keys below the cluster's prefix that speak of commits which the restored data do not have: who has them all, and how
far they went. No member could lead by them. What stays: initialize, config, history.
"""
POLL_S = 0.25
STOP_S = 120.0
LEAD_S = 120.0
PROVE_S = 60.0
STUCK_S = 20.0
"""A member that has not begun to follow after so long is copied anew."""


class Ground:
    """The local target's cluster."""

    def __init__(self, clients: Clients) -> None:
        self._clients, self._inventory = clients, clients.inventory
        if self._inventory.hosts is None:
            raise Usage("only a platform on the local target can be restored in place")
        self._supervisor = Supervisor(self._inventory.hosts.supervisor)

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(member.node for member in self._inventory.postgres.members)

    def leader(self) -> str:
        """Who leads; empty when nobody does, or nobody can be asked."""
        try:
            found = self._clients.patroni().cluster().leader
        except Unreachable:
            return ""
        return found.name if found is not None and found.healthy else ""

    def paused(self) -> bool:
        with suppress(Unreachable):
            return self._clients.patroni().paused()
        return False

    def stop(self, node: str, deadline: Deadline) -> None:
        """Stop the agent and with it PostgreSQL, cleanly, and wait for it."""
        name = f"{node}.{AGENT}"
        self._supervisor.stop(name)
        wait_until(
            lambda: self._state(name) in ("STOPPED", "EXITED", "FATAL"),
            deadline.within(STOP_S),
            POLL_S,
            f"the end of {name}",
            error=Failed,
        )

    def start(self, node: str) -> None:
        """Start the agent without waiting."""
        if self._state(f"{node}.{AGENT}") not in ("RUNNING", "STARTING"):
            self._supervisor.start(f"{node}.{AGENT}")

    def forget(self) -> tuple[str, ...]:
        """Remove the stale keys from the store; which there were. Raises Unreachable without its quorum."""
        etcd = self._clients.etcd()
        found, _ = etcd.keys()
        gone = []
        for name in STALE:
            if name not in found:
                continue
            for member in etcd.members:
                with suppress(Unreachable, Failed):
                    member.delete_if_unchanged(found[name])
                    break
            gone.append(name)
        left, _ = etcd.keys()
        still = [name for name in STALE if name in left]
        if still:
            raise Failed(
                f"the store still holds {', '.join(still)}", hint="run it again: it goes on from here"
            )
        return tuple(gone)

    def led_by(self, node: str, deadline: Deadline) -> int:
        """Wait until `node` leads and takes writes; its timeline."""
        member = self._clients.patroni_member(self._inventory.member(node))

        def leads() -> int | None:
            with suppress(WmsctlError):
                if member.is_primary(timeout=2):
                    return member.status(timeout=2).timeline
            return None

        return wait_until(
            leads, deadline.within(LEAD_S), POLL_S, f"{node} to lead", hint="see: wmsctl status"
        )

    def follow(self, leader: str, deadline: Deadline) -> tuple[str, ...]:
        """Wait until every member that is on streams from `leader`; those that had to be copied anew."""
        rebuilt: list[str] = []
        begun = time.monotonic()

        def whole() -> bool:
            try:
                cluster = self._clients.patroni().cluster()
            except Unreachable:
                return False
            lead = cluster.get(leader)
            missing = []
            for node in self.members:
                state = cluster.get(node)
                well = (
                    state is not None
                    and state.state == "streaming"
                    and lead
                    and state.timeline == lead.timeline
                )
                if node != leader and not well:
                    missing.append(node)
            if time.monotonic() - begun > STUCK_S:
                for node in missing:
                    if node not in rebuilt:
                        with suppress(WmsctlError):
                            self._clients.patroni().member(node).reinitialize(force=True)
                            rebuilt.append(node)
            return not missing

        wait_until(whole, deadline, POLL_S, "the replicas to stream", hint="see: wmsctl status; run it again")
        return tuple(rebuilt)

    def prove(self, operation: str, deadline: Deadline) -> tuple[proof.Proof, ...]:
        """A write through every pooler, on the new timeline."""
        found = []
        for pooler in self._inventory.pools.poolers:
            server = self._clients.pooled(pooler)
            via = f"{pooler.node}:{pooler.port}"

            def attempt(limit: float) -> proof.Proof:
                with server.connect(timeout=2, limit=limit + 1) as connection:  # noqa: B023
                    return proof.write(connection, via, operation, limit=limit)  # noqa: B023

            found.append(proof.until(attempt, deadline.within(PROVE_S), via, interval=0.2))
        return tuple(found)

    def _state(self, name: str) -> str:
        for program in self._supervisor.programs():
            if program.name == name:
                return program.state
        raise Failed(f"the supervisor knows no program {name}", hint="bring the platform up (make up)")
