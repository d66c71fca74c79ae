"""What `wmsctl status` looks at, as plain data (document wmsctl.status/v1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wmsctl.clients.etcd import StoreMember
from wmsctl.clients.prometheus import Alert
from wmsctl.replication import ClusterView


@dataclass(frozen=True)
class DatabasePool:
    """All users' pools of one database on one PgBouncer, added up."""

    database: str
    clients_active: int
    clients_waiting: int
    servers_active: int
    servers_idle: int
    max_wait_ms: int
    paused: bool


@dataclass(frozen=True)
class PoolerView:
    node: str
    reachable: bool
    pools: tuple[DatabasePool, ...] = ()
    trouble: str = ""


@dataclass(frozen=True)
class Backend:
    """One way through a HAProxy: `up` of `servers` servers take connections there (of a write way exactly one
    does).
    """

    name: str
    up: int
    servers: int
    sessions: int


@dataclass(frozen=True)
class ProxyView:
    node: str
    reachable: bool
    backends: tuple[Backend, ...] = ()
    trouble: str = ""


@dataclass(frozen=True)
class RedisNodeView:
    """A Redis node by its own account. `role` is master, replica or unknown."""

    node: str
    reachable: bool
    role: str = "unknown"
    slots: int = 0
    state: str = ""
    """What this node thinks of the cluster: ok or fail."""
    link_up: bool = True
    """A replica's link to its master."""
    trouble: str = ""


@dataclass(frozen=True)
class RedisView:
    """The cache. `slots_served` counts the slots that reachable masters claim; a whole
    cluster serves 16384.
    """

    state: str
    slots_served: int
    masters: int
    masters_expected: int
    nodes: tuple[RedisNodeView, ...]


@dataclass(frozen=True)
class Check:
    """An HTTP health check. `status` is 0 without an answer."""

    kind: Literal["edge", "gateway", "service", "store"]
    node: str
    ok: bool
    status: int
    ms: int
    """Until the whole answer was there, TLS included."""
    trouble: str = ""


@dataclass(frozen=True)
class Alerts:
    reachable: bool
    firing: tuple[Alert, ...] = ()
    trouble: str = ""


@dataclass(frozen=True)
class Limits:
    """The thresholds that the verdict is by."""

    lag_ms: int
    lag_bytes: int
    synchronous_nodes: int
    pool_wait_ms: int = 1000
    """A client that waits longer for a server connection than this makes the platform degraded."""


@dataclass(frozen=True)
class Snapshot:
    """The platform at one moment. A part that the inventory does not have is None (or empty)."""

    at: str
    took_ms: int
    context: str
    platform: str
    environment: str
    write_database: str
    limits: Limits
    cluster: ClusterView
    store: tuple[StoreMember, ...]
    """etcd."""
    poolers: tuple[PoolerView, ...]
    proxies: tuple[ProxyView, ...]
    redis: RedisView | None
    web: tuple[Check, ...]
    alerts: Alerts | None
