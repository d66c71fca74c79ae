"""What a failover is decided on: the cluster, the store, the poolers and the journal at one moment. Data
only.

WAL positions and lags are in bytes, times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class MemberView:
    """One PostgreSQL member: what it says of itself, and what the primary says of it."""

    name: str
    answers: bool = True
    """Its Patroni agent answers."""
    trouble: str = ""
    """Why it does not."""
    role: str = "replica"
    """primary, standby_leader or replica, by its own account."""
    state: str = "running"
    timeline: int | None = None
    received: int | None = None
    replayed: int | None = None
    wal: int | None = None
    """A primary's flush position."""
    replay_paused: bool = False
    streaming: bool = False
    sync_state: str = ""
    """quorum, sync, potential or async, as the primary's walsender has it."""
    flush_lag: int | None = None
    replay_lag: int | None = None
    priority: int = 1
    """Patroni's failover_priority: among equally advanced members the highest wins."""
    nofailover: bool = False
    sql: bool | None = None
    """Whether its PostgreSQL answers a query; None when not asked."""
    heartbeat_age: float | None = None
    """Age of the newest heartbeat row that it has."""

    @property
    def running(self) -> bool:
        """Its agent answers and reports a running PostgreSQL."""
        return self.answers and self.state in ("running", "streaming")

    @property
    def position(self) -> int:
        """How far its WAL reaches; -1 when unknown. The same measure as in Patroni's race: the larger of
        received and replayed.
        """
        return max(self.received or -1, self.replayed or -1, self.wal or -1)


@dataclass(frozen=True)
class SyncView:
    """Patroni's /sync key: whose commits were confirmed by whom.

    Any `quorum` + 1 of the voters (or the leader itself) together hold every acknowledged commit: with
    `ANY k OF n` in synchronous_standby_names, quorum = n - k.
    """

    leader: str
    voters: frozenset[str]
    quorum: int


@dataclass(frozen=True)
class LeaderKey:
    """The leader's lock in the store, as of one revision."""

    holder: str
    revision: int
    lease_left: float | None = None
    """Until it expires unless renewed."""


@dataclass(frozen=True)
class StoreView:
    """The DCS by linearizable reads."""

    answers: bool = True
    trouble: str = ""
    leader: LeaderKey | None = None
    sync: SyncView | None = None
    failover_pending: bool = False
    """A /failover key exists: some switchover is under way or scheduled."""
    optime: int | None = None
    """The last WAL position that a leader reported."""


@dataclass(frozen=True)
class PoolerView:
    name: str
    answers: bool = True
    trouble: str = ""
    databases: tuple[str, ...] = ()
    paused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unfinished:
    """An operation that the journal holds open."""

    id: str
    kind: str
    started: str


@dataclass(frozen=True)
class Snapshot:
    members: tuple[MemberView, ...]
    store: StoreView
    poolers: tuple[PoolerView, ...] = ()
    paused: bool = False
    """Patroni is in maintenance mode."""
    synchronous_nodes: int = 2
    ttl_s: float = 20
    write_database: str = "wms"
    proxies: tuple[str, ...] = ()
    unfinished: tuple[Unfinished, ...] = ()
    powered_off: frozenset[str] = frozenset()
    """Nodes that are fenced."""
    power_control: bool = True
    """Whether nodes of this platform can be powered by wmsctl."""
    last_promotion_age: float | None = None
    """Since the newest change of the timeline, None when unknown."""
    notes: tuple[str, ...] = field(default=())
    """What could not be observed and does not matter for the decision."""

    def member(self, name: str) -> MemberView | None:
        return next((member for member in self.members if member.name == name), None)

    @property
    def names(self) -> str:
        return ", ".join(member.name for member in self.members)
