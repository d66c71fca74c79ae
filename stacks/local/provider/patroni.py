"""What the provider needs of Patroni's REST API: who leads, switching over, the dynamic configuration,
restarts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stacks.local.provider.errors import DeadlineExceeded, ProviderError, Unreachable
from stacks.local.provider.waiting import pause, until
from stacks.local.provider.web import Answer, expect, request

SYNC_ROLES = frozenset({"sync_standby", "quorum_standby"})
"""Standbys that are certain to have every acknowledged commit (Patroni: replication modes)."""
SWITCHOVER_SECONDS = 90.0
STREAM_SECONDS = 30.0
RESTART_ROUNDS = 3
"""A standby may be able to follow only after the leader has restarted, and have read of it only one round later."""


@dataclass(frozen=True)
class Access:
    """How to speak to one cluster: the REST URLs of its members and the credentials for writes."""

    urls: tuple[str, ...]
    ca: str = ""
    user: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"Access({', '.join(self.urls)})"

    def ask(self, method: str, path: str, body: Any = None, url: str = "", seconds: float = 10.0) -> Answer:
        """One request to `url`, or to the first member that answers. Raises Unreachable when none does."""
        last: Unreachable | None = None
        for each in (url,) if url else self.urls:
            try:
                return request(
                    method,
                    f"{each.rstrip('/')}{path}",
                    ca=self.ca,
                    user=self.user,
                    password=self.password,
                    body=body,
                    seconds=seconds,
                )
            except Unreachable as error:
                last = error
        raise last or ProviderError("no member is given")


@dataclass(frozen=True)
class Member:
    """One member as GET /cluster shows it."""

    name: str
    role: str
    state: str
    url: str
    lag: int
    pending_restart: bool

    @property
    def leads(self) -> bool:
        """Whether it holds the leader role."""
        return self.role in ("leader", "standby_leader")

    @property
    def runs(self) -> bool:
        """Whether its PostgreSQL serves (a standby: streams or at least replays)."""
        return self.state in ("running", "streaming", "in archive recovery")


@dataclass(frozen=True)
class Cluster:
    """GET /cluster."""

    members: tuple[Member, ...]
    paused: bool

    @property
    def leader(self) -> Member | None:
        """The leader, or None while there is none."""
        return next((member for member in self.members if member.leads), None)

    def member(self, name: str) -> Member | None:
        """The member called `name`."""
        return next((member for member in self.members if member.name == name), None)


def cluster_of(body: Any) -> Cluster:
    """A Cluster from the body of GET /cluster."""
    members = tuple(
        Member(
            name=each["name"],
            role=each.get("role", ""),
            state=each.get("state", ""),
            url=base(each.get("api_url", "")),
            lag=each["lag"]
            if isinstance(each.get("lag"), int)
            else 0
            if each.get("role") == "leader"
            else 2**63,
            pending_restart=bool(each.get("pending_restart")),
        )
        for each in body.get("members", ())
    )
    return Cluster(members, bool(body.get("pause")))


def base(api_url: str) -> str:
    """The REST URL without its path: members publish …/patroni."""
    return api_url.removesuffix("/patroni")


def view(access: Access) -> Cluster:
    """The cluster as the first answering member sees it. Raises Unreachable."""
    return cluster_of(expect(access.ask("GET", "/cluster"), "asking Patroni for its members", 200))


def candidate(cluster: Cluster, leader: str) -> Member | None:
    """The synchronous standby that runs and lags least, for a planned switchover; None when there is none."""
    able = [m for m in cluster.members if m.name != leader and m.role in SYNC_ROLES and m.runs]
    return min(able, key=lambda member: (member.lag, member.name), default=None)


def relieve(access: Access, name: str) -> str:
    """Hand the leader role from `name` to a synchronous standby and wait until the former leader follows.

    Returns the new leader's name; "" when `name` does not lead or is the only member. Raises ProviderError
    when no synchronous standby runs, or when Patroni refuses, or after SWITCHOVER_SECONDS.
    """
    cluster = view(access)
    if cluster.leader is None or cluster.leader.name != name or len(cluster.members) == 1:
        return ""
    chosen = candidate(cluster, name)
    if chosen is None:
        raise ProviderError(
            f"{name} leads and no synchronous standby runs that could take over",
            "Bring a standby back (wmsctl status shows them), then run pulumi up again",
        )
    answer = access.ask(
        "POST", "/switchover", {"leader": name, "candidate": chosen.name}, seconds=SWITCHOVER_SECONDS
    )
    # 202: accepted, and the outcome not waited for.
    expect(answer, f"switchover from {name} to {chosen.name}", 200, 202)

    def settled() -> bool:
        try:
            now = view(access)
        except Unreachable:
            return False
        old = now.member(name)
        return now.leader is not None and now.leader.name == chosen.name and old is not None and old.runs

    until(
        settled,
        seconds=SWITCHOVER_SECONDS,
        interval=0.5,
        what=f"the switchover from {name} to {chosen.name}",
        do="Look at wmsctl status, then run pulumi up again",
    )
    return chosen.name


def patch(current: Any, wanted: Any) -> Any:
    """The body of PATCH /config that turns the managed part of `current` into `wanted`; {} when it is so
    already.

    Lists are replaced as wholes, as Patroni does. Pure.
    """
    changes: dict[str, Any] = {}
    for key, value in wanted.items():
        there = current.get(key) if isinstance(current, dict) else None
        if isinstance(value, dict):
            inner = patch(there if isinstance(there, dict) else {}, value)
            if inner or not isinstance(there, dict):
                changes[key] = inner
        elif not same(there, value):
            changes[key] = value
    return changes


def dropped(old: Any, new: Any) -> dict[str, Any]:
    """Nulls for what `old` managed and `new` no longer does: how PATCH /config removes keys. Pure."""
    nulls: dict[str, Any] = {}
    for key, value in old.items():
        if key not in new:
            nulls[key] = None
        elif isinstance(value, dict) and isinstance(new[key], dict):
            inner = dropped(value, new[key])
            if inner:
                nulls[key] = inner
    return nulls


def present(nulls: dict[str, Any], current: Any) -> dict[str, Any]:
    """Those of `nulls` that `current` still has: the others are gone already. Pure."""
    left: dict[str, Any] = {}
    for key, value in nulls.items():
        if isinstance(current, dict) and key in current:
            inner = present(value, current[key]) if isinstance(value, dict) else None
            if inner or not isinstance(value, dict):
                left[key] = inner
    return left


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Both, deeply; `second` wins. Pure."""
    result = dict(first)
    for key, value in second.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


def managed(current: Any, wanted: Any) -> dict[str, Any]:
    """The part of `current` whose keys `wanted` manages. Values that mean the same are
    given as wanted. Pure.
    """
    found: dict[str, Any] = {}
    for key, value in wanted.items():
        if not isinstance(current, dict) or key not in current:
            continue
        there = current[key]
        if isinstance(value, dict) and isinstance(there, dict):
            found[key] = managed(there, value)
        else:
            found[key] = value if same(there, value) else there
    return found


def same(first: Any, second: Any) -> bool:
    """Whether Patroni takes two values as one: 100 and "100", true and "on" are the same parameter."""
    if isinstance(first, dict | list) or isinstance(second, dict | list) or first is None or second is None:
        return bool(first == second)
    return first == second or spelled(first) == spelled(second)


def spelled(value: Any) -> str:
    """A scalar as PostgreSQL would spell it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    text = str(value).strip().lower()
    return {"true": "on", "yes": "on", "false": "off", "no": "off"}.get(text, text)


HOT_STANDBY = {
    "max_connections": 100,
    "max_worker_processes": 8,
    "max_wal_senders": 10,
    "max_prepared_transactions": 0,
    "max_locks_per_transaction": 64,
}
"""Settings that a standby must not have lower than its primary (PostgreSQL: hot standby), with the values that
Patroni gives them when its configuration names none.
"""


def lowers(current: Any, wanted: Any) -> bool:
    """Whether one of HOT_STANDBY gets lower: then the leader has to restart first, and standbys after it.
    Pure.
    """
    old, new = (
        ((each.get("postgresql") or {}).get("parameters") or {}) if isinstance(each, dict) else {}
        for each in (current, wanted)
    )
    return any(
        str(new.get(name, "")).isdigit() and int(new[name]) < number(old.get(name), default)
        for name, default in HOT_STANDBY.items()
    )


def number(value: Any, default: int) -> int:
    """`value` as a whole number, else `default`."""
    return int(value) if str(value).isdigit() else default


def restart_order(members: Sequence[Member], leader_first: bool = False) -> list[Member]:
    """Those that wait for a restart: replicas first and the leader last, unless `leader_first`. Pure."""
    return sorted(
        (m for m in members if m.pending_restart), key=lambda m: (m.leads is not leader_first, m.name)
    )


def restart_pending(access: Access, settle: float, seconds: float, leader_first: bool = False) -> list[str]:
    """Restart PostgreSQL on every member that has a pending restart, one by one, in `restart_order`.

    `settle`: how long to wait for members to notice the new configuration (two loops). Returns their names.
    Raises ProviderError when one does not come back within `seconds`, or still waits for a restart after all.
    """
    done: list[str] = []
    for _ in range(RESTART_ROUNDS):
        pause(settle)
        waiting = restart_order(view(access).members, leader_first)
        for member in waiting:
            restart(access, member, seconds)
            done.append(member.name)
        if not waiting:
            return done
        # A standby learns from the stream that its primary's limits are lower now: one that does not stream yet
        # would keep the old ones through its restart. One that never streams is the next round's to tell.
        with contextlib.suppress(DeadlineExceeded):
            until(lambda: flows(access), seconds=STREAM_SECONDS, interval=0.2, what="streaming", do="")
    pause(settle)
    left = [member.name for member in view(access).members if member.pending_restart]
    if left:
        raise ProviderError(
            f"PostgreSQL on {', '.join(left)} was restarted and still waits for a restart",
            "GET /patroni of that member tells which settings; see its log",
        )
    return done


def flows(access: Access) -> bool:
    """Whether every standby streams from its leader."""
    try:
        return all(member.leads or member.state == "streaming" for member in view(access).members)
    except Unreachable:
        return False


def restart(access: Access, member: Member, seconds: float) -> None:
    """Restart PostgreSQL on one member and wait until it serves again. Raises ProviderError."""
    answer = access.ask("POST", "/restart", {"restart_pending": True}, url=member.url, seconds=seconds)
    # 503: it does not wait for a restart any more.
    expect(answer, f"restarting PostgreSQL on {member.name}", 200, 202, 503)

    def back() -> bool:
        try:
            found = view(access).member(member.name)
        except Unreachable:
            return False
        return found is not None and found.runs

    until(
        back,
        seconds=seconds,
        interval=0.5,
        what=f"the restart of PostgreSQL on {member.name}",
        do="Its log tells why; the members after it were left alone",
    )
