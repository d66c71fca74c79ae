"""The connections of a switchover, all opened before the pause: nothing slow happens inside it.

Each one is used by one thread at a time; the threads are started beforehand, too.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from wmsctl.clients import postgres
from wmsctl.clients.connect import Clients
from wmsctl.clients.haproxy import HAProxy, Routes, haproxy_client
from wmsctl.clients.patroni import Answer
from wmsctl.clients.postgres import Server, severed_after
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Unreachable, WmsctlError
from wmsctl.failover import guard, proof
from wmsctl.failover.guard import Guard
from wmsctl.failover.plan import SwitchoverPlan
from wmsctl.failover.poolers import Pause, PoolerControl, entry
from wmsctl.failover.proof import Proof
from wmsctl.inventory import Inventory

WRITE_LISTENER, READ_LISTENER = "write", "read"
"""HAProxy's listeners; without listeners of these names there is no look at the routes, only attempts."""

LOOK_S = 0.02
"""Interval of the looks inside the pause."""

PROMOTED = """
SELECT CASE WHEN pg_is_in_recovery() THEN NULL
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END
"""


@dataclass(frozen=True)
class Way:
    """A way in that writes take: its name in proofs, and how to connect."""

    name: str
    server: Server


def proxy_ways(inventory: Inventory, clients: Clients) -> dict[str, Way]:
    """HAProxy node → its write port."""
    return {
        stats.node: Way(
            f"{stats.node}:{inventory.proxies.write_port}",
            Server(
                f"the write port of {stats.node}",
                stats.address,
                inventory.proxies.write_port,
                database=inventory.postgres.database,
                login=inventory.postgres.operator,
                secrets=clients.secrets,
                ca=inventory.ca,
            ),
        )
        for stats in inventory.proxies.stats
    }


def pooler_ways(inventory: Inventory, clients: Clients) -> dict[str, Way]:
    """PgBouncer node → its write database."""
    return {
        pooler.node: Way(f"{pooler.node}:{pooler.port}", clients.pooled(pooler))
        for pooler in inventory.pools.poolers
    }


def attempt(way: Way, operation: str, limit: float, *, connect: float = 2.0) -> Proof:
    """One proof on a connection of its own. Raises Failed, Unreachable."""
    connection = way.server.open(timeout=min(connect, limit), statement_timeout=limit)
    try:
        with way.server.translated():
            return proof.write(connection, way.name, operation, limit=limit)
    finally:
        connection.close()


def settled(client: HAProxy, leader: str, deadline: Deadline) -> bool:
    """Wait until this HAProxy sends writes to `leader` and to nobody else; False when it does not say or time
    is up.

    A connection made earlier could reach the old primary, refused or read only, and cost HAProxy's own
    retries.
    """
    while not deadline.expired:
        try:
            routes: Routes = client.routes(timeout=max(0.1, min(1.0, deadline.remaining())))
        except (Failed, Unreachable):
            return False
        if not any(listener == WRITE_LISTENER for listener, _ in routes.states):
            return False
        if routes.up(WRITE_LISTENER) == (leader,):
            return True
        time.sleep(LOOK_S)
    return False


def prove_proxy(client: HAProxy, way: Way, leader: str, operation: str, deadline: Deadline) -> Proof:
    """A proof through one HAProxy's write port by the deadline. Raises Failed."""
    settled(client, leader, deadline)
    return proof.until(lambda limit: attempt(way, operation, limit), deadline, way.name)


@dataclass
class Rig:
    """See the module. `prepare` opens, `close` closes; between them the steps of one switchover."""

    inventory: Inventory
    clients: Clients
    plan: SwitchoverPlan
    operation: str
    journal: str
    executor: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(max_workers=16))
    _opened: list[Any] = field(default_factory=list)
    _answer: Future[Answer] | None = None

    def prepare(self) -> None:
        """Open everything, in parallel. Raises Unreachable, Failed: then nothing was changed."""
        inventory, clients, plan = self.inventory, self.clients, self.plan
        barrier = [self.executor.submit(time.sleep, 0.005) for _ in range(16)]  # starts the threads
        self.controls = [
            PoolerControl(client) for client in clients.pgbouncers() if client.name in plan.poolers
        ]
        self.pause_of_all = Pause(self.controls, plan.poolers, self.executor, plan.write_database)
        self.proxies: dict[str, HAProxy] = {
            s.node: haproxy_client(inventory, s) for s in inventory.proxies.stats
        }
        self.proxy_ways = proxy_ways(inventory, clients)
        self.pooler_ways = pooler_ways(inventory, clients)
        self.leader_api = clients.patroni_member(inventory.member(plan.leader))
        self._candidate_server = clients.postgres(inventory.member(plan.candidate))
        self._sessions: dict[str, Any] = {}
        wait(barrier)
        jobs: list[Future[Any]] = [self.executor.submit(control.look) for control in self.controls]
        jobs += [self.executor.submit(proxy.routes) for proxy in self.proxies.values()]
        jobs.append(self.executor.submit(self.leader_api.status, timeout=2.0))
        opening = self.executor.submit(self._candidate_server.open)
        sessions = {name: self.executor.submit(way.server.open) for name, way in self.pooler_ways.items()}
        troubles: list[WmsctlError] = []
        for job in [*jobs, opening, *sessions.values()]:
            try:
                job.result()
            except WmsctlError as error:
                troubles.append(error)
        if troubles:
            raise troubles[0]
        self._candidate = opening.result()
        self._sessions = {name: job.result() for name, job in sessions.items()}
        self._opened = [
            self._candidate,
            *self._sessions.values(),
            *self.controls,
            *self.proxies.values(),
            self.leader_api,
        ]

    def checkpoint(self) -> float:
        """CHECKPOINT on the leader; seconds that it took."""
        started = time.monotonic()
        server = self.clients.superuser(self.inventory.member(self.plan.leader))
        with server.connect(statement_timeout=0, limit=120.0) as connection:
            postgres.checkpoint(connection)
        return time.monotonic() - started

    def arm(self, timer: float) -> Guard:
        """Start the guard; it is ready when this returns."""
        login = self.inventory.pools.admin
        password = self.clients.secrets.of(login).reveal()
        poolers = [
            entry(p.node, p.address, p.port, login.user, password, self.inventory.ca)
            for p in self.inventory.pools.poolers
            if p.node in self.plan.poolers
        ]
        return guard.start(poolers, timer=timer, journal=self.journal)

    def pause(self, limit: float) -> None:
        """Raises PauseFailed."""
        self.pause_of_all.begin(limit)

    def request(self) -> None:
        """Send the request for the switchover, without waiting for Patroni's answer (it comes seconds after the
        deed).
        """
        answer: Future[Answer] = Future()

        def ask() -> None:
            try:
                answer.set_result(
                    self.leader_api.switchover(self.plan.leader, self.plan.candidate, timeout=40.0)
                )
            except WmsctlError as error:
                answer.set_exception(error)

        # No thread of the pool: those are joined at exit, and an answer that never comes must not hold that up.
        threading.Thread(target=ask, name="switchover request", daemon=True).start()
        self._answer = answer

    def refused(self) -> str:
        """What Patroni said if it declined; empty while it works or when it is content."""
        if self._answer is None or not self._answer.done():
            return ""
        try:
            answer = self._answer.result()
        except WmsctlError as error:
            return error.message
        return "" if answer.accepted else answer.text

    def promoted(self) -> int | None:
        """The candidate's timeline once it is out of recovery."""
        with self._candidate_server.translated(), severed_after(self._candidate, 2.0):
            return postgres.rows(self._candidate, PROMOTED)[0][0]  # type: ignore[no-any-return]

    def prove_proxies(self, deadline: Deadline) -> list[Proof]:
        """A proof through every HAProxy at once. Raises Failed."""
        jobs = [
            self.executor.submit(
                prove_proxy, client, self.proxy_ways[name], self.plan.candidate, self.operation, deadline
            )
            for name, client in self.proxies.items()
        ]
        return _all(jobs)

    def resume(self, *databases: str) -> list[str]:
        """Resume (everything without names); troubles by pooler."""
        return self.pause_of_all.end(*databases)

    def reads_settled(self, deadline: Deadline) -> bool:
        """Wait until no HAProxy sends reads to the candidate any more: sessions it has there end when it
        notices.
        """

        def gone(client: HAProxy) -> bool:
            while not deadline.expired:
                try:
                    routes = client.routes()
                except (Failed, Unreachable):
                    return False
                if self.plan.candidate not in routes.up(READ_LISTENER):
                    return True
                time.sleep(LOOK_S)
            return False

        return all(_all([self.executor.submit(gone, client) for client in self.proxies.values()]))

    def prove_poolers(self, deadline: Deadline) -> list[Proof]:
        """A proof through every pooler, on the session that was opened before the pause. Raises Failed."""

        def prove(name: str) -> Proof:
            way, session = self.pooler_ways[name], self._sessions[name]
            try:
                with way.server.translated():
                    return proof.write(
                        session, way.name, self.operation, limit=max(0.1, deadline.remaining())
                    )
            except Unreachable as error:
                raise Failed(f"a session through {way.name} did not survive: {error.message}") from error

        return _all([self.executor.submit(prove, name) for name in self.pooler_ways])

    def streams(self, member: str) -> bool:
        """Whether the new leader streams to `member`."""
        with self._candidate_server.translated(), severed_after(self._candidate, 2.0):
            found = postgres.replication(self._candidate)
        return any(row.name == member and row.state == "streaming" for row in found)

    def blockers(self, pids: list[int]) -> list[str]:
        """Who holds the transactions of these backends of the leader: no text of a statement, it may hold
        values.
        """
        server = self.clients.superuser(self.inventory.member(self.plan.leader))
        found = server.query(
            "SELECT pid, usename, application_name, state, extract(epoch FROM clock_timestamp() -"
            " xact_start)::float8,"
            " split_part(ltrim(query), ' ', 1) FROM pg_stat_activity WHERE pid = ANY(%s) AND"
            " xact_start IS NOT NULL"
            " ORDER BY xact_start",
            (pids,),
        )
        return [
            f"pid {pid} of {user} ({application or 'no name'}): {state} for {age:.1f} s, last"
            f" {verb.upper()[:12] or '?'}"
            for pid, user, application, state, age, verb in found
        ]

    def close(self) -> None:
        """Close everything; never raises."""
        for thing in self._opened:
            with suppress(Exception):
                thing.close()
        self.executor.shutdown(wait=False, cancel_futures=True)


def _all(jobs: list[Future[Any]]) -> list[Any]:
    """The results of all; the first error once all have ended."""
    wait(jobs)
    return [job.result() for job in jobs]
