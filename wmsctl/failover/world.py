"""Everything that the operations of this package do to a platform, in one place that tests can replace."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from wmsctl import hosts
from wmsctl.clients import postgres
from wmsctl.clients.connect import Clients
from wmsctl.clients.haproxy import haproxy_client
from wmsctl.clients.patroni import Answer, HistoryEntry, MemberStatus
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Unreachable, WmsctlError
from wmsctl.failover import observe, proof, rig
from wmsctl.failover.guard import insist
from wmsctl.failover.plan import SwitchoverPlan
from wmsctl.failover.poolers import PoolerControl
from wmsctl.failover.proof import Proof
from wmsctl.failover.snapshot import Snapshot
from wmsctl.hosts import Evidence
from wmsctl.inventory import Inventory
from wmsctl.journal import Journal, Record


@dataclass(frozen=True)
class Lead:
    """Who leads now, proven by the server itself being out of recovery."""

    name: str
    timeline: int


class World:
    """The platform of one inventory."""

    def __init__(self, inventory: Inventory, clients: Clients, journal: Journal) -> None:
        self.inventory = inventory
        self.clients = clients
        self.journal = journal
        self._power: hosts.Hosts | None = None
        self._etcd = clients.etcd()
        """Kept: a login to the store costs it a tenth of a second of computing."""

    def observe(self, *, heartbeats: bool = False, power: str = "") -> Snapshot:
        """A snapshot; with `power` also whether that node is fenced."""

        def off() -> frozenset[str]:
            fenced = (
                bool(power)
                and self.inventory.hosts is not None
                and self.power().prove_dead(power).powered_off
            )
            return frozenset({power}) if fenced else frozenset()

        return observe.snapshot(
            self.inventory,
            self.clients,
            self.journal,
            self._etcd,
            heartbeats=heartbeats,
            powered_off=off if power else None,
        )

    def power(self) -> hosts.Hosts:
        """The power control of the nodes. Raises Usage where there is none."""
        if self._power is None:
            self._power = hosts.driver(self.inventory)
        return self._power

    def rig(self, plan: SwitchoverPlan, record: Record) -> rig.Rig:
        """The connections of a switchover, not yet opened."""
        return rig.Rig(self.inventory, self.clients, plan, record.id, str(record.path))

    def fence(self, node: str, reason: str, deadline: Deadline) -> Evidence:
        """Power the node off and prove it dead. Raises Failed when it cannot be proven."""
        return self.power().kill(node, reason=reason, deadline=deadline)

    def power_on(self, node: str, deadline: Deadline) -> tuple[str, ...]:
        return self.power().power_on(node, deadline=deadline)

    def delete_leader(self, holder: str, revision: int) -> bool:
        """Delete the leader key if it is still `holder`'s, unchanged since `revision`; False when it is
        not.
        """
        found = self._etcd.leader()
        if found is None or found.value != holder or found.mod_revision != revision:
            return False
        return self._etcd.delete_leader(found)

    def lead(self) -> Lead | None:
        """The holder of the lease whose server is out of recovery; None while there is none. Raises
        Unreachable when the store does not answer.
        """
        key = self._etcd.leader(timeout=1.0)
        if key is None:
            return None
        member = next((m for m in self.inventory.postgres.members if m.node == key.value), None)
        if member is None:
            return None
        try:
            found = self.clients.postgres(member).query(rig.PROMOTED, timeout=2.0)
        except (Unreachable, Failed):
            return None
        return Lead(key.value, int(found[0][0])) if found[0][0] is not None else None

    def pending(self) -> bool:
        """Whether a request for a switchover is in the store, not yet dealt with. Raises Unreachable."""
        request = self._etcd.keys(timeout=1.0)[0].get("failover")
        return request is not None and request.value.strip() not in ("", "{}")

    def failover(self, candidate: str) -> Answer:
        """Patroni's manual failover by name, which checks nothing. Raises Unreachable."""
        member = self.clients.patroni_member(self.inventory.member(candidate))
        try:
            return member.failover(candidate, timeout=40.0)
        finally:
            member.close()

    def member(self, node: str) -> MemberStatus | None:
        """What the member says of itself, None when its agent does not answer."""
        member = self.clients.patroni_member(self.inventory.member(node))
        try:
            return member.status(timeout=1.5)
        except (Unreachable, Failed):
            return None
        finally:
            member.close()

    def reinitialize(self, node: str) -> Answer:
        member = self.clients.patroni_member(self.inventory.member(node))
        try:
            return member.reinitialize(force=True)
        finally:
            member.close()

    def prove(self, leader: str, operation: str, deadline: Deadline) -> list[Proof]:
        """A proof of a write through every proxy and every pooler at once. Raises Failed naming the first
        that gave none.
        """
        proxies = rig.proxy_ways(self.inventory, self.clients)
        poolers = rig.pooler_ways(self.inventory, self.clients)
        clients = {s.node: haproxy_client(self.inventory, s) for s in self.inventory.proxies.stats}
        with ThreadPoolExecutor(max_workers=len(proxies) + len(poolers)) as pool:
            jobs = [
                pool.submit(rig.prove_proxy, clients[name], way, leader, operation, deadline)
                for name, way in proxies.items()
            ]
            jobs += [
                pool.submit(proof.until, _attempt(way, operation), deadline, way.name)
                for way in poolers.values()
            ]
        for client in clients.values():
            client.close()
        return [job.result() for job in jobs]

    def resume_poolers(self, seconds: float) -> tuple[dict[str, list[str]], list[str]]:
        """Resume everything that is paused on any pooler; (what was paused, poolers not reached)."""
        controls = [PoolerControl(client) for client in self.clients.pgbouncers()]
        try:
            return insist(controls, seconds=seconds)
        finally:
            for control in controls:
                control.close()

    def streaming(self, leader: str) -> frozenset[str]:
        """Members that stream from `leader` and count for commits; empty when it does not answer."""
        with suppress(WmsctlError):
            with self.clients.postgres(self.inventory.member(leader)).connect(
                timeout=2.0, limit=3.0
            ) as connection:
                found = postgres.replication(connection)
            return frozenset(
                r.name for r in found if r.state == "streaming" and r.sync_state in ("quorum", "sync")
            )
        return frozenset()

    def history(self) -> tuple[HistoryEntry, ...]:
        patroni = self.clients.patroni()
        try:
            return patroni.history()
        finally:
            patroni.close()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def _attempt(way: rig.Way, operation: str) -> Callable[[float], Proof]:
    return lambda limit: rig.attempt(way, operation, limit, connect=limit)
