"""Patroni's REST API: the cluster as its members see it, and the actions it offers.

Reads need no login, writes carry basic authentication. `Patroni` asks whichever member answers;
`PatroniMember` speaks to one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from wmsctl.clients.http import Http, Response
from wmsctl.errors import Failed, Unreachable
from wmsctl.inventory import Inventory, Member
from wmsctl.secrets import Secrets

T = TypeVar("T")

LEADERS = ("leader", "standby_leader")
SYNCHRONOUS = ("sync_standby", "quorum_standby")


@dataclass(frozen=True)
class MemberState:
    """One member as the cluster document shows it. Lag in bytes of WAL, None when unknown."""

    name: str
    role: str
    """leader, standby_leader, sync_standby, quorum_standby or replica."""
    state: str
    """running or streaming when well; starting, stopped, crashed, in archive recovery…"""
    address: str = ""
    port: int = 0
    timeline: int | None = None
    lag: int | None = None
    receive_lag: int | None = None
    replay_lag: int | None = None
    receive_lsn: str = ""
    replay_lsn: str = ""
    pending_restart: bool = False
    tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_leader(self) -> bool:
        return self.role in LEADERS

    @property
    def is_synchronous(self) -> bool:
        return self.role in SYNCHRONOUS

    @property
    def healthy(self) -> bool:
        """PostgreSQL runs, and a replica streams (Patroni reports the replication state there)."""
        return self.state in ("running", "streaming")

    @property
    def nofailover(self) -> bool:
        return bool(self.tags.get("nofailover"))


@dataclass(frozen=True)
class ScheduledSwitchover:
    at: str
    leader: str
    candidate: str


@dataclass(frozen=True)
class ClusterState:
    """The cluster at one moment, as one member read it from the store."""

    scope: str
    members: tuple[MemberState, ...]
    paused: bool = False
    scheduled: ScheduledSwitchover | None = None
    source: str = ""
    """The member that gave this view."""

    @property
    def leader(self) -> MemberState | None:
        return next((member for member in self.members if member.is_leader), None)

    @property
    def replicas(self) -> tuple[MemberState, ...]:
        return tuple(member for member in self.members if not member.is_leader)

    def get(self, name: str) -> MemberState | None:
        return next((member for member in self.members if member.name == name), None)


@dataclass(frozen=True)
class HistoryEntry:
    """A change of the timeline: it ended at `lsn` (bytes) and `new_leader` began the next one."""

    timeline: int
    lsn: int
    reason: str
    at: str = ""
    new_leader: str = ""


@dataclass(frozen=True)
class MemberStatus:
    """What one member says of itself (GET /patroni). WAL positions in bytes."""

    name: str
    role: str
    """primary, standby_leader or replica."""
    state: str
    timeline: int | None = None
    wal: int | None = None
    """The primary's flush position."""
    received: int | None = None
    replayed: int | None = None
    replay_paused: bool | None = None
    synchronous: bool = False
    cluster_unlocked: bool = False
    """No member holds the leader lock."""
    failsafe: bool = False
    paused: bool = False
    server_version: int | None = None
    pending_restart: bool = False
    dcs_last_seen: int | None = None
    """Epoch seconds of the member's last contact with the store."""


@dataclass(frozen=True)
class Answer:
    """What Patroni said to a request for an action. `accepted` only says that it took the request or finished
    it by its own account: prove the result by looking.
    """

    accepted: bool
    status: int
    text: str


class PatroniMember:
    """The REST API of one member. One connection; not for several threads at once."""

    def __init__(self, member: Member, http: Http) -> None:
        self.member = member
        self.name = member.node
        self.http = http

    def cluster(self, *, timeout: float | None = None) -> ClusterState:
        """Raises Unreachable."""
        return parse_cluster(self.http.get("/cluster", timeout=timeout).json(), self.name)

    def status(self, *, timeout: float | None = None) -> MemberStatus:
        """What this member says of itself; it answers so in any state of PostgreSQL. Raises Unreachable."""
        return parse_status(
            self.http.request("GET", "/patroni", timeout=timeout, expect=(200, 503)).json(), self.name
        )

    def history(self, *, timeout: float | None = None) -> tuple[HistoryEntry, ...]:
        """Timeline changes, oldest first."""
        return parse_history(self.http.get("/history", timeout=timeout).json())

    def config(self, *, timeout: float | None = None) -> dict[str, Any]:
        """The dynamic configuration in the store."""
        document: dict[str, Any] = self.http.get("/config", timeout=timeout).json()
        return document

    def patch_config(self, change: Mapping[str, Any]) -> dict[str, Any]:
        """Merge `change` into the dynamic configuration (None removes a key); the new configuration."""
        document: dict[str, Any] = self.http.request("PATCH", "/config", body=change).json()
        return document

    def is_primary(self, *, timeout: float | None = None) -> bool:
        """Whether it runs as primary and holds the leader lock (the check that HAProxy uses)."""
        return self.http.get("/primary", timeout=timeout, expect=None).status == 200

    def switchover(self, leader: str, candidate: str, *, timeout: float) -> Answer:
        """Ask for a switchover from `leader` to `candidate`. Patroni answers when it is over, or after its
        own limit.

        Raises Unreachable when no answer came in time: then the outcome is unknown.
        """
        return self._act("POST", "/switchover", {"leader": leader, "candidate": candidate}, timeout)

    def failover(self, candidate: str, *, timeout: float) -> Answer:
        """Ask for a failover to `candidate`. Patroni checks neither lag nor synchronous state when there is
        no leader.
        """
        return self._act("POST", "/failover", {"candidate": candidate}, timeout)

    def restart(self, *, timeout: float, restart_timeout_s: int | None = None) -> Answer:
        """Restart PostgreSQL on this member."""
        body = {} if restart_timeout_s is None else {"timeout": restart_timeout_s}
        return self._act("POST", "/restart", body, timeout)

    def reinitialize(
        self, *, force: bool = False, from_leader: bool = False, timeout: float = 10.0
    ) -> Answer:
        """Start rebuilding this replica from another member; returns when it has begun."""
        return self._act("POST", "/reinitialize", {"force": force, "from_leader": from_leader}, timeout)

    def reload(self, *, timeout: float = 10.0) -> Answer:
        """Reload the configuration."""
        return self._act("POST", "/reload", {}, timeout)

    def close(self) -> None:
        self.http.close()

    def _act(self, method: str, path: str, body: Mapping[str, Any], timeout: float) -> Answer:
        response: Response = self.http.request(method, path, body=body, timeout=timeout, expect=None)
        if response.status == 401:
            raise Failed(
                f"Patroni on {self.name} refuses the login of wmsctl",
                hint="the secret patroni/rest is stale: bring the platform up again (make up)",
            )
        return Answer(response.status in (200, 202), response.status, " ".join(response.text.split())[:500])


class Patroni:
    """The cluster, through whichever member answers first in the order of the inventory (the last good one is
    tried first).
    """

    def __init__(self, members: tuple[PatroniMember, ...]) -> None:
        self.members = members
        self._order = list(members)

    def member(self, name: str) -> PatroniMember:
        """The member `name`, which has to be in the inventory (see Inventory.member for
        names from outside).
        """
        return next(member for member in self.members if member.name == name)

    def cluster(self, *, timeout: float = 1.0) -> ClusterState:
        """The cluster, from the first member that answers within `timeout` seconds each.
        Raises Unreachable.
        """
        return self.ask(lambda member: member.cluster(timeout=timeout))

    def history(self, *, timeout: float = 1.0) -> tuple[HistoryEntry, ...]:
        return self.ask(lambda member: member.history(timeout=timeout))

    def config(self, *, timeout: float = 1.0) -> dict[str, Any]:
        return self.ask(lambda member: member.config(timeout=timeout))

    def paused(self, *, timeout: float = 1.0) -> bool:
        """Whether Patroni is in maintenance mode (automatic failover is off)."""
        return bool(self.config(timeout=timeout).get("pause"))

    def ask(self, question: Callable[[PatroniMember], T]) -> T:
        """The answer of the first member that gives one. Raises Unreachable naming every member's trouble."""
        troubles = []
        for member in list(self._order):
            try:
                answer = question(member)
            except (Unreachable, Failed) as error:
                troubles.append(f"{member.name}: {error.message}")
                continue
            self._order.remove(member)
            self._order.insert(0, member)
            return answer
        raise Unreachable(
            "no Patroni member answers (" + "; ".join(troubles) + ")", hint="see: wmsctl status"
        )

    def close(self) -> None:
        for member in self.members:
            member.close()


def member_client(
    inventory: Inventory, secrets: Secrets, member: Member, *, timeout: float = 3.0
) -> PatroniMember:
    """The client of one member."""
    login = inventory.postgres.api
    http = Http(
        f"Patroni on {member.node}",
        member.address,
        member.api_port,
        ca=inventory.ca,
        auth=(login.user, secrets.of(login)),
        timeout=timeout,
    )
    return PatroniMember(member, http)


def parse_cluster(document: Mapping[str, Any], source: str) -> ClusterState:
    """GET /cluster → ClusterState. An unknown lag ("unknown" or absent) becomes None."""
    scheduled = document.get("scheduled_switchover")
    return ClusterState(
        scope=str(document.get("scope", "")),
        members=tuple(_member(entry) for entry in document["members"]),
        paused=bool(document.get("pause")),
        scheduled=ScheduledSwitchover(scheduled["at"], scheduled.get("from", ""), scheduled.get("to", ""))
        if scheduled
        else None,
        source=source,
    )


def _member(entry: Mapping[str, Any]) -> MemberState:
    return MemberState(
        name=entry["name"],
        role=entry["role"],
        state=entry.get("state", ""),
        address=entry.get("host", ""),
        port=int(entry.get("port", 0)),
        timeline=_number(entry.get("timeline")),
        lag=_number(entry.get("lag")),
        receive_lag=_number(entry.get("receive_lag")),
        replay_lag=_number(entry.get("replay_lag")),
        receive_lsn=_lsn(entry.get("receive_lsn")),
        replay_lsn=_lsn(entry.get("replay_lsn")),
        pending_restart=bool(entry.get("pending_restart")),
        tags=entry.get("tags") or {},
    )


def parse_history(document: list[list[Any]]) -> tuple[HistoryEntry, ...]:
    """GET /history: [[timeline, lsn, reason, timestamp?, new leader?], …]."""
    return tuple(
        HistoryEntry(int(row[0]), int(row[1]), str(row[2]), *(str(value or "") for value in row[3:5]))
        for row in document
    )


def parse_status(document: Mapping[str, Any], name: str) -> MemberStatus:
    """GET /patroni → MemberStatus."""
    xlog = document.get("xlog") or {}
    return MemberStatus(
        name=name,
        role={"master": "primary"}.get(document.get("role", ""), document.get("role", "")),
        state=document.get("state", ""),
        timeline=_number(document.get("timeline")),
        wal=_number(xlog.get("location")),
        received=_number(xlog.get("received_location")),
        replayed=_number(xlog.get("replayed_location")),
        replay_paused=xlog.get("paused"),
        synchronous=bool(document.get("sync_standby") or document.get("quorum_standby")),
        cluster_unlocked=bool(document.get("cluster_unlocked")),
        failsafe=bool(document.get("failsafe_mode_is_active")),
        paused=bool(document.get("pause")),
        server_version=_number(document.get("server_version")),
        pending_restart=bool(document.get("pending_restart")),
        dcs_last_seen=_number(document.get("dcs_last_seen")),
    )


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _lsn(value: Any) -> str:
    return value if isinstance(value, str) and value != "unknown" else ""
